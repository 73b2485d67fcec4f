"""A bundle as OpenVINO serves it: exported once, named by what it is made of, and admitted by gates or not."""

from __future__ import annotations

import os
import subprocess
import tempfile
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.lineage import file_digest, value_digest
from forgeline.records import write_json
from forgeline.serving import signing as signatures
from forgeline.serving.bundle import NOBODY, Manifest, load
from forgeline.serving.engines.environment import release
from forgeline.serving.signing import SIGNATURE

RELEASE = "2.2.0"  # of optimum-intel; deploy/openvino holds the locked environment
WEIGHTS = "int8_asym"
VARIANT = "variant.json"
ADMISSION = "admission.json"
LAST_WORDS = 500  # characters
LOCK = "deploy/openvino/requirements.lock"


class Variant(BaseModel):
    """What an exported bundle holds and was made of; `digest` covers every other field, `files` the model's files.

    `context` is how many tokens prompt and reply may have, `stop_ids` are the tokens that end a reply.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    bundle: str
    exporter: str
    weights: str
    context: int
    stop_ids: list[int]
    files: dict[str, str]
    digest: str = ""

    def expected_digest(self) -> str:
        """Return what `digest` must be for the fields as they stand."""
        return value_digest(self.model_dump(mode="json", exclude={"digest"}))


class Held(BaseModel):
    """One admission gate's outcome on a variant, and the sentence that explains it."""

    gate: str
    outcome: Literal["pass", "fail", "unknown"]
    reason: str


class Admission(BaseModel):
    """What was measured of a variant, and whether it may serve.

    `variant` is its digest and `runtime` OpenVINO's release. `measured` identifies prompts and settings, `values` are
    of the variant's replies, and `differences` of them to the bundle's own: estimates of `forgeline.evaluation`, which
    would be slow to import for a server. `replies` are what it said to the parity prompts, each asked alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    variant: str
    runtime: str
    measured: str
    values: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    replies: list[str]
    verdicts: list[Held] = []

    @property
    def refusal(self) -> str | None:
        """Why it may not serve, or None."""
        return "; ".join(held.reason for held in self.verdicts if held.outcome != "pass") or None


def folder_of(bundle: Path, manifest: Manifest) -> Path:
    """Return where a bundle's variant lies, or would lie: beside it."""
    key = value_digest([manifest.digest, RELEASE, WEIGHTS])
    return bundle.resolve().parent / f"{manifest.digest[:16]}-openvino-{key[:8]}"


def runtime() -> str:
    """Return the release of OpenVINO that serves here.

    Raises:
        ServingError: if it is not installed.
    """
    from importlib.metadata import PackageNotFoundError

    try:
        return installed("openvino-genai")
    except PackageNotFoundError:
        raise ServingError("OpenVINO is not installed: pip install 'forgeline[openvino]'.") from None


def export(bundle: Path, manifest: Manifest, root: Path, environment: Path, signing: Signing = NOBODY) -> Path:
    """Return the folder of a verified bundle's variant, which is made if it is not there, whole or not at all.

    The adapter is merged into the base model, which is found below `root`, before the weights are cut to 8 bits. With
    `signing.key` the variant is signed, as its bundle is.

    Raises:
        ServingError: if the exporter's environment is not there or holds another release, if the bundle cannot be
            exported, or if a variant that is there was altered.
    """
    folder = folder_of(bundle, manifest)
    if folder.is_dir():
        verify(folder, manifest, signing)
        return folder
    _check(environment, manifest)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as name:
        merged, out = Path(name) / "merged", Path(name) / "variant"
        language_model = load(bundle, root, manifest)
        language_model.model.save_pretrained(merged)
        settings = language_model.model.config.get_text_config()
        context, stop_ids = settings.max_position_embeddings, language_model.stop_ids
        del language_model
        _run(environment, merged, out)
        variant = Variant(
            bundle=manifest.digest,
            exporter=RELEASE,
            weights=WEIGHTS,
            context=context,
            stop_ids=stop_ids,
            files={path.name: file_digest(path) for path in sorted(out.iterdir())},
        )
        variant = variant.model_copy(update={"digest": variant.expected_digest()})
        write_json(out / VARIANT, variant.model_dump(mode="json"))
        for path in out.iterdir():
            path.chmod(0o444)
        if signing.key:
            signatures.sign(out / VARIANT, signing)
        os.replace(out, folder)
    return folder


