"""Keep a gateway on a socket that outlives it: `python -m forgeline.serving.keeper --order PATH`.

The listening socket is this process's, or systemd's. Callers wait in its queue while no gateway runs, and an update
hands it from one gateway to the next. SIGTERM and SIGINT go to the gateways. This process imports nothing heavy.

An update is one conversation on the control socket, a JSON object a line:

    {"order": PATH, "python": PATH, "environment": {...}}   who deploys asks for a gateway beside the one that answers,
                                                            with an environment, or null for the one there is
    {"trial": PORT}                                         it will answer there, and only there
    {"serve": [FROM, TO]}                                   it passed: it takes over, and FROM is renamed to TO
    {"process": PID}                                        it has

If who deploys hangs up before, the new gateway is ended. If that ends, or cannot be started, the answer is
{"refused": WHY}. In each case the old one never noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from forgeline.errors import ForgelineError, ServingError
from forgeline.serving.restarts import Restarts
from forgeline.serving.sockets import FIRST, inherited, listen

SERVE, RETIRE, READY, SERVING = b"serve\n", b"retire\n", b"ready\n", b"serving\n"
RESTARTS, WINDOW = 5, 600.0  # more ends in so many seconds, and it is given up
EXIT_SECONDS = 15.0  # that a gateway may take to be gone, beside its drain
ABOVE_PASSED = 10  # descriptors that no socket passed on is moved to
T = TypeVar("T")
LONGEST_LINE = 2**20  # of the conversation, in bytes: an environment is in it


@dataclass(frozen=True)
class Launch:
    """How a gateway is started; `serve` is of the order: settings that were validated when it was written."""

    order: Path
    python: str
    environment: Mapping[str, str]
    serve: Mapping[str, Any]

    @classmethod
    def of(cls, order: Path, python: str, environment: Mapping[str, str]) -> Launch:
        """Return the launch of an order, or of a deployment's state, which names one.

        Raises:
            ServingError: if it is not there, or is neither.
        """
        try:
            read = json.loads(order.read_bytes())
            return cls(Path(read.get("order", order)), python, environment, read["serve"])
        except (OSError, ValueError, LookupError, AttributeError) as fault:
            raise ServingError(f"{order} is not an order ({fault}): `forgeline deploy` writes it.") from None

    @property
    def address(self) -> tuple[str, int]:
        """Where it is to answer."""
        return self.serve["host"], self.serve["port"]


class Gateway:
    """A gateway's process. The channel to it closes with it, by which each of the two knows that the other is gone."""

    def __init__(self, launch: Launch, *listeners: socket.socket) -> None:
        self.launch = launch
        self.ready, self.serving, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.why = ""
        self._channel, theirs = socket.socketpair()
        passed = [_high(each) for each in (*listeners, theirs)]
        channel = FIRST + len(listeners)
        command = [launch.python, "-m", "forgeline.serving.gateway", "--order", str(launch.order)]
        try:
            self.process = os.posix_spawn(
                launch.python,
                [*command, "--keeper", str(channel)],
                {**launch.environment, "LISTEN_FDS": str(len(listeners))},
                file_actions=[(os.POSIX_SPAWN_DUP2, each, FIRST + at) for at, each in enumerate(passed)],
            )
        except OSError as fault:
            raise ServingError(f"{launch.python} cannot be started ({fault}).") from fault
        finally:
            theirs.close()
            for each in passed:
                os.close(each)
        self._listening = asyncio.create_task(self._listen())

    def tell(self, word: bytes) -> None:
        """Say something to it, unless it is gone."""
        with suppress(OSError):
            self._channel.send(word)

    def signal(self, number: int) -> None:
        """Send it a signal, unless it is gone."""
        if not self.ended.is_set():
            os.kill(self.process, number)

    async def end(self, patience: float) -> None:
        """See that it ends, by force once `patience` is over."""
        try:
            await asyncio.wait_for(self.ended.wait(), patience)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended.wait()

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._channel.dup())
        with suppress(ConnectionError):
            async for line in reader:
                {READY: self.ready, SERVING: self.serving}[line].set()
        writer.close()
        _, status = os.waitpid(self.process, 0)
        code = os.waitstatus_to_exitcode(status)
        self.why = f"it ended with exit code {code}" if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
        self._channel.close()
        self.ended.set()


