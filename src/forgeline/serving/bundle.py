"""An immutable folder that can be served anywhere: what was tuned, base reference, settings, lineage."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema import Config, Guards, Method, Model, Sampling, Train
from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.lineage import file_digest, value_digest
from forgeline.models import LanguageModel, base_folder, load_base, load_tuned, load_whole, precision
from forgeline.models.adapter import ADAPTER, ADAPTER_WEIGHTS
from forgeline.prompting import Prompter
from forgeline.records import write_json
from forgeline.serving import signing as signatures
from forgeline.serving.signing import SIGNATURE

MANIFEST = "manifest.json"
TUNED = "tuned"  # the folder of an adapter or a whole model, and of its tokenizer
PAGE = "page.json"  # what the gateway's page is told of the use case
APPROACH = "approach"  # the folder of what every request is rewritten by, if it is
ADAPTER_FILES = (ADAPTER, ADAPTER_WEIGHTS)
NEEDED_MODEL_FILES = ("config.json", "model*.safetensors")
MODEL_FILES = (
    *NEEDED_MODEL_FILES,
    "generation_config.json",
    "model.safetensors.index.json",
    "*.py",  # a model's own code, which only model.trust_remote_code runs
)
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
NOBODY = Signing()  # asks for no signature
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
MAGIC = (
    b"\x80",
    b"PK\x03\x04",
)  # of pickles from protocol 2 on, and of the archives that torch puts them into
PICKLED_WEIGHTS = {"adapter_model", "pytorch_model"}


class Lineage(BaseModel):
    """What a bundle came from; every link of the chain of evidence must be there."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    version: str
    mlflow_run: str
    zenml_run: str
    data_digest: str
    git_revision: str
    config_digest: str


