"""The image of a bundle: the serving image, the bundle, and the base model that it needs, at paths that never change.

What the settings say comes beside it, as files that a target mounts: one image serves any number of settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgeline.config.schema import Serve
from forgeline.config.schema.serve import Targets
from forgeline.config.schema.serve.engine import Engine, Openvino, Ray, Remote, Transformers, Vllm
from forgeline.errors import ServingError
from forgeline.models import base_name
from forgeline.serving.bundle import verified_base
from forgeline.serving.engines.openvino_variant import form
from forgeline.serving.gateway.access.tls import check_exposure
from forgeline.serving.order import Order
from forgeline.serving.targets import Job, refuse
from forgeline.serving.targets.command import run
from forgeline.sources import cache_root, resolve
from forgeline.sources.environment import VARIABLE

SRV = Path("/srv")
BUNDLE = SRV / "bundle"
BASES = SRV / "bases"
ADAPTERS = SRV / "adapters"
CACHE = SRV / "cache"  # what would be fetched or trained on first use
STATE = SRV / "state"  # the working folder, and the only one beside /tmp that can be written
SETTINGS = SRV / "order"  # where a target mounts the files of `Inside`
ORDER = "order.json"
ENGINE = "engine.json"
TLS = SRV / "tls"
CERTIFICATE, KEY = TLS / "tls.crt", TLS / "tls.key"
USER = 10001  # deploy/serving.Dockerfile makes it
ENGINE_PORT = 8700  # on the loopback address that gateway and engine share
GATEWAY = ["python", "-m", "forgeline.serving.gateway", "--order", str(SETTINGS / ORDER)]
KEYS = ["python", "-m", "forgeline.serving.gateway.access", "--order", str(SETTINGS / ORDER)]
CONTEXT = "image"  # the folder that the image is built in, below the target's


@dataclass(frozen=True)
class Inside:
    """What the containers are told: the files below `SETTINGS`, the gateway's settings, and the engine's command.

    `engine` is the command of an engine in a container of its own, which shares the gateway's loopback address; None if
    the gateway's process is the engine's too. `variables` are those that the settings name, and must be given.
    """

    files: dict[str, str]
    serve: Serve
    engine: list[str] | None
    variables: tuple[str, ...]

    @property
    def scheme(self) -> str:
        """Return what the gateway speaks."""
        return "https" if self.serve.access.tls else "http"


def tag(job: Job) -> str:
    """Return the image's name in its repository: the same bundle has the same."""
    return f"{job.config.serve.targets.image.repository}:{job.manifest.digest[:16]}"


def inside(job: Job, names: tuple[str, ...], *, behind_proxy: bool, answered_by: Engine | None = None) -> Inside:
    """Return the settings as they are in the containers, where clients also call the gateway by `names`.

    `answered_by` stands in for the engine of serve.yaml, if it runs somewhere else.

    Raises:
        ServingError: if the settings cannot be met in a container.
    """
    asked, files = job.config.serve, dict[str, str]()
    access = asked.access.model_dump(mode="json")
    access |= {"hosts": [*asked.access.hosts, *names], "behind_proxy": behind_proxy}
    if asked.access.tls:
        access["tls"] |= {"certificate": str(CERTIFICATE), "key": str(KEY)}
    if asked.access.oidc and asked.access.oidc.public_key:
        files["issuer.pem"] = _read(job, asked.access.oidc.public_key, "serve.access.oidc.public_key")
        access["oidc"]["public_key"] = str(SETTINGS / "issuer.pem")
    signing = {**asked.signing.model_dump(mode="json"), "key": None, "password": None, "trusted": []}
    for number, path in enumerate(asked.signing.trusted):
        files[f"trusted-{number}.pub"] = _read(job, path, "serve.signing.trusted")
        signing["trusted"].append(str(SETTINGS / f"trusted-{number}.pub"))
    engine, command = (answered_by, None) if answered_by else _engine(job)
    for name, other in asked.others.items():
        if isinstance(other, Vllm | Ray):
            raise ServingError(
                f"serve.others.{name} is {other.name}, which has no container: give its address as a url."
            )
    update = {
        "host": "0.0.0.0",  # noqa: S104  what is published of it is the target's to say
        "engine": engine.model_dump(mode="json"),
        "access": access,
        "signing": signing,
        "targets": Targets().model_dump(mode="json"),
    }
    serve = Serve.model_validate({**asked.model_dump(mode="json"), **update})
    check_exposure(serve)
    order = Order(bundle=BUNDLE, serve=serve)
    files[ORDER] = _json(order.model_dump(mode="json"))
    if command and not isinstance(asked.engine, Vllm):
        alone = Serve(engine=_alone(asked.engine), signing=serve.signing, drain_timeout=asked.drain_timeout)
        files[ENGINE] = _json(alone.model_dump(mode="json"))
    variables = tuple(sorted(set(VARIABLE.findall(files[ORDER]))))
    return Inside(files, serve, command, variables)


def dockerfile(job: Job) -> str:
    """Return the file that puts the bundle, and what it needs, on top of the serving image."""
    settings = job.config.serve.targets.image
    lines = [
        "# The bundle on top of the code: docs/targets/compose.md says how the serving image is built.",
        f"FROM {settings.serving} AS gateway",
        "COPY --chmod=0555 . /srv/",
        f"USER {USER}",
    ]
    if isinstance(job.config.serve.engine, Vllm):
        lines += [f"FROM {settings.vllm} AS engine", "COPY --chmod=0555 . /srv/", f"USER {USER}", "ENV HOME=/tmp"]
    return "\n".join(lines) + "\n"


