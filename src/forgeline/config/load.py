"""Read the sections, lay a profile and `--set` overrides over them, and report every fault at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from forgeline.config import catalogue
from forgeline.config.schema import SECTIONS, Config, Sweep, Train
from forgeline.config.schema.policy import EVIDENCE
from forgeline.errors import ConfigError, nearest

Layer = tuple[str, dict[str, Any]]  # where the values stand, for messages; the values by section


def find_root(start: Path | None = None) -> Path:
    """Return the project folder at or above `start`: the first that holds `configs/project.yaml`."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "configs" / "project.yaml").is_file():
            return folder
    raise ConfigError(
        f"No Forgeline project at or above {start}: configs/project.yaml is missing. Go to the project's folder."
    )


def load(root: Path | None = None, profile: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return the validated configuration of the project at `root`.

    Args:
        root: the project folder; found at or above the working folder if not given.
        profile: the name of an overlay in `configs/profiles/`.
        overrides: `section.key=value` strings, the last word over files and profile.

    Raises:
        ConfigError: with one line for each fault: where it stands, the key, what is legal.
    """
    root = find_root() if root is None else root.resolve()
    faults: list[str] = []
    layers: list[Layer] = []
    for name in SECTIONS:
        layers.append((f"configs/{name}.yaml", {name: _read(root, f"configs/{name}.yaml", faults)}))
    if profile is not None:
        layers.append(_profile(root, profile, faults))
    layers += [layer for text in overrides if (layer := _override(text, faults))]
    for where, values in layers[len(SECTIONS) :]:
        if "data" in values:
            faults.append(
                f"{where}: data: the data line is versioned by DVC, which reads configs/data.yaml as it stands; "
                "edit that file instead"
            )

    for where, values in layers:
        _look_up_model(root, where, values, faults)
    merged: dict[str, Any] = {}
    for _, values in layers:
        merged = _merge(merged, values)
    unsound: set[Any] = set()
    try:
        config = Config.model_validate({"root": root, "profile": profile, **merged})
    except ValidationError as error:
        unsound = {fault["loc"][0] for fault in error.errors()}
        faults += [_describe(fault, layers) for fault in error.errors()]
    if unsound.isdisjoint({"train", "sweep"}):
        faults += dict.fromkeys(_space_faults(merged, layers))
    if unsound.isdisjoint({"project", "policy"}):
        faults += _evidence_faults(merged, layers)
    if unsound.isdisjoint({"evaluate", "approaches"}):
        faults += _recommendation_faults(merged, layers)
    if faults:
        count = f"{len(faults)} fault{'s' * (len(faults) > 1)}"
        raise ConfigError(f"The configuration has {count}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return config


def profiles(root: Path) -> list[str]:
    """Return the names of the overlays in `configs/profiles/`."""
    return sorted(path.stem for path in (root / "configs" / "profiles").glob("*.yaml"))


def overlay(train: Train, values: Mapping[str, Any]) -> Train:
    """Return the train settings with other values at dotted keys, as `--set` would give them.

    Raises:
        ValidationError: if a key is unknown or its value illegal.
    """
    merged: dict[str, Any] = {"train": train.model_dump()}
    for key, value in values.items():
        merged = _merge(merged, _nest(key.split("."), value))
    return Train.model_validate(merged["train"])


def _space_faults(merged: dict[str, Any], layers: list[Layer]) -> Iterator[str]:
    """Yield what is wrong with the keys and values of `sweep.space`."""
    train, sweep = Train.model_validate(merged["train"]), Sweep.model_validate(merged["sweep"])
    for key, values in sweep.space.items():
        where = next(name for name, layer in reversed(layers) if _reaches(layer, ("sweep", "space", key)))
        if not key.startswith("train."):
            hint = nearest(key, [f"train.{name}" for name in Train.model_fields])
            yield f"{where}: sweep.space: {key}: only keys of train can be searched{hint}"
            continue
        for value in values if isinstance(values, list) else (values.low, values.high):
            try:
                overlay(train, {key: value})
            except ValidationError as error:
                place = (f"{where}: sweep.space", _nest(key.split("."), value))
                yield from (_describe({**fault, "loc": ("train", *fault["loc"])}, [place]) for fault in error.errors())


def _evidence_faults(merged: dict[str, Any], layers: list[Layer]) -> Iterator[str]:
    """Yield the gates and success metrics on evidence that nothing measures, or that nothing compares."""
    metrics = list(merged["evaluate"].get("metrics") or ())
    legal = [*metrics, *EVIDENCE]
    named: dict[tuple[str, ...], str] = {("project", "success", goal): goal for goal in merged["project"]["success"]}
    compared: set[tuple[str, ...]] = set()
    for gate, rule in merged["policy"]["gates"].items():
        if rule.get("evidence"):
            named["policy", "gates", gate, "evidence"] = rule["evidence"]
        if rule.get("against") or rule.get("by"):
            compared.add(("policy", "gates", gate, "evidence"))
    for gate, rule in (merged["policy"].get("admission") or {}).items():
        named["policy", "admission", gate, "evidence"] = rule["evidence"]
        compared.add(("policy", "admission", gate, "evidence"))
    for location, evidence in named.items():
        where = next(name for name, layer in reversed(layers) if _reaches(layer, location))
        if evidence not in legal:
            yield (
                f"{where}: {'.'.join(location)}: nothing measures {evidence}; legal: {', '.join(legal)}"
                f"{nearest(evidence, legal)}"
            )
        elif location in compared and evidence not in metrics:
            yield (
                f"{where}: {'.'.join(location)}: {evidence} is known of a version as a whole and by itself; with "
                f"against or by: {', '.join(metrics)}"
            )


def _recommendation_faults(merged: dict[str, Any], layers: list[Layer]) -> Iterator[str]:
    """Yield that nothing measures what approaches are chosen by."""
    legal, location = [*merged["evaluate"]["metrics"]], ("approaches", "recommend", "metric")
    metric = merged["approaches"]["recommend"]["metric"]
    if metric not in legal:
        where = next(name for name, layer in reversed(layers) if _reaches(layer, location))
        yield (
            f"{where}: {'.'.join(location)}: nothing measures {metric}; legal: {', '.join(legal)}"
            f"{nearest(metric, legal)}"
        )


def _read(root: Path, name: str, faults: list[str]) -> dict[str, Any]:
    try:
        values = yaml.safe_load((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"{name}: the file is missing")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        faults.append(f"{name}: not YAML: {' '.join(str(error).split())}")
        return {}
    if not isinstance(values, dict):
        faults.append(f"{name}: expected keys and values, found {type(values).__name__}")
        return {}
    return values


def _profile(root: Path, profile: str, faults: list[str]) -> Layer:
    names = profiles(root)
    where = f"configs/profiles/{profile}.yaml"
    if profile not in names:
        faults.append(f"--profile {profile}: no such profile; legal: {', '.join(names)}{nearest(profile, names)}")
        return where, {}
    return where, _read(root, where, faults)


def _override(text: str, faults: list[str]) -> Layer | None:
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        faults.append(f"--set {text}: expected section.key=value, such as train.epochs=1")
        return None
    if keys[:2] == ["sweep", "space"]:  # whose keys have dots themselves
        keys[2:] = [".".join(keys[2:])] * (len(keys) > 2)
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        nested = value
    return f"--set {text}", _nest(keys, nested)


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _look_up_model(root: Path, where: str, values: dict[str, Any], faults: list[str]) -> None:
    """Put what the catalogue says in the place of a name, so that runs record the source and its licence."""
    train = values.get("train")
    if not isinstance(train, dict) or not isinstance(train.get("model"), str):
        return
    name = train["model"]
    try:
        train["model"] = catalogue.as_model(root, name)
    except ConfigError as error:
        faults += [f"{where}: train.model: {fault}" for fault in str(error).splitlines()]
        train["model"] = {"source": name, "license": ""}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = deepcopy(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _describe(fault: Any, layers: list[Layer]) -> str:
    location, section = _located(tuple(key for key in fault["loc"] if not _is_union_branch(key)))
    path = ".".join(map(str, location))
    where = next((name for name, values in reversed(layers) if _reaches(values, location)), None)
    where = where or f"configs/{location[0]}.yaml"
    if fault["type"] == "extra_forbidden":
        legal = [name for name in section.model_fields if not (section is Config and name in {"root", "profile"})]
        return f"{where}: {path}: unknown key; legal: {', '.join(legal)}{nearest(str(location[-1]), legal)}"
    if fault["type"] == "missing":
        return f"{where}: {path}: required key is missing"
    found = fault["input"]
    message = f"{where}: {path}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    if isinstance(found, dict):
        return message
    legal = [part.strip("' ") for part in fault.get("ctx", {}).get("expected", "").replace(" or ", ",").split(",")]
    hint = nearest(found, legal) if isinstance(found, str) and fault["type"] == "literal_error" else ""
    return f"{message}; found {found!r}{hint}"


def _is_union_branch(key: Any) -> bool:
    """Pydantic puts the tried branch of a union, such as `list[str]`, among the keys."""
    return isinstance(key, str) and ("[" in key or key in {"constrained-int", "constrained-str", "int", "str"})


def _reaches(values: Any, location: tuple[Any, ...]) -> bool:
    for key in location:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _located(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """Return the keys of a location in the files, and the section that the last of them stands in.

    Pydantic puts the tag of the branch among the keys where a section is one of several, told apart by `name` or
    `kind`.
    """
    annotation: Any = Config
    keys: list[Any] = []
    section: Any = Config
    for key in location:
        if branch := _branches(annotation).get(key):
            annotation = branch
            continue
        section = _section(annotation)
        keys.append(key)
        if get_origin(annotation) in {dict, list}:  # any key leads to its value type
            annotation = get_args(annotation)[-1]
        elif section is not None and key in section.model_fields:
            annotation = section.model_fields[key].annotation
    return tuple(keys), section


def _branches(annotation: Any) -> dict[str, Any]:
    """Return the sections that an annotation chooses from by their `name` or `kind`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    sections = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    named = [(section, section.model_fields.get("name") or section.model_fields.get("kind")) for section in sections]
    return {tag: section for section, name in named if name for tag in get_args(name.annotation)}


def _section(annotation: Any) -> Any:
    """Return the section that an annotation is, or that is one branch of its union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)
