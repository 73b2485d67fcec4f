"""A supervised process on this machine, one a project; its state and log lie in `.forgeline/deployments/`."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Config
from forgeline.errors import ServingError
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.order import Order
from forgeline.serving.sockets import listen
from forgeline.serving.targets import Check, Job, Plan, Running
from forgeline.serving.targets.kept import Health, Kept, Served, health

NAME = "local"
ORDER = Path(f"{NAME}.order.json")
LEFT_SECONDS = 15  # that a keeper may take to be gone, beside its gateway's drain


class Deployment(Served):
    """A keeper's process and what its gateway serves; `created` tells it from a later process with the same number."""

    pid: int
    created: float

    @property
    def keeper(self) -> psutil.Process | None:
        """Its process, None if that is gone."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 2  # the clock may have been set since
            alive = same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


class Status(BaseModel):
    """A deployment and how it is.

    `ready` has just proved that it can generate, `degraded` has lost its engine and answers by the other rungs of its
    ladder, `gone` no longer runs.
    """

    model_config = ConfigDict(frozen=True)
    deployment: Deployment
    health: Health


class Stopped(BaseModel):
    """A deployment that was ended, and whether it had to be killed because it did not drain in time."""

    model_config = ConfigDict(frozen=True)
    deployment: Deployment
    killed: bool


class Local:
    """The target `local`."""

    tried = "run for real"

    def plan(self, job: Job) -> Plan:
        """Return the order that the server would be started with."""
        order = Order(bundle=job.bundle.resolve(), serve=job.config.serve, ledger=_ledger(job.config))
        return Plan(
            files={str(ORDER): order.model_dump_json(indent=2) + "\n"},
            checks=(
                Check(str(job.bundle), "the digests of its manifest"),
                Check(str(ORDER), "configs/serve.yaml's schema"),
            ),
            acts=(" ".join(Kept(job.config.root, NAME).command(ORDER)), "the smoke test"),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Serve the bundle; an older one goes on if this one does not pass its smoke test."""
        config = job.config
        order = Order(bundle=job.bundle, serve=config.serve, ledger=_ledger(config))
        deployment = deploy(config.root, order, lambda made: job.smoke(made.url))
        return deployment.model_dump(mode="json")

    def status(self, root: Path) -> Running | None:
        """Return how the server is."""
        found = status(root)
        if found is None:
            return None
        deployed = found.deployment
        facts = {
            "bundle": str(deployed.bundle),
            "digest": deployed.digest,
            "process": str(deployed.pid),
            "since": deployed.started_at,
        }
        return Running(health=found.health, version=deployed.version, url=deployed.url, facts=facts)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the server wrote."""
        log = Kept(root, NAME).log
        if log.is_file():
            yield from deque(log.open(encoding="utf-8", errors="replace"), maxlen=lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """End the server once what is in flight has finished."""
        stopped = stop(root)
        return {"killed": stopped.killed} if stopped else None


def deploy(root: Path, order: Order, check: Callable[[Deployment], object]) -> Deployment:
    """Serve a bundle as ordered; return the deployment once it is ready and `check`, the smoke test, has passed.

    A bundle that is already being served so stays as it is. Another one is started beside it, checked, and takes its
    place without a request being dropped; if it does not get ready or fails the check, it is ended.

    Raises:
        ServingError: if the port is taken, or the new bundle cannot be served.
    """
    order = order.model_copy(update={"bundle": order.bundle.resolve()})
    manifest = verify(order.bundle, order.serve.signing)
    kept = Kept(root, NAME)
    with kept.locked():
        current = kept.read(Deployment)
        keeper = current.keeper if current else None
        if current is None or keeper is None:
            return _start(kept, order, manifest, check)
        if current.is_as(order, manifest) and health(current) == "ready":
            return current
        process = {"pid": keeper.pid, "created": keeper.create_time()}
        following = Deployment.ordered(kept.path(), order, manifest, **process)
        try:
            return kept.update(order, following, dict(os.environ), check)
        except ServingError as fault:
            raise ServingError(f"{fault}\nVersion {current.version} was not touched, and serves on.") from fault


def status(root: Path) -> Status | None:
    """Return the deployment of the project and its health, or None if there is none."""
    current = Kept(root, NAME).read(Deployment)
    if current is None:
        return None
    return Status(deployment=current, health=health(current) if current.keeper else "gone")


def stop(root: Path) -> Stopped | None:
    """End the deployment once what is in flight has finished; None if there was none."""
    kept = Kept(root, NAME)
    with kept.locked():
        current = kept.read(Deployment)
        if current is None:
            return None
        killed = _end(current)
        kept.forget()
        return Stopped(deployment=current, killed=killed)


def _start(kept: Kept, order: Order, manifest: Manifest, check: Callable[[Deployment], object]) -> Deployment:
    listen(order.serve.host, order.serve.port).close()  # a taken port is told before anything is started
    path = kept.path()
    order.save(path)
    with kept.log.open("wb") as output:
        process = subprocess.Popen(
            kept.command(path),
            cwd=kept.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    deployment = Deployment.ordered(path, order, manifest, pid=process.pid, created=created)
    kept.save(deployment)
    try:
        kept.await_ready(deployment, lambda: None if process.poll() is None else "it is gone.")
        check(deployment)
    except BaseException:
        _end(deployment)
        kept.forget()
        raise
    kept.tidy(path)
    return deployment


def _end(deployment: Deployment) -> bool:
    """Ask a deployment to end, wait for its drain, and return whether it had to be killed."""
    process = deployment.keeper
    if process is None:
        return False
    try:
        process.terminate()
        process.wait(deployment.serve.drain_timeout + LEFT_SECONDS)
    except psutil.TimeoutExpired:
        for each in (process, *process.children(recursive=True)):
            each.kill()
        process.wait()
        return True
    except psutil.NoSuchProcess:
        return False
    return False


def _ledger(config: Config) -> Path:
    return config.root / config.project.stores.ledger
