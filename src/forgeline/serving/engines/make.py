"""From an engine's settings to the engine; what each needs is imported only when it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.config.schema.serve import Serve
from forgeline.config.schema.serve.engine import Engine as Settings
from forgeline.config.schema.serve.engine import Openvino, Ray, Remote, Transformers, Vllm
from forgeline.lineage import value_digest
from forgeline.records import write_json
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine
from forgeline.sources.environment import expand

if TYPE_CHECKING:
    from forgeline.serving.engines.remote import Endpoint
    from forgeline.serving.engines.supervised import Program

FOLDER = Path(".forgeline/engines")  # logs and settings of the engines that have a process of their own
PRIMARY = "engine"
DEFAULT = Serve()


def made_all(serve: Serve, bundle: Path, manifest: Manifest) -> dict[str, Engine]:
    """Return the engines of a deployment: `engine`, which answers, and the others by their names.

    Raises:
        ForgelineError: if one cannot be made as its settings ask.
    """
    settings = {PRIMARY: serve.engine, **serve.others}
    return {name: made(asked, bundle, manifest, name, serve) for name, asked in settings.items()}


def made(
    settings: Settings,
    bundle: Path,
    manifest: Manifest,
    name: str = PRIMARY,
    serve: Serve = DEFAULT,
) -> Engine:
    """Return an engine that serves a verified bundle; relative paths are found below the working folder.

    Of `serve` it takes the time to drain, the scaling of replicas, and how what it opens beside the bundle is signed.

    Raises:
        ForgelineError: if it cannot be made as its settings ask.
    """
    match settings:
        case Transformers(process=True) | Openvino(process=True) | Vllm() | Ray():
            return _supervised(settings, bundle, manifest, name, serve)
        case Transformers():
            from forgeline.serving.engines.embedded import Embedded
            from forgeline.serving.engines.transformers import Rows

            return Embedded(settings.name, Rows(bundle, Path.cwd(), manifest, settings.adapters, serve.signing))
        case Openvino():
            from forgeline.serving.engines.embedded import Embedded
            from forgeline.serving.engines.openvino import Continuous
            from forgeline.serving.engines.openvino_variant import admitted

            return Embedded(
                settings.name, Continuous(*admitted(bundle, manifest, serve.signing, settings.weights), bundle)
            )
        case Remote():
            from forgeline.serving.engines import remote

            endpoint = remote.Endpoint(
                url=expand(settings.url),
                key=expand(settings.key) if settings.key else None,
                model=settings.model,
                models=settings.models,
                gives_logprobs=settings.logprobs,
                timeouts=settings.timeouts,
            )
            return remote.Remote(name, endpoint)


def _supervised(
    settings: Transformers | Openvino | Vllm | Ray,
    bundle: Path,
    manifest: Manifest,
    name: str,
    serve: Serve,
) -> Engine:
    from forgeline.serving.engines import ray, supervised, vllm
    from forgeline.serving.engines.openvino_variant import admitted
    from forgeline.serving.engines.remote import Endpoint

    root, folder = Path.cwd(), Path.cwd() / FOLDER
    log = folder / f"{name}.log"
    match settings:
        case Vllm():
            program = vllm.program(settings, bundle, manifest, root, serve.drain_timeout, log, serve.signing)
        case Ray():
            return ray.RayServe(name, settings, serve, bundle, manifest, folder)
        case Transformers():
            endpoint = Endpoint.own(manifest.lineage.model, settings, settings.timeouts)
            program = _own_server(settings, endpoint, bundle, log, serve)
        case Openvino():
            # What its process would be refused is told before it is started.
            admitted(bundle, manifest, serve.signing, settings.weights)
            endpoint = Endpoint(url="", model=manifest.lineage.model, timeouts=settings.timeouts)
            program = _own_server(settings, endpoint, bundle, log, serve)
    return supervised.Supervised(name, program, settings.supervision, serve.drain_timeout)


def _own_server(
    settings: Transformers | Openvino, endpoint: Endpoint, bundle: Path, log: Path, serve: Serve
) -> Program:
    """Return our own server of an engine in this environment."""
    from forgeline.serving.engines.supervised import Program

    engine = settings.model_copy(update={"process": False})
    alone = Serve(engine=engine, drain_timeout=serve.drain_timeout, signing=serve.signing).model_dump(mode="json")
    path = log.with_name(f"{value_digest(alone)[:16]}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, alone)
    server = (sys.executable, "-m", "forgeline.serving.engines.server")
    return Program(
        command=lambda port: [*server, "--bundle", str(bundle), "--settings", str(path), "--port", str(port)],
        endpoint=endpoint,
        log=log,
    )
