"""The model catalogue, `configs/models/*.yaml`: what is known of a base model before it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from forgeline.config.schema import License, Positive, Section
from forgeline.errors import ConfigError, nearest

FOLDER = "configs/models"


class Architecture(Section):
    """The sizes of a decoder-only transformer with gated feed-forward layers; `type` is transformers' name for it."""

    type: str
    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive
    tied: bool

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Architecture:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} keys and values evenly")
        return self


class Entry(Section):
    """One base model. `revision` is the full hash of a hub repository's commit; without one it is not pinned.

    `context` is the longest sequence in tokens, `targets` the names of a block's linear layers.
    """

    source: Annotated[str, Field(pattern=r"^(hf|pypi)://")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    license: str
    parameters: Positive
    context: Positive
    languages: Annotated[list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]], Field(min_length=1)]
    chat_template: bool
    architecture: Architecture
    targets: Annotated[list[str], Field(min_length=1)]

    @property
    def address(self) -> str:
        """The source with its revision, as `train.model.source` takes it."""
        return f"{self.source}@{self.revision}" if self.revision else self.source

    @property
    def pinned(self) -> bool:
        """Whether the address always means the same bytes."""
        return self.revision is not None or "#sha256=" in self.source


def names(root: Path) -> list[str]:
    """Return the names of the catalogue's models."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def read(root: Path, name: str) -> Entry:
    """Return one model's entry.

    Raises:
        ConfigError: with one line for each fault of the entry, or the nearest name if there is none such.
    """
    known = names(root)
    if name not in known:
        raise ConfigError(f"{FOLDER}/{name}.yaml: no such model; legal: {', '.join(known)}{nearest(name, known)}")
    where = f"{FOLDER}/{name}.yaml"
    try:
        values = yaml.safe_load((root / where).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return Entry.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_describe(fault)}" for fault in error.errors())) from None


def read_all(root: Path) -> dict[str, Entry]:
    """Return every entry by name, smallest model first.

    Raises:
        ConfigError: with every fault of every entry.
    """
    entries, faults = {}, []
    for name in names(root):
        try:
            entries[name] = read(root, name)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("The model catalogue has faults:\n" + "\n".join(faults))
    return dict(sorted(entries.items(), key=lambda item: item[1].parameters))


def as_model(root: Path, name: str) -> dict[str, Any]:
    """Return what `train.model: NAME` stands for: source, revision and licence, and no key of another model's."""
    entry = read(root, name)
    return {"source": entry.address, "license": entry.license, "trust_remote_code": False, "chat_template": None}


def permitted(licenses: dict[str, License], name: str, use: str) -> bool | None:
    """Say whether a licence permits a use, `commercial` or `research`; None if the licence is unknown."""
    known = {key.casefold(): value for key, value in licenses.items()}.get(name.strip().casefold())
    if known is None:
        return None
    return known.commercial if use == "commercial" else known.research


def _describe(fault: Any) -> str:
    path = ".".join(map(str, fault["loc"])) or "the file"
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    if fault["type"] == "missing":
        return f"{path}: required key is missing"
    return f"{path}: {fault['msg'][0].lower()}{fault['msg'][1:]}; found {fault['input']!r}"
