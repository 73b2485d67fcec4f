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
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from forgeline.config.schema.serve import Serve, Signing
from forgeline.config.schema.serve.engine import Ray
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.lineage import value_digest
from forgeline.records import write_json
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.engines import Engine
from forgeline.serving.engines.remote import Endpoint
from forgeline.serving.engines.supervised import Program, Supervised
from forgeline.serving.engines.timed import Timed
from forgeline.serving.scaling import render
from forgeline.serving.scaling.policy import FIRST_TOKEN

if TYPE_CHECKING:
    from fastapi import FastAPI

DRIVER = "from forgeline.serving.engines.ray import drive; drive()"
OBJECT_STORE = 100 * 2**20  # bytes; requests and replies do not pass through it
LOOK_EVERY = 0.1  # seconds
ALIVE = "/-/healthz"  # what the proxy answers by itself, for all applications


class RayServe(Supervised):
    """The engine of all replicas, which are an application of their own on the cluster."""

    def __init__(
        self,
        name: str,
        settings: Ray,
        serve: Serve,
        bundle: Path,
        manifest: Manifest,
        folder: Path,
    ) -> None:
        self._order = folder / f"{name}-{secrets.token_hex(4)}.json"  # what the driver is to serve
        # The same after a restart of the driver, another for each bundle, settings and project on one cluster.
        told = [settings.model_dump(mode="json"), serve.scaling.model_dump(mode="json")]
        self.application = f"forgeline-{value_digest([str(Path.cwd()), name, manifest.digest, *told])[:12]}"
        address = "127.0.0.1:{}" if settings.address is None else settings.proxy
        quiet = None if serve.scaling.min_replicas else ALIVE
        program = Program(
            command=lambda port: [sys.executable, "-c", DRIVER, str(self._order), str(port)],
            endpoint=Endpoint.own(manifest.lineage.model, settings.replica, settings.timeouts, quiet),
            log=folder / f"{name}.log",
            url=f"http://{address}/{self.application}/v1".format,
        )
        super().__init__(name, program, settings.supervision, serve.drain_timeout)
        order = {
            "application": self.application,
            "bundle": str(bundle.resolve()),
            "root": str(Path.cwd()),
            "drain": serve.drain_timeout,
            "engine": settings.model_dump(mode="json"),
            "scaling": serve.scaling.model_dump(mode="json"),
            "signing": serve.signing.model_dump(mode="json"),
        }
        write_json(self._order, order)

    async def close(self) -> None:
        """Let the replicas end what they have begun, then see that they are gone."""
        await super().close()
        self._order.unlink(missing_ok=True)


class Replica:
    """One engine and the server around it; Ray asks it whether it is well, and how late its first tokens are."""

    def __init__(self, order: dict[str, Any]) -> None:
        from forgeline.serving.engines.make import made

        os.chdir(order["root"])
        settings, bundle = Ray.model_validate(order["engine"]), Path(order["bundle"])
        if settings.address is None:
            listen_on_loopback()
        signing = Signing.model_validate(order["signing"])
        self._manifest = verify(bundle, signing)
        window = Scaling.model_validate(order["scaling"]).window
        own = made(settings.replica, bundle, self._manifest, serve=Serve(signing=signing))
        self._engine = Timed(own, window)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, whose start is the engine's."""
        from forgeline.serving.engines.server import create_app

        return create_app(cast(Engine, self._engine), self._manifest)

    async def check_health(self) -> None:
        """Return once the engine is ready; Ray sends no requests before the first time."""
        while not self._engine.ready:
            if self._engine.failure is not None:
                raise self._engine.failure
            await asyncio.sleep(LOOK_EVERY)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the scaling policy may look at beside the number of requests."""
        return {FIRST_TOKEN: self._engine.first_token()}


def listen_on_loopback() -> None:
    """Keep a replica from taking calls, which are pickled code, from every network: Ray Serve 2.60 binds to all."""
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))


def drive() -> None:
    """Serve what a file orders, given with the port on the command line, until SIGTERM."""
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told = queue.SimpleQueue[int]()
    settings, scaling = Ray.model_validate(order["engine"]), Scaling.model_validate(order["scaling"])
    start(settings, scaling, int(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda number, _: told.put(number))
    deploy(Replica, order, settings, scaling)
    told.get()
    _stop(settings, order["application"])


def start(settings: Ray, scaling: Scaling, port: int) -> None:
    """Join the cluster, or start one that nobody but this process tree can reach, and open the HTTP proxy.

    The proxy of a cluster is shared by all its applications; one that is there already stays as it is.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    if settings.address is None:  # who reaches a Ray cluster runs code in it: loopback only, and with a token
        os.environ |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # there Ray listens on loopback; the same is right here
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    host = "127.0.0.1"
    if settings.address is None:
        processors = max(os.cpu_count() or 1, math.ceil(scaling.max_replicas * settings.cpus))
        ray.init(num_cpus=processors, include_dashboard=False, object_store_memory=OBJECT_STORE)
    else:
        ray.init(address=settings.address)
        host, _, given = settings.proxy.partition(":")
        port = int(given)
    serve.start(http_options=HTTPOptions(host=host, port=port), proxy_location=ProxyLocation.HeadOnly)


def deploy(replica: type, order: dict[str, Any], settings: Ray, scaling: Scaling) -> None:
    """Serve an order's application by replicas of a class, and return when as many as must be are ready."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig

    deployment = serve.deployment(
        autoscaling_config=AutoscalingConfig(**render.ray(scaling)),
        max_ongoing_requests=render.AT_ONCE * scaling.ongoing_requests,
        graceful_shutdown_timeout_s=order["drain"],
        health_check_period_s=1,
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
    )
    application = deployment(serve.ingress()(replica)).bind(order)
    name, prefix = order["application"], f"/{order['application']}"
    try:
        serve.run(application, name=name, route_prefix=prefix)
    except RuntimeError:  # so it says also when one replica was killed meanwhile, though it has started another
        serve.run(application, name=name, route_prefix=prefix)


def _stop(settings: Ray, application: str) -> None:
    import ray
    from ray import serve

    if settings.address is None:
        serve.shutdown()
    else:
        serve.delete(application)
    ray.shutdown()