class Manifest(BaseModel):
    """What a bundle holds and came from; `digest` covers every other field, `files` every other file.

    `base` is what was tuned, None if training began from scratch. `base_digest` is of the base's
    weights, without which an adapter is nothing, and of its code if that is run; None if the bundle holds every
    weight itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[3] = 3
    lineage: Lineage
    base: Model | None
    base_digest: str | None
    method: Method
    quantization: Literal["nf4", "int8"]
    dtype: Literal["bfloat16", "float32"]
    sampling: Sampling
    guards: Guards
    files: dict[str, str]
    digest: str = ""

    def expected_digest(self) -> str:
        """Return what `digest` must be for the fields as they stand."""
        return value_digest(self.model_dump(mode="json", exclude={"digest"}))


def build(
    config: Config,
    tuned: Path,
    lineage: dict[str, str],
    folder: Path,
    prompter: Prompter | None = None,
    page: BaseModel | None = None,
) -> Path:
    """Write a bundle of an adapter or a whole model to `folder/<first 16 digits of its digest>/`; return its path.

    With an approach, `prompter`, or what the gateway's `page` is told, the bundle holds that too; of an approach that
    uses the base as it is, `tuned` has the tokenizer alone. It is written whole or not at all. The same content has the
    same digest, so a bundle that is there already is verified and used again.

    Raises:
        ServingError: if what was tuned is incomplete or pickled, a link of the lineage is missing, or
            the bundle cannot be written.
    """
    origin = _lineage(lineage)
    adapted, untuned = (tuned / ADAPTER).is_file(), prompter is not None and prompter.approach.model == "base"
    needs_base = adapted or untuned
    names = ADAPTER_FILES if adapted else () if untuned else MODEL_FILES
    _check_tuned(tuned, names if needs_base else NEEDED_MODEL_FILES)
    base_digest = _weights_digest(config.train.model, config.root) if needs_base else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as name:
            partial = Path(name) / "bundle"
            _copy(tuned, partial / TUNED, names)
            if prompter:
                prompter.save(partial / APPROACH)
            if page:
                write_json(partial / PAGE, page.model_dump(mode="json"))
            if adapted:
                _name_base(partial / TUNED / ADAPTER, config.train.model)
            for path in _files(partial):
                _refuse_code(path)
            manifest = Manifest(
                lineage=origin,
                base=None if config.train.method == "scratch" else config.train.model,
                base_digest=base_digest,
                method=config.train.method,
                quantization=config.train.quantization,
                dtype=precision(config.train),
                sampling=config.serve.sampling,
                guards=config.serve.guards,
                files=_digests(partial),
            )
            manifest = manifest.model_copy(update={"digest": manifest.expected_digest()})
            bundle = folder / manifest.digest[:16]
            if bundle.exists():
                if verify(bundle).digest != manifest.digest:
                    raise ServingError(f"{bundle} is not what its name says: delete it and deploy again.")
                return bundle
            write_json(partial / MANIFEST, manifest.model_dump(mode="json"))
            for path in _files(partial):
                path.chmod(0o444)
            os.replace(partial, bundle)
    except OSError as fault:
        raise ServingError(
            f"The bundle cannot be written below {folder}: {fault.strerror}. Nothing was left there; "
            "make room or choose another disk, and deploy again."
        ) from fault
    return bundle


def verify(path: Path, signing: Signing = NOBODY) -> Manifest:
    """Return the manifest of an intact bundle that is signed as `signing` asks; nothing but the manifest is parsed.

    First the signature, then the manifest's own digest, then every file: its name, kind, digest and first bytes.

    Raises:
        ServingError: saying whose signature is missing or wrong, or naming the first file that is missing, added,
            altered, pickled or a link.
    """
    if not (path / MANIFEST).is_file():
        raise ServingError(f"{path} is not a bundle: {MANIFEST} is missing. Make one with `forgeline deploy`.")
    content = (path / MANIFEST).read_bytes()
    signatures.check(path / MANIFEST, content, signing)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as fault:
        raise ServingError(f"{path / MANIFEST} is not a bundle's manifest: {fault.errors()[0]['msg']}.") from None
    remedy = f"The bundle is no longer what was approved: delete {path} and deploy again."
    if manifest.digest != manifest.expected_digest():
        raise ServingError(f"{path / MANIFEST} was altered: its digest does not follow from its fields. {remedy}")
    _check_names(path, manifest.files.keys(), remedy)
    for name, digest in manifest.files.items():
        if file_digest(path / name) != digest:
            raise ServingError(f"{path / name} was altered: its sha256 is not the manifest's. {remedy}")
        _refuse_code(path / name)
    return manifest


def load(path: Path, root: Path, verified: Manifest | None = None) -> LanguageModel:
    """Return the bundle's model in the recorded precision, with the bundle's own tokenizer.

    A base model that is named by a relative path is found below `root`. What `verify` has just
    returned need not be found out again: hashing takes as long as reading all weights.

    Raises:
        ServingError: if the bundle was altered, or its base model is not the one it was made from.
    """
    manifest = verified or verify(path)
    if manifest.base is None or manifest.base_digest is None:
        own_code = manifest.base is not None and manifest.base.trust_remote_code
        return load_whole(path / TUNED, manifest.dtype, trust_remote_code=own_code)
    verified_base(manifest, root)
    settings = Train(
        model=manifest.base, method=manifest.method, quantization=manifest.quantization, dtype=manifest.dtype
    )
    if f"{TUNED}/{ADAPTER}" not in manifest.files:
        return load_base(settings, root, path / TUNED)
    return load_tuned(settings, path / TUNED, root)


def verified_base(manifest: Manifest, root: Path) -> Path:
    """Return the folder of the base model that a bundle needs; one with a relative path is found below `root`.

    Raises:
        ServingError: if it is not the one that the bundle was made from.
    """
    assert manifest.base is not None  # noqa: S101
    if _weights_digest(manifest.base, root) != manifest.base_digest:
        raise ServingError(
            f"{manifest.base.source} gives other weights than those the bundle of {manifest.lineage.model} version "
            f"{manifest.lineage.version} was made from: restore that source, or deploy again."
        )
    return base_folder(manifest.base, root)


def prompter(path: Path) -> Prompter | None:
    """Return what rewrites every request to a bundle's model, or None; `load` or `verify` must have passed."""
    return Prompter.read(path / APPROACH) if (path / APPROACH).is_dir() else None


