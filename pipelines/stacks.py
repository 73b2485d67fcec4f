"""ZenML stacks, as `configs/stacks/*.yaml` describe them: checked, registered, run on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from zenml.client import Client
from zenml.config.base_settings import BaseSettings
from zenml.enums import StackComponentType
from zenml.models import PipelineRunResponse
from zenml.stack.flavor import Flavor
from zenml.stack.stack_component import StackComponentConfig
from zenml.utils.pagination_utils import depaginate
from zenml.utils.settings_utils import get_general_settings

from forgeline.config import Config
from forgeline.errors import ConfigError, nearest
from forgeline.registry import start, tracking
from pipelines.training import candidate

ACTIVE_STACK = "ZENML_ACTIVE_STACK_ID"
Model = TypeVar("Model", bound=BaseModel)


class Entry(BaseModel):
    """What a stack file has in it, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Component(Entry):
    """One component, as `zenml stack export` writes it."""

    name: str
    type: StackComponentType
    flavor: str
    configuration: dict[str, Any]


class Run(Entry):
    """How the line runs there: ZenML settings by key, and the ZenML secrets whose values become variables."""

    settings: dict[str, dict[str, Any]] = {}
    secrets: list[str] = []


class StackFile(Entry):
    """A stack in the form that `zenml stack import` reads, and `run`, which that command leaves alone."""

    zenml_version: str
    stack_name: str
    components: dict[StackComponentType, Component]
    run: Run = Run()

    @property
    def installation(self) -> str:
        """The command that installs what this stack needs beside the project, as its image does."""
        docker = self.run.settings.get("docker", {"parent_image_build_config": {"build_options": {"build_args": {}}}})
        arguments = docker["parent_image_build_config"]["build_options"]["build_args"]
        lock = "requirements.lock"
        if loose := arguments.get("LOOSE"):
            lock = f"<(grep -vE '^({loose})==' {lock})"
        packages = shlex.join(arguments.get("PACKAGES", "").split())
        return f"pip install --constraint {lock} {packages}"


def read(root: Path, name: str) -> StackFile:
    """Return the checked stack file of a name; nothing is registered, and no cluster asked.

    Raises:
        ConfigError: with one line for each fault: unknown keys, and values that the flavour refuses.
    """
    folder = root / "configs" / "stacks"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{folder} has no stack {name}; it has: {', '.join(names)}{nearest(name, names)}")
    where = f"configs/stacks/{name}.yaml"
    values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    faults: list[str] = []
    file = _check(StackFile, values, "", faults)
    if file is not None:
        with _packages_wanted(file):
            for kind, component in file.components.items():
                place = f"components.{kind}.configuration"
                _check(_config_class(component), component.configuration, place, faults)
            for key, settings in file.run.settings.items():
                _check(_settings_class(key, file), settings, f"run.settings.{key}", faults)
    if file is None or faults:
        raise ConfigError(f"{where} has {len(faults)} fault(s):\n" + "\n".join(f"  {fault}" for fault in faults))
    return file


def register(root: Path, name: str) -> StackFile:
    """Register a file's stack and components with ZenML, or bring those of the same names up to date.

    A service connector that a component is connected to stays connected.
    """
    file, client = read(root, name), Client()
    ids: dict[StackComponentType, Any] = {}
    for kind, component in file.components.items():
        known = client.list_stack_components(name=component.name, type=kind).items
        if not known:
            made = client.create_stack_component(component.name, component.flavor, kind, component.configuration)
        elif known[0].flavor_name != component.flavor:
            raise ConfigError(
                f"ZenML has a component {component.name} of the flavour {known[0].flavor_name}: "
                f"give the one of configs/stacks/{name}.yaml another name."
            )
        else:
            dropped = dict.fromkeys(known[0].configuration.keys() - component.configuration.keys())
            made = client.update_stack_component(
                known[0].id, kind, configuration={**dropped, **component.configuration}
            )
        ids[kind] = made.id
    if client.list_stacks(name=file.stack_name).items:
        client.update_stack(file.stack_name, component_updates={kind: [id_] for kind, id_ in ids.items()})
    else:
        client.create_stack(file.stack_name, ids)
    return file


