"""Replicas of a bundle's engine under Ray Serve, in a process that is watched like any other engine's.

A module of this name must never lie where Ray looks for modules: its driver is run by `-c`, not as this file.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgeline.config.schema.serve import Signing
from forgeline.config.schema.serve.engine import Ray
from forgeline.errors import ServingError
from forgeline.records import write_json
from forgeline.serving.bundle import NOBODY, Manifest, verify
from forgeline.serving.engines.remote import Endpoint
from forgeline.serving.engines.supervised import Program, Supervised

if TYPE_CHECKING:
    from fastapi import FastAPI

APPLICATION = "forgeline"
DRIVER = "from forgeline.serving.engines.ray import drive; drive()"
OBJECT_STORE = 100 * 2**20  # bytes; requests and replies do not pass through it
LOOK_EVERY = 0.1  # seconds


class RayServe(Supervised):
    """The engine of all replicas. `roll` replaces their bundle without a pause; `forgeline deploy` does not use it."""

    def __init__(
        self,
        name: str,
        settings: Ray,
        bundle: Path,
        manifest: Manifest,
        drain: float,
        folder: Path,
        signing: Signing = NOBODY,
    ) -> None:
        self._order = folder / f"{name}-{secrets.token_hex(4)}.json"  # what the driver is to serve
        self._settings = settings
        self._signing = signing
        program = Program(
            command=lambda port: [sys.executable, "-c", DRIVER, str(self._order), str(port)],
            endpoint=Endpoint.own(manifest.lineage.model, settings.replica, settings.timeouts),
            log=folder / f"{name}.log",
        )
        super().__init__(name, program, settings.supervision, drain)
        self._bundle = bundle
        self._write(bundle)

    async def roll(self, bundle: Path) -> None:
        """Replace the replicas, some at a time, by those of another bundle, while the others answer.

        Raises:
            ServingError: if the bundle was altered, or its replicas do not start; then those before it come back.
        """
        manifest = await asyncio.to_thread(verify, bundle, self._signing)
        self._write(bundle)
        self._served.unlink(missing_ok=True)
        self.signal(signal.SIGHUP)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.supervision.start_timeout):
                while not self._served.is_file():
                    await asyncio.sleep(LOOK_EVERY)
        if not self._served.is_file() or self._served.read_text() != manifest.digest:
            self._write(self._bundle)
            raise ServingError(
                f"The replicas of {bundle} did not start; those of {self._bundle} serve on. See {self._program.log}."
            )
        self._bundle = bundle

    async def close(self) -> None:
        """Let the replicas end what they have begun, then see that they are gone."""
        await super().close()
        for path in (self._order, self._served):
            path.unlink(missing_ok=True)

    @property
    def _served(self) -> Path:
        return _served(self._order)

    def _write(self, bundle: Path) -> None:
        order = {"bundle": str(bundle.resolve()), "root": str(Path.cwd()), "drain": self._drain}
        settings = {"engine": self._settings, "signing": self._signing}
        write_json(self._order, order | {name: section.model_dump(mode="json") for name, section in settings.items()})


def _served(order: Path) -> Path:
    """Return where the driver says which bundle all replicas have; beside what it is to serve."""
    return order.with_suffix(".served")


class Replica:
    """One engine and the server around it; Ray asks it whether it is well."""

    def __init__(self, bundle: str, root: str, settings: dict[str, Any], asked: dict[str, Any]) -> None:
        from forgeline.serving.engines.make import made

        os.chdir(root)
        engine, signing = Ray.model_validate(settings), Signing.model_validate(asked)
        if engine.address is None:
            _listen_on_loopback()
        self._manifest = verify(Path(bundle), signing)
        self._engine = made(engine.replica, Path(bundle), self._manifest, signing=signing)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, whose start is the engine's."""
        from forgeline.serving.engines.server import create_app

        return create_app(self._engine, self._manifest)

    async def check_health(self) -> None:
        """Return once the engine is ready; Ray sends no requests before the first time."""
        while not self._engine.ready:
            if self._engine.failure is not None:
                raise self._engine.failure
            await asyncio.sleep(LOOK_EVERY)


def _listen_on_loopback() -> None:
    """Keep a replica from taking calls, which are pickled code, from every network: Ray Serve 2.60 binds to all."""
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


def drive() -> None:
    """Serve what a file orders, given with the port on the command line; read it again at SIGHUP, end at SIGTERM."""
    order, port = Path(sys.argv[1]), int(sys.argv[2])
    told = queue.SimpleQueue[int]()
    engine = Ray.model_validate(_read(order)["engine"])
    _start(engine, port)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.put(number))
    served = _read(order)
    _deploy(served)
    _say(order, served)
    while told.get() == signal.SIGHUP:
        asked = _read(order)
        try:
            _deploy(asked)
            served = asked
        except RuntimeError as fault:  # what Ray Serve raises when replicas do not start
            print(f"The replicas of {asked['bundle']} did not start: {fault}", flush=True)
            _deploy(served)
        _say(order, served)
    _stop(engine)


def _start(engine: Ray, port: int) -> None:
    """Join the cluster, or start one that nobody but this process tree can reach, and open the port."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    if engine.address is None:  # who reaches a Ray cluster runs code in it: loopback only, and with a token
        os.environ |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # there Ray listens on loopback; the same is right here
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    if engine.address is None:
        processors = max(os.cpu_count() or 1, math.ceil(engine.max_replicas * engine.cpus))
        ray.init(
            num_cpus=processors,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
        )
    else:
        ray.init(address=engine.address)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), proxy_location=ProxyLocation.HeadOnly)


def _deploy(order: dict[str, Any]) -> None:
    """Bring the replicas to what is ordered, and return when all of them are."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig

    engine = Ray.model_validate(order["engine"])
    scaling = AutoscalingConfig(
        min_replicas=engine.replicas,
        max_replicas=engine.max_replicas,
        target_ongoing_requests=engine.target_ongoing_requests,
        upscale_delay_s=engine.up_delay,
        downscale_delay_s=engine.down_delay,
    )
    deployment = serve.deployment(
        autoscaling_config=scaling,
        max_ongoing_requests=4 * engine.target_ongoing_requests,
        graceful_shutdown_timeout_s=order["drain"],
        health_check_period_s=1,
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": engine.cpus, "num_gpus": engine.gpus},
    )
    replicas = deployment(serve.ingress()(Replica))
    application = replicas.bind(order["bundle"], order["root"], order["engine"], order["signing"])
    try:
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError:  # so it says also when one replica was killed meanwhile, though it has started another
        serve.run(application, name=APPLICATION, route_prefix="/")


def _stop(engine: Ray) -> None:
    import ray
    from ray import serve

    if engine.address is None:
        serve.shutdown()
    else:
        serve.delete(APPLICATION)
    ray.shutdown()


def _read(order: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(order.read_text(encoding="utf-8"))
    return read


def _say(order: Path, served: dict[str, Any]) -> None:
    partial = order.with_suffix(".partial")
    signing = Signing.model_validate(served["signing"])
    partial.write_text(verify(Path(served["bundle"]), signing).digest)
    partial.replace(_served(order))
