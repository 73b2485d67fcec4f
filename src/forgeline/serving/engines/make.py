"""From an engine's settings to the engine; what each needs is imported only when it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.config.schema.serve import Serve, Signing
from forgeline.config.schema.serve.engine import Engine as Settings
from forgeline.config.schema.serve.engine import Openvino, Ray, Remote, Transformers, Vllm
from forgeline.lineage import value_digest
from forgeline.records import write_json
from forgeline.serving.bundle import NOBODY, Manifest
from forgeline.serving.engines import Engine
from forgeline.sources.environment import expand

if TYPE_CHECKING:
    from forgeline.serving.engines.remote import Endpoint
    from forgeline.serving.engines.supervised import Program

FOLDER = Path(".forgeline/engines")  # logs and settings of the engines that have a process of their own
PRIMARY = "engine"


def made_all(serve: Serve, bundle: Path, manifest: Manifest) -> dict[str, Engine]:
    """Return the engines of a deployment: `engine`, which answers, and the others by their names.

    Raises:
        ForgelineError: if one cannot be made as its settings ask.
    """
    settings = {PRIMARY: serve.engine, **serve.others}
    bounds = serve.drain_timeout, serve.signing
    return {name: made(asked, bundle, manifest, name, *bounds) for name, asked in settings.items()}


def made(
    settings: Settings,
    bundle: Path,
    manifest: Manifest,
    name: str = PRIMARY,
    drain: float = Serve().drain_timeout,
    signing: Signing = NOBODY,
) -> Engine:
    """Return an engine that serves a verified bundle; relative paths are found below the working folder.

    What it opens beside or after that must be signed as `signing` asks.

    Raises:
        ForgelineError: if it cannot be made as its settings ask.
    """
    match settings:
        case Transformers(process=True) | Openvino(process=True) | Vllm() | Ray():
            return _supervised(settings, bundle, manifest, name, drain, signing)
        case Transformers():
            from forgeline.serving.engines.embedded import Embedded
            from forgeline.serving.engines.transformers import Rows

            return Embedded(settings.name, Rows(bundle, Path.cwd(), manifest, settings.adapters, signing))
        case Openvino():
            from forgeline.serving.engines.embedded import Embedded
            from forgeline.serving.engines.openvino import Continuous
            from forgeline.serving.engines.openvino_variant import admitted

            return Embedded(settings.name, Continuous(*admitted(bundle, manifest, signing, settings.weights), bundle))
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
    drain: float,
    signing: Signing,
) -> Engine:
    from forgeline.serving.engines import ray, supervised, vllm
    from forgeline.serving.engines.openvino_variant import admitted
    from forgeline.serving.engines.remote import Endpoint

    root, folder = Path.cwd(), Path.cwd() / FOLDER
    log = folder / f"{name}.log"
    match settings:
        case Vllm():
            program = vllm.program(settings, bundle, manifest, root, drain, log, signing)
        case Ray():
            return ray.RayServe(name, settings, bundle, manifest, drain, folder, signing)
        case Transformers():
            endpoint = Endpoint.own(manifest.lineage.model, settings, settings.timeouts)
            program = _own_server(settings, endpoint, bundle, drain, log, signing)
        case Openvino():
            admitted(
                bundle, manifest, signing, settings.weights
            )  # what its process would be refused is told before it is started
            endpoint = Endpoint(url="", model=manifest.lineage.model, timeouts=settings.timeouts)
            program = _own_server(settings, endpoint, bundle, drain, log, signing)
    return supervised.Supervised(name, program, settings.supervision, drain)


def _own_server(
    settings: Transformers | Openvino, endpoint: Endpoint, bundle: Path, drain: float, log: Path, signing: Signing
) -> Program:
    """Return our own server of an engine in this environment."""
    from forgeline.serving.engines.supervised import Program

    engine = settings.model_copy(update={"process": False})
    alone = Serve(engine=engine, drain_timeout=drain, signing=signing).model_dump(mode="json")
    path = log.with_name(f"{value_digest(alone)[:16]}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, alone)
    server = (sys.executable, "-m", "forgeline.serving.engines.server")
    return Program(
        command=lambda port: [*server, "--bundle", str(bundle), "--settings", str(path), "--port", str(port)],
        endpoint=endpoint,
        log=log,
    )