def run(config: Config, name: str) -> PipelineRunResponse:
    """Make a candidate on a registered stack, wait for it, and return its ZenML run.

    Raises:
        ConfigError: if the stack is not registered, or the file has a fault.
        RegistryError: if the stack is elsewhere and the MLflow store is a file of this machine.
    """
    file = read(config.root, name)
    known = Client().list_stacks(name=file.stack_name).items
    if not known:
        raise ConfigError(f"ZenML has no stack {file.stack_name}: register it with `forgeline stack {name}`.")
    orchestrator = file.components[StackComponentType.ORCHESTRATOR]
    remote = _config_class(orchestrator)(**orchestrator.configuration).is_remote
    environment = tracking.environment(config.project) if remote else {}
    config = start.settled(config)
    origin = start.identity(config.project, config.train)
    with _packages_wanted(file), _active(str(known[0].id)):
        return candidate.with_options(**file.run.model_dump(), environment=environment)(config=config, origin=origin)


@contextmanager
def _active(stack_id: str) -> Iterator[None]:
    """Make a stack this process's active one, and leave the user's choice as it is."""
    before = os.environ.get(ACTIVE_STACK)
    os.environ[ACTIVE_STACK] = stack_id
    try:
        yield
    finally:
        del os.environ[ACTIVE_STACK]
        if before is not None:
            os.environ[ACTIVE_STACK] = before


@contextmanager
def _packages_wanted(file: StackFile) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"The stack {file.stack_name} needs packages that are not installed ({error}): {file.installation}"
        ) from error


def _config_class(component: Component) -> type[StackComponentConfig]:
    known = {flavor.name: flavor for flavor in depaginate(Client().list_flavors, type=component.type)}
    if component.flavor not in known:
        raise ConfigError(
            f"components.{component.type}: ZenML has no flavour {component.flavor}; legal: {', '.join(sorted(known))}"
            f"{nearest(component.flavor, [*known])}"
        )
    config_class: type[StackComponentConfig] = Flavor.from_model(known[component.flavor]).config_class
    return config_class


def _settings_class(key: str, file: StackFile) -> type[BaseModel]:
    """Return what ZenML will read settings as: a general kind, or the settings of the file's component."""
    general: dict[str, type[BaseModel]] = get_general_settings()
    if key in general:
        return general[key]
    if key not in file.components:
        legal = [*general, *file.components]
        raise ConfigError(f"run.settings.{key}: no such settings; legal: {', '.join(legal)}{nearest(key, legal)}")
    config_class = _config_class(file.components[StackComponentType(key)])
    return next(
        base
        for base in config_class.__mro__
        if issubclass(base, BaseSettings) and not issubclass(base, StackComponentConfig)
    )


def _check(model: type[Model], values: Any, place: str, faults: list[str]) -> Model | None:
    """Return values as a model; add what is wrong with them to the faults. ZenML itself drops unknown keys."""
    try:
        made = model(**deepcopy(values))  # ZenML's validators change what they are given
    except ValidationError as error:
        for fault in error.errors():
            key = ".".join(filter(None, [place, *map(str, fault["loc"])]))
            faults.append(f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
        return None
    faults += _unknown(made, values, place)
    return made


def _unknown(made: BaseModel, values: Mapping[str, Any], place: str) -> Iterator[str]:
    for key, value in values.items():
        here, legal = f"{place}.{key}".lstrip("."), list(type(made).model_fields)
        if key not in legal:
            yield f"{here}: unknown key{nearest(key, legal)}"
        elif isinstance(inner := vars(made)[key], BaseModel):  # getattr would ask ZenML for the secret behind it
            yield from _unknown(inner, value, here)
