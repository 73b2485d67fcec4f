"""Where a bundle runs. A target renders the one `serve.yaml`, checks what it rendered, and then does as it said."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, cast

from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Config
from forgeline.errors import ServingError, nearest
from forgeline.records import write_json
from forgeline.serving.bundle import Manifest

FOLDER = Path(".forgeline/targets")  # what was rendered and what became of it, by target
# Their gateways have the database that serve.store names, and so take this project's local key.
HERE = frozenset({"local", "systemd", "lambda", "cloudrun", "skypilot"})
TARGETS = {
    "local": "forgeline.serving.targets.local:Local",
    "edge": "forgeline.serving.targets.edge:Edge",
    "sagemaker": "forgeline.serving.targets.clouds.sagemaker:Sagemaker",
    "lambda": "forgeline.serving.targets.clouds.aws_lambda:AwsLambda",
    "vertex": "forgeline.serving.targets.clouds.vertex:Vertex",
    "cloudrun": "forgeline.serving.targets.clouds.cloudrun:Cloudrun",
    "azureml": "forgeline.serving.targets.clouds.azureml:Azureml",
    "skypilot": "forgeline.serving.targets.clouds.skypilot:Skypilot",
    "systemd": "forgeline.serving.targets.systemd:Systemd",
    "compose": "forgeline.serving.targets.compose:Compose",
    "kubernetes": "forgeline.serving.targets.kubernetes:Kubernetes",
    "helm": "forgeline.serving.targets.helm:Helm",
    "kserve": "forgeline.serving.targets.kserve:Kserve",
    "kuberay": "forgeline.serving.targets.kuberay:Kuberay",
}


@dataclass(frozen=True)
class Job:
    """What is to run: a verified bundle, its manifest, the project that it is of, and its smoke test.

    `smoke` is given the URL where the deployment answers, and a key if the project's own does not open it; it raises
    ServingError if it does not say what it must.
    """

    config: Config
    bundle: Path
    manifest: Manifest
    smoke: Callable[..., object]


@dataclass(frozen=True)
class Check:
    """Why something rendered is valid: what was looked at, and what it was held against."""

    what: str
    against: str


@dataclass(frozen=True)
class Plan:
    """What a target would make: files by their path below its folder, why they are valid, and then what is done."""

    files: dict[str, str]
    checks: tuple[Check, ...]
    acts: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write the files in place of an older plan's."""
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


class Running(BaseModel):
    """What a target says of a deployment: `url` is where it answers, `facts` what else a reader wants to know."""

    model_config = ConfigDict(frozen=True)
    health: Literal["ready", "degraded", "not ready", "gone"]
    version: str
    url: str | None = None
    facts: dict[str, str] = {}


class Target(Protocol):
    """One kind of place; `tried` says how far it was proven: run for real, or only held against a schema."""

    tried: str

    def plan(self, job: Job) -> Plan:
        """Return what would be made; nothing outside is asked, and nothing is written.

        Raises:
            ServingError: with one line for each fault, which begins with its path.
        """
        ...

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Do what was planned, and return what the ledger should know of it.

        Raises:
            ServingError: if a tool or credential is missing, or the place refuses; what ran before still answers.
        """
        ...

    def status(self, root: Path) -> Running | None:
        """Return how the deployment is, None if there is none."""
        ...

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield its last lines of log."""
        ...

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Take down all that `deploy` made; return what the ledger should know of that, None if there was nothing."""
        ...


def named(name: str) -> Target:
    """Return a target; raise ServingError if there is none of that name."""
    if name not in TARGETS:
        raise ServingError(f"There is no target {name}; there are: {', '.join(TARGETS)}{nearest(name, TARGETS)}")
    module, _, kind = TARGETS[name].partition(":")
    return cast(Target, getattr(importlib.import_module(module), kind)())


def answering(root: Path, target: str) -> str:
    """Return the URL at which a target's deployment answers; raise ServingError if nothing is deployed there."""
    running = named(target).status(root)
    if running is None or running.url is None or running.health == "gone":
        raise ServingError(f"Nothing is deployed to {target}: run `forgeline deploy`.")
    return running.url


def refuse(target: str, faults: Sequence[str]) -> NoReturn:
    """Raise the ServingError of a plan that is not valid; each fault begins with its file and path."""
    raise ServingError(
        f"The {target} target is refused, {len(faults)} fault(s):\n" + "\n".join(f"  {f}" for f in faults)
    )


def folder(root: Path, target: str) -> Path:
    """Return where a target's plan is written."""
    return root / FOLDER / target


def remember(root: Path, target: str, facts: dict[str, Any]) -> None:
    """Keep what a target must know to find its deployment again; never a secret."""
    write_json(_state(root, target), facts)


def remembered(root: Path, target: str) -> dict[str, Any] | None:
    """Return what was kept, None if nothing is deployed there."""
    path = _state(root, target)
    return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def forget(root: Path, target: str) -> None:
    """Let go of what was kept, once the deployment is gone."""
    _state(root, target).unlink(missing_ok=True)


def _state(root: Path, target: str) -> Path:
    return root / FOLDER / f"{target}.json"