def stage(job: Job, folder: Path) -> None:
    """Lay out what the image holds below /srv, in links where the disk allows; the Dockerfile lies beside.

    Raises:
        ServingError: if the base model is not the one that the bundle was made from.
    """
    context = folder / CONTEXT
    shutil.rmtree(context, ignore_errors=True)
    _lay(job.bundle, context / BUNDLE.relative_to(SRV))
    if job.manifest.base is not None and job.manifest.base_digest is not None:
        base = verified_base(job.manifest, job.config.root)
        _lay(base, context / BASES.relative_to(SRV) / base_name(job.manifest.base.source))
    for file in _kept(job):
        there = context / CACHE.relative_to(SRV) / file.relative_to(cache_root())
        there.parent.mkdir(parents=True, exist_ok=True)
        _put(str(file), str(there))
    engine = job.config.serve.engine
    if isinstance(engine, Openvino):
        variant = form(engine.weights).folder(job.bundle, job.manifest)
        _lay(variant, context / variant.name)
    if isinstance(engine, Transformers):
        for name, path in engine.adapters.items():
            _lay(job.config.root / path, context / ADAPTERS.relative_to(SRV) / name)
    (folder / "Dockerfile").write_text(dockerfile(job), encoding="utf-8")


def built(job: Job, folder: Path, stage_name: str = "gateway") -> str:
    """Build and push the image of a staged bundle; return it by the digest that the registry gave it.

    Raises:
        ServingError: if docker is not there, or the registry takes no image.
    """
    name = tag(job) + ("" if stage_name == "gateway" else f"-{stage_name}")
    run("docker", "build", *build_words(folder, stage_name), "--tag", name, str(folder / CONTEXT))
    run("docker", "push", "--quiet", name)
    digests = json.loads(run("docker", "image", "inspect", "--format", "{{json .RepoDigests}}", name))
    repository = job.config.serve.targets.image.repository
    return next((each for each in digests if each.startswith(f"{repository}@")), name)


def build_words(folder: Path, stage_name: str) -> list[str]:
    """Return what `docker build` is told beside a name for the result and its context."""
    return ["--file", str(folder / "Dockerfile"), "--target", stage_name]


def _engine(job: Job) -> tuple[Engine, list[str] | None]:
    """Return what the gateway asks, and the command of the engine's own container, if it has one."""
    engine = job.config.serve.engine
    if isinstance(engine, Ray):
        raise ServingError(
            "serve.engine is ray: containers have their replicas from their target. Set serve.engine.name to "
            "transformers, or deploy to kuberay."
        )
    if isinstance(engine, Remote):
        return engine, None
    if isinstance(engine, Transformers | Openvino) and not engine.process:
        return _placed(engine), None
    names = {name: name for name in getattr(engine, "adapters", {})}
    remote = Remote(
        name="url",
        url=f"http://127.0.0.1:{ENGINE_PORT}/v1",
        model=job.manifest.lineage.model,
        models=names,
        logprobs=not isinstance(engine, Openvino),
        timeouts=engine.timeouts,
    )
    if isinstance(engine, Vllm):
        return remote, _vllm(job, engine)
    server = ["python", "-m", "forgeline.serving.engines.server", "--bundle", str(BUNDLE)]
    return remote, [*server, "--settings", str(SETTINGS / ENGINE), "--port", str(ENGINE_PORT)]


def _vllm(job: Job, engine: Vllm) -> list[str]:
    from forgeline.serving.engines.vllm import options

    words = options(engine, job.bundle, job.manifest, job.config.root, job.config.serve.drain_timeout)
    places = {str(job.bundle.resolve()): str(BUNDLE)}
    if job.manifest.base is not None and job.manifest.base_digest is not None:
        base = verified_base(job.manifest, job.config.root)
        places[str(base)] = str(BASES / base_name(job.manifest.base.source))
    pattern = re.compile("|".join(re.escape(place) for place in sorted(places, key=len, reverse=True)))
    words = [pattern.sub(lambda found: places[found[0]], word) for word in words]
    server = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    return [*server, *words, "--host", "127.0.0.1", "--port", str(ENGINE_PORT)]


def _alone(engine: Engine) -> dict[str, Any]:
    return _placed(engine).model_dump(mode="json") | {"process": False}


def _placed(engine: Engine) -> Engine:
    """Return an engine's settings with its adapters where they lie in the image."""
    if isinstance(engine, Transformers):
        return engine.model_copy(update={"adapters": {name: str(ADAPTERS / name) for name in engine.adapters}})
    return engine


def _kept(job: Job) -> list[Path]:
    """Return the files of this machine's cache that guards and the semantic cache read, made ready if need be."""
    kept: list[Path] = []
    if job.manifest.guards.toxicity.action != "off":
        from forgeline.data.rules import toxicity

        toxicity.scorer()
        kept += (cache_root() / "toxicity").glob("*.corrected.safetensors")
    if job.config.serve.cache.semantic:
        from forgeline.models.embed import MINILM

        kept += [path for reference in MINILM for path in resolve(reference, job.config.root)]
    return kept


def _lay(source: Path, target: Path) -> None:
    """Put a folder's files below another one; a link to a file elsewhere becomes a file."""
    shutil.copytree(source, target, copy_function=_put)


def _put(found: str, there: str) -> str:
    try:
        os.link(os.path.realpath(found), there)
    except OSError:  # another disk
        shutil.copy2(found, there)
    return there


def _read(job: Job, path: str, key: str) -> str:
    try:
        return (job.config.root / path).read_text(encoding="utf-8")
    except OSError as fault:
        refuse("container", [f"{key}: {path} cannot be read ({fault.strerror})"])


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
