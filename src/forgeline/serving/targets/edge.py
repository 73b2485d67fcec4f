"""The target `edge`: a folder to copy to a device that has Node and no Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.lineage import file_digest
from forgeline.serving import variant as variants
from forgeline.serving.edge import package as edge
from forgeline.serving.targets import Check, Job, Plan, Running, forget, refuse, remember, remembered

NAME = "edge"
PACKAGES = Path(".forgeline/edge")
AGAIN = "run `forgeline optimise`"


class Edge:
    """The target `edge`. Its smoke test is the variant's admission: every test prompt was answered by these weights."""

    tried = "run for real: packaged, and its runner asked"

    def plan(self, job: Job) -> Plan:
        """Return the package's texts; weights, tokenizer and digests are written beside them."""
        weights = job.config.serve.targets.edge.weights
        folder = edge.form(weights).folder(job.bundle, job.manifest)
        if not folder.is_dir():
            refuse(NAME, [f"targets.edge.weights: no variant in {weights} was made of {job.bundle}: {AGAIN}"])
        variant, admission = variants.verify(folder, job.manifest, job.config.serve.signing), variants.known(folder)
        if admission is None or admission.variant != variant.digest or not admission.verdicts:
            refuse(NAME, [f"targets.edge.weights: {weights} was not compared with the bundle: {AGAIN}"])
        if admission.refusal:
            refuse(NAME, [f"targets.edge.weights: {weights} may not serve: {admission.refusal}"])
        texts = edge.texts(job.manifest)
        checks = [
            Check(f"{edge.MODEL} in {weights}", f"policy.admission: {admission.verdicts[0].reason}"),
            Check("package.json", f"the release that was run: node-llama-cpp {edge.NODE_LLAMA}"),
        ]
        if shutil.which("node"):
            _check_script(edge.RUNNER)
            checks.append(Check("run.mjs", "node --check"))
        package = PACKAGES / f"{job.manifest.lineage.model}-{job.manifest.lineage.version}-{weights}"
        acts = (f"write {package} with {edge.MODEL}, tokenizer.json, chat_template.jinja and {edge.MANIFEST}",)
        return Plan(files=texts, checks=tuple(checks), acts=acts)

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Write the package; an older one of this version is replaced once the new one is whole."""
        config, weights, lineage = job.config, job.config.serve.targets.edge.weights, job.manifest.lineage
        variant = variants.verify(edge.form(weights).folder(job.bundle, job.manifest), job.manifest)
        place = config.root / PACKAGES / f"{lineage.model}-{lineage.version}-{weights}"
        fresh = place.with_name(f"{place.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        edge.package(job.bundle, fresh, config.root, weights, config.data.fetch.system or "", config.serve.signing)
        if file_digest(fresh / edge.MODEL) != variant.files[edge.MODEL]:
            shutil.rmtree(fresh)
            raise ServingError(f"{edge.MODEL} differs from the variant that was admitted: {AGAIN}.")
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        facts = {"folder": str(place), "version": lineage.version, "digest": job.manifest.digest, "weights": weights}
        remember(config.root, NAME, facts)
        return facts

    def status(self, root: Path) -> Running | None:
        """Return whether the package is whole."""
        facts = remembered(root, NAME)
        if facts is None:
            return None
        folder = Path(facts["folder"])
        if not (folder / edge.MANIFEST).is_file():
            return Running(health="gone", version=facts["version"], facts=facts)
        files = json.loads((folder / edge.MANIFEST).read_text(encoding="utf-8"))["files"]
        whole = all(
            (folder / name).is_file() and file_digest(folder / name) == digest for name, digest in files.items()
        )
        return Running(health="ready" if whole else "not ready", version=facts["version"], facts=facts)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield nothing: what runs, runs on the device."""
        return iter(())

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete the package here; copies on devices stay."""
        facts = remembered(root, NAME)
        if facts is None:
            return None
        shutil.rmtree(facts["folder"], ignore_errors=True)
        forget(root, NAME)
        return {"folder": facts["folder"]}


def _check_script(path: Path) -> None:
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServingError(f"{path.name} of the edge package is no script: {done.stderr.strip()}")
