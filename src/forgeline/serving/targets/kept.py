"""A gateway under its keeper on this machine, as the targets see it that have one; see `forgeline.serving.keeper`."""

from __future__ import annotations

import http.client
import json
import math
import os
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedRWPair
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.engine import Ray, Remote
from forgeline.errors import ServingError
from forgeline.lineage import code_digest
from forgeline.progress import progress_bar
from forgeline.records import write_json
from forgeline.serving.bundle import MANIFEST, Manifest
from forgeline.serving.gateway.access.tls import pinned
from forgeline.serving.order import Order

READY_SECONDS = 60  # until the gateway answers, beside what its engine takes to be ready
ANSWER_SECONDS = 15.0  # that a look at its health may take
LOG_LINES = 15
ROOMS = ("config", "data", "models", "prompting", "serving", "sources")  # whose code a gateway runs
Health = Literal["ready", "degraded", "not ready", "gone"]


class Served(BaseModel):
    """What a gateway serves, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str
    order: Path
    bundle: Path
    digest: str
    model: str
    version: str
    code: str
    serve: Serve
    started_at: str

    @classmethod
    def ordered(cls, path: Path, order: Order, manifest: Manifest, **more: Any) -> Self:
        """Return what is served from now on by the order at a path."""
        return cls(
            url=_url(order.serve, _reached(order.serve.host), order.serve.port),
            order=path,
            bundle=order.bundle,
            digest=manifest.digest,
            model=manifest.lineage.model,
            version=manifest.lineage.version,
            code=code_digest(*ROOMS),
            serve=order.serve,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        )

    def is_as(self, order: Order, manifest: Manifest) -> bool:
        """Whether it is that bundle, with these settings and the code that is installed."""
        return (self.digest, self.serve, self.code) == (manifest.digest, order.serve, code_digest(*ROOMS))

    def now(self) -> Self:
        """Return what is served now: a gateway that promotes another bundle writes that into its order."""
        if not self.order.is_file():
            return self
        order = Order.read(self.order)
        found: dict[str, Any] = {"serve": order.serve}
        if order.bundle != self.bundle:
            manifest = Manifest.model_validate_json((order.bundle / MANIFEST).read_bytes())
            found |= {"bundle": order.bundle, "digest": manifest.digest, "version": manifest.lineage.version}
            found["model"] = manifest.lineage.model
        return self.model_copy(update=found)


S = TypeVar("S", bound=Served)


class Kept:
    """What one target's keeper of a project leaves in `.forgeline/deployments`, and how it is spoken to."""

    def __init__(self, root: Path, target: str) -> None:
        self.root = root
        self.folder = root / ".forgeline" / "deployments"
        self.log = self.folder / f"{target}.log"
        self.state = self.folder / f"{target}.json"
        self.control = self.folder / f"{target}.sock"
        self._target = target

    def command(self, order: Path) -> list[str]:
        """Return what starts the keeper, in the project's folder."""
        module = [sys.executable, "-m", "forgeline.serving.keeper"]
        return [*module, "--order", str(order), "--control", str(self.control.relative_to(self.root))]

    def path(self) -> Path:
        """Return where to write the next order: the one before may be needed again."""
        return self.folder / f"{self._target}-{secrets.token_hex(4)}.order.json"

    def tidy(self, live: Path | None) -> None:
        """Delete the orders that are served no more."""
        for path in self.folder.glob(f"{self._target}-*.order.json"):
            if path != live:
                path.unlink(missing_ok=True)

    def save(self, served: Served) -> None:
        """Write what was started."""
        write_json(self.state, served.model_dump(mode="json"))

    def read(self, kind: type[S]) -> S | None:
        """Return what is served, None if nothing is.

        Raises:
            ServingError: if what is written of it cannot be read.
        """
        if not self.state.exists():
            return None
        try:
            return kind.model_validate_json(self.state.read_bytes()).now()
        except ValidationError:
            raise ServingError(
                f"{self.state} is not a deployment's state: end the server by hand and delete the file."
            ) from None

    def forget(self) -> None:
        """Delete what was written, once all has ended."""
        for path in (self.state, self.control):
            path.unlink(missing_ok=True)
        self.tidy(live=None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else deploy meanwhile."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.state.with_suffix(".lock")):
            yield

    def update(self, order: Order, served: S, environment: dict[str, str] | None, check: Callable[[S], object]) -> S:
        """Have a new gateway take over from the one that answers, once `check` has passed where it is tried.

        Without an `environment` it gets that of the one before.

        Raises:
            ServingError: if it does not get ready, or does not pass: then nothing has changed.
        """
        if any(
            isinstance(engine, Ray) and engine.address for engine in (order.serve.engine, *order.serve.others.values())
        ):
            raise ServingError("Two gateways would share the replicas of your Ray cluster: run `forgeline stop` first.")
        following, since = self.state.with_suffix(".next"), self.mark()
        order.save(served.order)
        write_json(following, served.model_dump(mode="json"))
        try:
            with self._conversation() as talk:
                talk.say({"order": str(served.order), "python": sys.executable, "environment": environment})
                url = _url(served.serve, "127.0.0.1", talk.hear()["trial"])
                tried = served.model_copy(update={"url": url})
                self.await_ready(tried, talk.refusal, since)
                check(tried)
                talk.say({"serve": [str(following), str(self.state)]})
                talk.hear()
        except BaseException:
            if following.exists():  # else it has taken over
                for path in (following, served.order):
                    path.unlink()
            raise
        self.tidy(served.order)
        return served

    def await_ready(self, served: Served, ended: Callable[[], str | None], since: int = 0) -> None:
        """Return once a gateway answers.

        Raises:
            ServingError: if it `ended`, which says why, its engine is given up, or it takes too long; with what was
                logged `since`.
        """
        began, seconds, most = time.monotonic(), 0, patience(served.serve)
        with progress_bar(f"Starting version {served.version}", most) as bar:
            while seconds < most:
                if why := ended():
                    fault = f"The server of {served.bundle} ended before it was ready: {why}"
                    raise ServingError(f"{fault} {self.tail(since)}")
                found = health(served, min(ANSWER_SECONDS, most - seconds))
                if found == "degraded":
                    raise ServingError(f"The engine of {served.bundle} is given up: {self.tail(since)}")
                if found == "ready":
                    return
                time.sleep(0.25)
                waited = int(time.monotonic() - began)
                bar.advance(waited - seconds)
                seconds = waited
        raise ServingError(f"The server of {served.bundle} was not ready in {most} s: {self.tail(since)}")

    def mark(self) -> int:
        """Return where the log ends now."""
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self, since: int) -> str:
        """Return the last lines that were logged after a mark."""
        said = self.log.read_bytes()[since:] if self.log.exists() else b""
        lines = said.decode(errors="replace").splitlines()
        return "\n".join([f"the end of {self.log}:", *lines[-LOG_LINES:]])

    @contextmanager
    def _conversation(self) -> Iterator[Conversation]:
        with socket.socket(socket.AF_UNIX) as control:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:  # a socket's path may have 107 bytes at most; one by way of the descriptor is never longer
                by = f"/proc/self/fd/{folder}/{self.control.name}"
                control.connect(by if sys.platform == "linux" else str(self.control))
            except OSError as fault:
                raise ServingError(f"{self.control} does not answer ({fault}): run `forgeline stop` first.") from fault
            finally:
                os.close(folder)
            with control.makefile("rwb") as lines:
                yield Conversation(control, lines)