def verify(folder: Path, manifest: Manifest, signing: Signing = NOBODY) -> Variant:
    """Return what a variant says of itself, if it is intact, of this bundle and signed as `signing` asks.

    Raises:
        ServingError: if nobody vouches for it who must, or naming the first file that is missing, added or altered.
    """
    remedy = f"Delete {folder} and deploy again."
    try:
        content = (folder / VARIANT).read_bytes()
        signatures.check(folder / VARIANT, content, signing)
        variant = Variant.model_validate_json(content)
    except (OSError, ValidationError):
        raise ServingError(f"{folder / VARIANT} is missing or unreadable. {remedy}") from None
    if (variant.digest, variant.bundle) != (variant.expected_digest(), manifest.digest):
        raise ServingError(f"{folder / VARIANT} was altered, or is of another bundle. {remedy}")
    found = {path.name for path in folder.iterdir()} - {VARIANT, ADMISSION, SIGNATURE}
    for name in sorted(found | variant.files.keys()):
        if name not in found or name not in variant.files:
            raise ServingError(f"{folder / name} {'was added' if name in found else 'is missing'}. {remedy}")
        if file_digest(folder / name) != variant.files[name]:
            raise ServingError(f"{folder / name} was altered: its sha256 is not the variant's. {remedy}")
    return variant


def known(folder: Path) -> Admission | None:
    """Return what was measured of a variant, or None if nothing was that this Forgeline reads."""
    try:
        return Admission.model_validate_json((folder / ADMISSION).read_bytes())
    except (OSError, ValidationError):
        return None


def save(folder: Path, admission: Admission) -> None:
    """Write down what was measured of a variant, and whether it may serve."""
    write_json(folder / ADMISSION, admission.model_dump(mode="json"))


def admitted(bundle: Path, manifest: Manifest, signing: Signing = NOBODY) -> tuple[Path, Variant]:
    """Return the folder of a verified bundle's variant and what it says, if it may serve here.

    Raises:
        ServingError: if there is none, it was altered, or no verdict on these very files and this release of OpenVINO
            says that it may.
    """
    folder, remedy = folder_of(bundle, manifest), "run `forgeline deploy --set serve.engine.name=openvino`"
    if not folder.is_dir():
        raise ServingError(f"{bundle} was not exported for OpenVINO ({folder} does not exist): {remedy}.")
    variant, admission = verify(folder, manifest, signing), known(folder)
    if admission is None or (admission.variant, admission.runtime) != (variant.digest, runtime()):
        raise ServingError(
            f"Nothing says that {folder} may serve under OpenVINO {runtime()}: its replies were not compared with the "
            f"bundle's own; {remedy}, which does."
        )
    if not admission.verdicts or admission.refusal:
        raise ServingError(f"{folder} may not serve: {admission.refusal or 'no gate judged it'}.")
    return folder, variant


def _run(environment: Path, merged: Path, out: Path) -> None:
    """Export a model in the exporter's environment."""
    # Isolated: the modules beside the script have the names of packages that it needs.
    script = str(Path(__file__).with_name("openvino_export.py"))
    command = [str(environment / "bin" / "python"), "-I", script, str(merged), str(out)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    if done.returncode:
        raise ServingError(
            "The model cannot be exported for OpenVINO: set serve.engine.name to transformers. The exporter's last "
            f"words: {done.stderr.strip()[-LAST_WORDS:]}"
        )


def _check(environment: Path, manifest: Manifest) -> None:
    """Refuse what cannot be exported before the model is loaded."""
    found = release(environment, "optimum-intel")
    if found != RELEASE:
        raise ServingError(
            f"{environment} holds {f'optimum-intel {found}' if found else 'no optimum-intel'}, not the release "
            f"{RELEASE} that exports for OpenVINO: make it by `python -m venv {environment}` and "
            f"`{environment}/bin/pip install --no-deps -r {LOCK}`."
        )
    instead = "set serve.engine.name to transformers."
    if manifest.method == "qlora":
        raise ServingError(f"An adapter on weights of 4 or 8 bits cannot be merged for OpenVINO: {instead}")
    if manifest.base is not None and manifest.base.trust_remote_code:
        raise ServingError(f"The exporter for OpenVINO runs no code of a model's own: {instead}")
