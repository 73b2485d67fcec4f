"""A bundle as OpenVINO serves it: exported once in an environment of its own, and admitted by gates or not."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from forgeline.config.schema.serve import Signing
from forgeline.config.schema.serve.engine import OpenvinoWeights
from forgeline.errors import ServingError
from forgeline.models import LanguageModel
from forgeline.serving import variant as variants
from forgeline.serving.bundle import NOBODY, Manifest
from forgeline.serving.engines.environment import packaged, release
from forgeline.serving.variant import Form, Variant

RELEASE = "2.2.0"  # of optimum-intel; deploy/openvino holds the locked environment
KINDS = {"fp32": "fp32", "int8": "int8_asym", "int4": "int4_asym"}  # by what serve.engine.weights calls them
LAST_WORDS = 500  # characters
LOCK = "deploy/openvino/requirements.lock"


def form(weights: OpenvinoWeights) -> Form:
    """Return the form of a variant in these weights."""
    return Form("openvino", KINDS[weights], RELEASE)


def runtime() -> str:
    """Return the package that serves here, and its release.

    Raises:
        ServingError: if it is not installed.
    """
    return packaged("openvino-genai", "openvino")


def export(
    bundle: Path,
    manifest: Manifest,
    root: Path,
    environment: Path,
    signing: Signing = NOBODY,
    weights: OpenvinoWeights = "int8",
) -> Path:
    """Return the folder of a verified bundle's variant, which is made if it is not there (`variant.make`).

    The adapter is merged into the base model before the weights are cut.

    Raises:
        ServingError: if the exporter's environment is not there or holds another release, if the bundle cannot be
            exported, or if a variant that is there was altered.
    """
    wanted = form(weights)
    if not wanted.folder(bundle, manifest).is_dir():
        _check(environment, manifest)

    def write(language_model: LanguageModel, out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as merged:
            language_model.model.save_pretrained(merged)
            _run(environment, Path(merged), out, wanted.weights)

    return variants.make(wanted, bundle, manifest, root, write, signing)


def admitted(
    bundle: Path, manifest: Manifest, signing: Signing = NOBODY, weights: OpenvinoWeights = "int8"
) -> tuple[Path, Variant]:
    """Return the folder of a verified bundle's variant and what it says, if it may serve here.

    Raises:
        ServingError: if there is none, it was altered, or no verdict on these very files and this release of OpenVINO
            says that it may.
    """
    folder, remedy = form(weights).folder(bundle, manifest), "run `forgeline deploy --set serve.engine.name=openvino`"
    if not folder.is_dir():
        raise ServingError(f"{bundle} was not exported for OpenVINO ({folder} does not exist): {remedy}.")
    variant, admission = variants.verify(folder, manifest, signing), variants.known(folder)
    if admission is None or (admission.variant, admission.runtime) != (variant.digest, runtime()):
        raise ServingError(
            f"Nothing says that {folder} may serve under {runtime()}: its replies were not compared with the "
            f"bundle's own; {remedy}, which does."
        )
    if not admission.verdicts or admission.refusal:
        raise ServingError(f"{folder} may not serve: {admission.refusal or 'no gate judged it'}.")
    return folder, variant


def _run(environment: Path, merged: Path, out: Path, weights: str) -> None:
    """Export a model in the exporter's environment."""
    # Isolated: the modules beside the script have the names of packages that it needs.
    script = str(Path(__file__).with_name("openvino_export.py"))
    command = [str(environment / "bin" / "python"), "-I", script, str(merged), str(out), weights]
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