class Conversation:
    """What is said on the control socket; to hang up is to take back what was asked."""

    def __init__(self, control: socket.socket, lines: BufferedRWPair) -> None:
        self._control = control
        self._lines = lines

    def say(self, said: Mapping[str, Any]) -> None:
        """Say something to the keeper."""
        with suppress(ConnectionError):  # why it is gone is heard
            self._lines.write(json.dumps(said).encode() + b"\n")
            self._lines.flush()

    def hear(self) -> dict[str, Any]:
        """Return its answer; raise ServingError if it refuses, or is gone."""
        answer: dict[str, Any] = json.loads(self._lines.readline() or '{"refused": "The keeper ended meanwhile."}')
        if "refused" in answer:
            raise ServingError(answer["refused"])
        return answer

    def refusal(self) -> str | None:
        """Return why it refuses after all, None if it has not."""
        if not select.select([self._control], [], [], 0)[0]:
            return None
        try:
            self.hear()
        except ServingError as fault:
            return str(fault)
        return None


def patience(serve: Serve) -> int:
    """Return the seconds until a gateway counts as not ready: those that its engine may take to start, and its own."""
    if isinstance(serve.engine, Remote):  # nothing is loaded here
        return READY_SECONDS
    return READY_SECONDS + math.ceil(serve.engine.supervision.start_timeout)


def health(served: Served, seconds: float = ANSWER_SECONDS) -> Health:
    """Ask the server to generate a token; another bundle's server at the same address does not count."""
    address, tls = urlsplit(served.url), served.serve.access.tls
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=seconds)
    if tls:
        context = pinned(tls)
        connection = http.client.HTTPSConnection(str(address.hostname), address.port, timeout=seconds, context=context)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        if answer.status != 200 or answer.getheader("x-forgeline-bundle") != served.digest[:16]:
            return "not ready"
        return "degraded" if json.load(answer)["status"] == "degraded" else "ready"
    except (OSError, http.client.HTTPException):  # nobody listens, or something that is not ours
        return "not ready"
    finally:
        connection.close()


def _url(serve: Serve, host: str, port: int) -> str:
    return f"{'https' if serve.access.tls else 'http'}://{host}:{port}"


def _reached(host: str) -> str:
    """Return where a server that listens on an address, or on all of them, is reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
