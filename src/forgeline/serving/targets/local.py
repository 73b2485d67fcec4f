"""A supervised process on this machine, one a project; its state and log lie in `.forgeline/deployments/`."""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema import Config, Serve
from forgeline.config.schema.serve.engine import Remote
from forgeline.errors import ForgelineError, ServingError
from forgeline.progress import progress_bar
from forgeline.records import write_json
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.gateway.access.tls import pinned
from forgeline.serving.gateway.server import listen
from forgeline.serving.order import Order
from forgeline.serving.targets import Check, Job, Plan, Running

READY_SECONDS = 60  # until the gateway answers, beside what its engine takes to be ready
LOG_LINES = 15
ORDER = "local.order.json"
Health = Literal["ready", "degraded", "not ready", "gone"]


class Deployment(BaseModel):
    """A started process and what it serves; `created` tells it from a later process with the same number."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pid: int
    created: float
    url: str
    bundle: Path
    digest: str
    model: str
    version: str
    serve: Serve
    started_at: str


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
            files={ORDER: order.model_dump_json(indent=2) + "\n"},
            checks=(
                Check(str(job.bundle), "the digests of its manifest"),
                Check(ORDER, "configs/serve.yaml's schema"),
            ),
            acts=(" ".join(_command(Path(ORDER))), "the smoke test"),
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
        log = _folder(root) / "local.log"
        if log.is_file():
            yield from deque(log.open(encoding="utf-8", errors="replace"), maxlen=lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """End the server once what is in flight has finished."""
        stopped = stop(root)
        return {"killed": stopped.killed} if stopped else None


def deploy(root: Path, order: Order, check: Callable[[Deployment], object]) -> Deployment:
    """Serve a bundle as ordered; return the deployment once it is ready and `check`, the smoke test, has passed.

    A bundle that is already being served stays as it is. Another one is stopped first, and started
    again if the new one does not get ready or fails the check.

    Raises:
        ServingError: if the port is taken, or the new bundle cannot be served.
    """
    order = order.model_copy(update={"bundle": order.bundle.resolve()})
    manifest = verify(order.bundle, order.serve.signing)
    with _locked(root):
        current = status(root)
        same = current and (current.deployment.digest, current.deployment.serve) == (manifest.digest, order.serve)
        if current and same and current.health == "ready":
            return current.deployment
        previous = current.deployment if current and current.health != "gone" else None
        if previous:
            _end(previous)
        try:
            return _start(root, order, manifest, check)
        except BaseException as fault:  # an interruption too must bring the old one back
            if previous is None or same:
                raise
            former = Order(bundle=previous.bundle, serve=previous.serve, ledger=order.ledger)
            _start(root, former, verify(former.bundle, former.serve.signing), lambda deployment: None)
            if not isinstance(fault, ForgelineError):
                raise
            raise ServingError(f"{fault} Version {previous.version} was started again and is serving.") from fault


def status(root: Path) -> Status | None:
    """Return the deployment of the project and its health, or None if there is none."""
    path = _folder(root) / "local.json"
    if not path.exists():
        return None
    try:
        deployment = Deployment.model_validate_json(path.read_bytes())
    except ValidationError:
        raise ServingError(f"{path} is not a deployment's state: end the server by hand and delete the file.") from None
    if _process(deployment) is None:
        return Status(deployment=deployment, health="gone")
    return Status(deployment=deployment, health=_health(deployment))


def stop(root: Path) -> Stopped | None:
    """End the deployment once what is in flight has finished; None if there was none."""
    with _locked(root):
        current = status(root)
        if current is None:
            return None
        killed = _end(current.deployment)
        (_folder(root) / "local.json").unlink()
        return Stopped(deployment=current.deployment, killed=killed)


def _start(root: Path, order: Order, manifest: Manifest, check: Callable[[Deployment], object]) -> Deployment:
    serve = order.serve
    listen(serve.host, serve.port).close()  # a taken port is told before anything is started
    log = _folder(root) / "local.log"
    order.save(_folder(root) / ORDER)
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(_folder(root) / ORDER),
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deployment = Deployment(
        pid=process.pid,
        created=psutil.Process(process.pid).create_time(),
        url=f"{'https' if serve.access.tls else 'http'}://{_reached(serve.host)}:{serve.port}",
        bundle=order.bundle,
        digest=manifest.digest,
        model=manifest.lineage.model,
        version=manifest.lineage.version,
        serve=serve,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(_folder(root) / "local.json", deployment.model_dump(mode="json"))
    try:
        _await_ready(deployment, process, log)
        check(deployment)
    except BaseException:
        _end(deployment)
        (_folder(root) / "local.json").unlink()
        raise
    return deployment


def _command(order: Path) -> list[str]:
    return [sys.executable, "-m", "forgeline.serving.gateway", "--order", str(order)]


def _ledger(config: Config) -> Path:
    return config.root / config.project.stores.ledger


def _await_ready(deployment: Deployment, process: subprocess.Popen[bytes], log: Path) -> None:
    started, seconds, most = time.monotonic(), 0, _patience(deployment.serve)
    with progress_bar(f"Starting version {deployment.version}", most) as bar:
        while seconds < most:
            if process.poll() is not None:
                raise ServingError(f"The server of {deployment.bundle} ended before it was ready: {_tail(log)}")
            health = _health(deployment)
            if health == "degraded":
                raise ServingError(f"The engine of {deployment.bundle} is given up: {_tail(log)}")
            if health == "ready":
                return
            time.sleep(0.25)
            waited = int(time.monotonic() - started)
            bar.advance(waited - seconds)
            seconds = waited
    raise ServingError(f"The server of {deployment.bundle} was not ready in {most} s: {_tail(log)}")


def _patience(serve: Serve) -> int:
    """Return the seconds until a gateway counts as not ready: those that its engine may take to start, and its own."""
    if isinstance(serve.engine, Remote):  # nothing is loaded here
        return READY_SECONDS
    return READY_SECONDS + math.ceil(serve.engine.supervision.start_timeout)


def _health(deployment: Deployment) -> Health:
    """Ask the server to generate a token; another bundle's server at the same address does not count."""
    address, tls = urlsplit(deployment.url), deployment.serve.access.tls
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=15)
    if tls:
        connection = http.client.HTTPSConnection(str(address.hostname), address.port, timeout=15, context=pinned(tls))
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status != 200 or answer.getheader("x-forgeline-bundle") != deployment.digest[:16]:
            return "not ready"
        return "degraded" if json.load(answer)["status"] == "degraded" else "ready"
    except (OSError, http.client.HTTPException):  # nobody listens, or something that is not ours
        return "not ready"
    finally:
        connection.close()


def _reached(host: str) -> str:
    """Return where a server that listens on an address, or on all of them, is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104


def _process(deployment: Deployment) -> psutil.Process | None:
    try:
        process = psutil.Process(deployment.pid)
        same = abs(process.create_time() - deployment.created) < 2  # the clock may have been set since
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def _end(deployment: Deployment) -> bool:
    """Ask a deployment to end, wait for its drain, and return whether it had to be killed."""
    process = _process(deployment)
    if process is None:
        return False
    try:
        process.terminate()
        process.wait(deployment.serve.drain_timeout + 15)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    except psutil.NoSuchProcess:
        return False
    return False


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"the end of {log}:", *lines[-LOG_LINES:]])


def _folder(root: Path) -> Path:
    return root / ".forgeline" / "deployments"


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    from filelock import FileLock

    _folder(root).mkdir(parents=True, exist_ok=True)
    with FileLock(_folder(root) / "local.lock"):
        yield