def _lineage(lineage: dict[str, str]) -> Lineage:
    try:
        return Lineage.model_validate(lineage)
    except ValidationError as fault:
        links = ", ".join(".".join(map(str, error["loc"])) for error in fault.errors())
        raise ServingError(
            f"A bundle needs every link of its lineage ({', '.join(Lineage.model_fields)}); "
            f"missing or not expected: {links}."
        ) from None


def _check_names(path: Path, named: Set[str], remedy: str) -> None:
    """Refuse a bundle that holds other files than its manifest names, or anything but files; none is read."""
    for file in path.rglob("*"):
        if not stat.S_ISREG(kind := file.lstat().st_mode) and not stat.S_ISDIR(kind):
            raise ServingError(f"{file} is a link or a device, which a bundle never holds. {remedy}")
    found = {file.relative_to(path).as_posix() for file in _files(path)} - {MANIFEST, SIGNATURE}
    for name in sorted(found | named):
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or "\\" in name:
            raise ServingError(f"{path / MANIFEST} names {name}, which lies outside of the bundle. {remedy}")
        if inner.suffix in PICKLES:
            raise ServingError(f"{path / name} may hold pickled code, which a bundle never does. {remedy}")
        if name not in found:
            raise ServingError(f"{path / name} is missing. {remedy}")
        if name not in named:
            raise ServingError(f"{path / name} was added. {remedy}")


def _refuse_code(path: Path) -> None:
    """Refuse a pickle by its content, whatever its name, and weights that do not begin as safetensors do."""
    with path.open("rb") as file:
        head = file.read(9)
    header = int.from_bytes(head[:8], "little")  # the length of a JSON object
    weights = path.suffix == ".safetensors"  # whose first byte, of that length, may be any
    legal = head[8:] == b"{" and header <= path.stat().st_size - 8 if weights else not head.startswith(MAGIC)
    if not legal:
        raise ServingError(
            f"{path} is {'no safetensors file' if weights else 'a pickle or an archive'} by its content, and may hold "
            "code, which a bundle never does: delete the bundle, and save the weights as safetensors."
        )


def _check_tuned(tuned: Path, needed: Iterable[str]) -> None:
    pickled = [path.name for path in _files(tuned) if path.suffix in PICKLES and path.stem in PICKLED_WEIGHTS]
    if pickled:
        raise ServingError(f"{tuned / pickled[0]} may hold pickled code: save the weights as safetensors.")
    for name in (*needed, "tokenizer_config.json", "chat_template.jinja"):
        if not any(tuned.glob(name)):
            raise ServingError(f"{tuned / name} is missing: train the model again.")


def _copy(tuned: Path, target: Path, names: Iterable[str]) -> None:
    target.mkdir(parents=True)
    for pattern in (*names, *TOKENIZER_FILES):
        for path in tuned.glob(pattern):
            shutil.copyfile(path, target / path.name)


def _name_base(adapter: Path, base: Model) -> None:
    """Name in an adapter's settings where its base comes from, wherever it lay on the training machine."""
    settings: dict[str, Any] = json.loads(adapter.read_text(encoding="utf-8"))
    write_json(adapter, {**settings, "base_model_name_or_path": base.source})


def _weights_digest(base: Model, root: Path) -> str:
    folder = base_folder(base, root)
    code = _digests(folder, "*.py") if base.trust_remote_code else {}
    return value_digest(_digests(folder, "*.safetensors") | code)


def _digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder, pattern)}


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
