"""A supervised process on this machine, one a project; its state and log lie in `.forgeline/deployments/`."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from forgeline.serving.targets.kept import Deployment, Kept, Status

NAME = "local"
ORDER = Path(f"{NAME}.order.json")
LEFT_SECONDS = 15  # that a keeper may take to be gone, beside its gateway's drain


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
    with _locked(kept):
        current = kept.status()
        keeper = current.deployment.keeper if current else None
        if current is None or keeper is None:
            return _start(kept, order, manifest, check)
        if current.health == "ready" and current.deployment.is_as(order, manifest):
            return current.deployment
        path = kept.write(order)
        try:
            deployed = kept.update(Deployment.made(keeper, path, order, manifest), os.environ, check)
        except BaseException as fault:
            path.unlink()
            if not isinstance(fault, ServingError):
                raise
            raise ServingError(
                f"{fault}\nVersion {current.deployment.version} was not touched, and serves on."
            ) from fault
        kept.tidy(path)
        return deployed


def status(root: Path) -> Status | None:
    """Return the deployment of the project and its health, or None if there is none."""
    return Kept(root, NAME).status()


def stop(root: Path) -> Stopped | None:
    """End the deployment once what is in flight has finished; None if there was none."""
    kept = Kept(root, NAME)
    with _locked(kept):
        current = kept.status()
        if current is None:
            return None
        killed = _end(current.deployment)
        _forget(kept)
        return Stopped(deployment=current.deployment, killed=killed)


def _start(kept: Kept, order: Order, manifest: Manifest, check: Callable[[Deployment], object]) -> Deployment:
    listen(order.serve.host, order.serve.port).close()  # a taken port is told before anything is started
    path = kept.write(order)
    with kept.log.open("wb") as output:
        process = subprocess.Popen(
            kept.command(path),
            cwd=kept.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deployment = Deployment.made(psutil.Process(process.pid), path, order, manifest)
    kept.save(deployment)
    try:
        kept.await_ready(deployment, lambda: None if process.poll() is None else "it is gone.")
        check(deployment)
    except BaseException:
        _end(deployment)
        _forget(kept)
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


def _forget(kept: Kept) -> None:
    kept.state.unlink()
    kept.control.unlink(missing_ok=True)
    kept.tidy(live=None)


def _ledger(config: Config) -> Path:
    return config.root / config.project.stores.ledger


@contextmanager
def _locked(kept: Kept) -> Iterator[None]:
    from filelock import FileLock

    kept.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.folder / f"{NAME}.lock"):
        yield
