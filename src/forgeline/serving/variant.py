"""A variant of a bundle: the same model in another form, named by what it is made of, and admitted by gates or not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.lineage import file_digest, value_digest
from forgeline.models import LanguageModel
from forgeline.records import write_json
from forgeline.serving import signing as signatures
from forgeline.serving.bundle import NOBODY, Manifest, load
from forgeline.serving.signing import SIGNATURE

VARIANT = "variant.json"
ADMISSION = "admission.json"
TRIAL = "trial.json"  # what it costs, by `forgeline optimise`
BESIDE = {VARIANT, ADMISSION, TRIAL, SIGNATURE}  # what is written after the variant's own files


class Variant(BaseModel):
    """What a variant holds and was made of; `digest` covers every other field, `files` the model's files.

    `exporter` is what made it and in which release, `context` how many tokens prompt and reply may have, and `stop_ids`
    are the tokens that end a reply.
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

    `variant` is its digest and `runtime` the release of what runs it. `measured` identifies prompts and settings,
    `values` are of the variant's replies, and `differences` of them to the bundle's own: estimates of
    `forgeline.evaluation`, which would be slow to import for a server. `replies` are what it said to the parity
    prompts, each asked alone.
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


@dataclass(frozen=True)
class Form:
    """What a bundle's model is turned into: `name` says for what, `weights` how, `exporter` by which release."""

    name: str
    weights: str
    exporter: str

    def folder(self, bundle: Path, manifest: Manifest) -> Path:
        """Return where a bundle's variant of this form lies, or would lie: beside it."""
        key = value_digest([manifest.digest, self.exporter, self.weights])
        return bundle.resolve().parent / f"{manifest.digest[:16]}-{self.name}-{key[:8]}"


def make(
    form: Form,
    bundle: Path,
    manifest: Manifest,
    root: Path,
    write: Callable[[LanguageModel, Path], None],
    signing: Signing = NOBODY,
) -> Path:
    """Return the folder of a verified bundle's variant, which is made if it is not there, whole or not at all.

    `write` is given the bundle's model, with its adapter merged into the base that is found below `root`, and a folder
    that is not there yet. With `signing.key` the variant is signed, as its bundle is.

    Raises:
        ServingError: if the variant cannot be made, or if one that is there was altered.
    """
    folder = form.folder(bundle, manifest)
    if folder.is_dir():
        verify(folder, manifest, signing)
        return folder
    if manifest.method == "qlora":
        raise ServingError("An adapter on weights of 4 or 8 bits cannot be merged: its bundle has no other form.")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as name:
        out = Path(name) / "variant"
        language_model = load(bundle, root, manifest)
        settings = language_model.model.config.get_text_config()
        context, stop_ids = settings.max_position_embeddings, language_model.stop_ids
        write(language_model, out)
        del language_model
        variant = Variant(
            bundle=manifest.digest,
            exporter=form.exporter,
            weights=form.weights,
            context=context,
            stop_ids=stop_ids,
            files={path: file_digest(out / path) for path in _files(out)},
        )
        variant = variant.model_copy(update={"digest": variant.expected_digest()})
        write_json(out / VARIANT, variant.model_dump(mode="json"))
        for path in _files(out):
            (out / path).chmod(0o444)
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
    found = {*_files(folder)} - BESIDE
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


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