class Keeper:
    """Has one gateway answer, and starts it again when it dies."""

    def __init__(self, launch: Launch, shared: socket.socket) -> None:
        self._shared = shared
        self._trial = listen("127.0.0.1", 0)  # where the next gateway is tried
        self._restarts = Restarts(RESTARTS, WINDOW)
        self._over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._answered = False
        self._updating = asyncio.Lock()
        self._gateways: set[Gateway] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._live = self._started(launch, shared)
        self._begin(self._hold(self._live))

    async def wait(self) -> str | None:
        """Return, once the gateways have ended, why this one was given up; None if it was told to end."""
        try:
            return await self._over
        finally:
            self._signal(signal.SIGTERM)
            await asyncio.gather(*(gateway.ended.wait() for gateway in self._gateways))

    def end(self) -> None:
        """Have the gateways drain and end, at a second call at once."""
        if self._over.done():
            self._signal(signal.SIGTERM)
        else:
            self._over.set_result(None)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Update as is asked on the control socket."""
        with suppress(ConnectionError):  # nobody is there any more to be answered
            try:
                if self._updating.locked() or self._over.done():
                    raise ServingError("Another deployment is under way, or this one is being stopped: try again.")
                async with self._updating:
                    await _say(writer, {"process": await self._update(reader, writer)})
            except ForgelineError as fault:
                await _say(writer, {"refused": str(fault)})
        writer.close()

    async def _update(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """Start a gateway beside the one that answers, and have it take over if it is told that it passed."""
        asked = json.loads(await reader.readline())
        environment = asked["environment"] or self._live.launch.environment
        launch = Launch.of(Path(asked["order"]), asked["python"], environment)
        shared = self._socket_of(launch)
        gateway = self._started(launch, shared, self._trial)
        try:
            await _say(writer, {"trial": self._trial.getsockname()[1]})
            line = await _before(gateway, reader.readline())
            if not line:
                raise ConnectionError("who deploys has hung up")
            gateway.tell(SERVE)
            await _before(gateway, gateway.serving.wait())
            _rename(*json.loads(line)["serve"])
        except BaseException:
            if gateway.serving.is_set():
                gateway.tell(RETIRE)  # nobody whom it already answers is dropped
            else:
                gateway.signal(signal.SIGTERM)
            self._begin(gateway.end(EXIT_SECONDS))
            if shared is not self._shared:
                shared.close()
            raise
        former, self._live = self._live, gateway
        former.tell(RETIRE)
        self._begin(former.end(former.launch.serve["drain_timeout"] + EXIT_SECONDS))
        if shared is not self._shared:
            self._shared.close()
            self._shared = shared
        self._restarts = Restarts(RESTARTS, WINDOW)
        self._begin(self._hold(gateway))
        return gateway.process

    def _socket_of(self, launch: Launch) -> socket.socket:
        """Return the socket that there is, or a new one if the address is another."""
        (host, port), (_, former) = launch.address, self._live.launch.address
        if launch.address == self._live.launch.address:
            return self._shared
        if port == former:
            raise ServingError(
                f"serve.host cannot become {host} while port {port} is served: run `forgeline stop` first."
            )
        return listen(host, port)

    async def _hold(self, gateway: Gateway) -> None:
        """Have a gateway answer once it is ready, and start another whenever it dies, as long as it is the live one."""
        while True:
            await _first(gateway.ready.wait(), gateway.ended.wait())
            if not (gateway.serving.is_set() or gateway.ended.is_set()):
                gateway.tell(SERVE)
                self._answered = True
                tell_systemd("READY=1")
            await gateway.ended.wait()
            if gateway is not self._live or self._over.done():
                return
            if not self._answered:
                self._over.set_result(f"The gateway was never ready: {gateway.why}.")
                return
            pause = self._restarts.pause()
            if pause is None:
                many = f"The gateway is given up after {len(self._restarts)} ends in {WINDOW:g} s"
                self._over.set_result(f"{many}. The last: {gateway.why}.")
                return
            print(f"the gateway is started again in {pause:.1f} s: {gateway.why}", file=sys.stderr, flush=True)
            await asyncio.sleep(pause)
            if gateway is not self._live or self._over.done():  # an update, or the end, came meanwhile
                return
            gateway = self._live = self._started(gateway.launch, self._shared)

    def _started(self, launch: Launch, *listeners: socket.socket) -> Gateway:
        gateway = Gateway(launch, *listeners)
        self._gateways.add(gateway)
        self._begin(self._forget(gateway))
        return gateway

    async def _forget(self, gateway: Gateway) -> None:
        await gateway.ended.wait()
        self._gateways.discard(gateway)

    def _signal(self, number: int) -> None:
        for gateway in self._gateways:
            gateway.signal(number)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) and not self._over.done():
            self._over.set_exception(fault)


def tell_systemd(state: str) -> None:
    """Send a state to systemd, if it started this process and wants to know: sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)


async def keep(order: Path, control: str | None) -> str | None:
    """Keep the gateway of an order, or of a state that names one, until told to end; return why, if it was given up.

    Raises:
        ServingError: if there is no such order, or its address is taken.
    """
    listeners = inherited()
    launch = Launch.of(
        order, sys.executable, {name: os.environ[name] for name in os.environ if name != "NOTIFY_SOCKET"}
    )
    keeper = Keeper(launch, listeners[0] if listeners else listen(*launch.address))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, keeper.end)
    if control:
        others = os.umask(0o177)
        await asyncio.start_unix_server(keeper.converse, control, limit=LONGEST_LINE)
        os.umask(others)
    return await keeper.wait()


async def _before(gateway: Gateway, awaited: Coroutine[Any, Any, T]) -> T:
    """Return what is awaited; raise ServingError if the gateway ends before."""
    task = asyncio.ensure_future(awaited)
    await _first(asyncio.shield(task), gateway.ended.wait())
    if task.done():
        return task.result()
    task.cancel()
    raise ServingError(f"The new gateway is gone: {gateway.why}.")


async def _first(*awaited: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(each) for each in awaited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _say(writer: asyncio.StreamWriter, said: Mapping[str, Any]) -> None:
    writer.write(json.dumps(said).encode() + b"\n")
    await writer.drain()


def _rename(following: str, state: str) -> None:
    try:
        os.replace(following, state)
    except OSError as fault:
        raise ServingError(f"The deployment was taken back ({fault}).") from fault


def _high(passed: socket.socket) -> int:
    """Return a copy of a descriptor that is out of the way of those it is to be copied to."""
    return fcntl.fcntl(passed, fcntl.F_DUPFD_CLOEXEC, ABOVE_PASSED)


def main() -> None:
    """Read the command line and keep a gateway."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.keeper", description="Keep a gateway running.")
    parser.add_argument("--order", type=Path, required=True, help="what to serve and how, as `forgeline deploy` writes")
    parser.add_argument("--control", help="the socket by which whoever deploys asks for an update")
    arguments = parser.parse_args()
    if why := asyncio.run(keep(arguments.order, arguments.control)):
        raise ServingError(why)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
