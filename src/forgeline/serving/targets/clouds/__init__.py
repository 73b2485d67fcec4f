"""What the managed targets share: the container that each is told to run, what its service is called, and how to wait.

Every one of them runs the image `serve.targets.pushed` behind a front of the vendor's, which ends TLS. Some pass the
caller's headers on, and the gateway asks for its own keys as anywhere; others have told who may by themselves
(`platform`), and the gateway takes their word at `/invocations`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.access import ANY_HOST, Oidc
from forgeline.config.schema.serve.signing import Signing
from forgeline.config.schema.serve.targets import Targets
from forgeline.errors import ServingError, SourceError
from forgeline.progress import progress_bar
from forgeline.serving.contained import SCRATCH
from forgeline.serving.targets import Job, refuse, remembered
from forgeline.sources.environment import VARIABLE, expand

if TYPE_CHECKING:
    from ssl import SSLContext

PORT = 8080  # SageMaker's; Cloud Run, Lambda's adapter and the others are told
COMMAND = ("python", "-m", "forgeline.serving.contained")
ELSEWHERE = {"sampling", "guards", "parity", "targets", "scaling"}  # in the bundle, or of no use to a gateway
SECONDS = 7200  # the longest that anything here is waited for
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Container:
    """What runs: an image and its environment, in which `${env:NAME}` stands for a secret."""

    image: str
    environment: dict[str, str]
    serve: Serve

    @property
    def secrets(self) -> tuple[str, ...]:
        """The variables that the settings refer to."""
        return tuple(name for name, value in self.environment.items() if value == reference(name))


def reference(name: str) -> str:
    """Return how a variable's value is referred to."""
    return f"${{env:{name}}}"


def container(
    job: Job,
    target: str,
    *,
    platform: bool,
    longest: float,
    drain: float,
    faults: Iterable[str] = (),
    own_tls: bool = False,
) -> Container:
    """Return what a target runs of a job; `longest` and `drain` are the seconds that it gives a request, and its end.

    With `own_tls` the front, which ends TLS anywhere, does so with the certificate of serve.yaml.

    Raises:
        ServingError: with `faults`, if there are any, and those of the settings.
    """
    asked, found = job.config.serve, [*faults]
    if asked.targets.pushed is None:
        found.append("serve.targets.pushed: give the pushed image by its digest, registry/name@sha256:…")
    if asked.store.startswith("sqlite") and not platform:
        found.append("serve.store: keys in a container's own file are gone with it; name a PostgreSQL that it reaches")
    if asked.access.tls is not None and not own_tls:
        found.append("serve.access.tls: the vendor's front ends TLS; leave it out here")
    if found:
        refuse(target, found)
    files, signing, oidc = _keys(job)
    front = {"anonymous": (), "behind_proxy": True, "platform": platform, "hosts": ANY_HOST, "oidc": oidc, "tls": None}
    access = asked.access.model_copy(update=front)
    changed: dict[str, Any] = {
        "host": "0.0.0.0",  # noqa: S104  the vendor's front is the only one who reaches it
        "port": PORT,
        "access": access,
        "signing": signing,
        "limits": asked.limits.model_copy(update={"request_timeout": min(asked.limits.request_timeout, longest)}),
        "drain_timeout": min(asked.drain_timeout, drain),
    }
    if asked.store.startswith("sqlite"):
        changed["store"] = "sqlite:////tmp/gateway.db"
    serve = asked.model_copy(update=changed)
    settings = _settings(serve)
    names = dict.fromkeys(VARIABLE.findall(settings))
    environment = {"FORGELINE_DIGEST": job.manifest.digest, "FORGELINE_SETTINGS": settings, **files}
    return Container(str(asked.targets.pushed), environment | {name: reference(name) for name in names}, serve)


def given(job: Job, target: str, key: str) -> Any:
    """Return the section of a target; raise ServingError if serve.yaml has none."""
    section = getattr(job.config.serve.targets, key)
    if section is None:
        kind = next(each for each in get_args(Targets.model_fields[key].annotation) if each is not type(None))
        needed = ", ".join(name for name, field in kind.model_fields.items() if field.is_required())
        refuse(target, [f"serve.targets.{key}: is not given{f'; it needs {needed}' if needed else ''}"])
    return section


def filled(body: Any, target: str) -> Any:
    """Return a body with the values of secrets in place of `${env:NAME}`, to be sent and not kept.

    Raises:
        ServingError: naming the first variable that is not set.
    """
    if isinstance(body, dict):
        return {key: filled(value, target) for key, value in body.items()}
    if isinstance(body, list):
        return [filled(value, target) for value in body]
    if isinstance(body, str) and VARIABLE.fullmatch(body):
        try:
            return expand(body)
        except SourceError as fault:
            raise ServingError(f"The {target} target hands a secret on that is not there: {fault}") from None
    return body


def service(job: Job, most: int = 40) -> str:
    """Return what a project's service is called: lower case, digits and hyphens, as every vendor allows."""
    name = re.sub(r"[^a-z0-9]+", "-", job.config.project.name.lower()).strip("-")[:most].strip("-")
    return name if name[:1].isalpha() else f"m-{name}"[:most]


def release(job: Job, body: Any, joint: str = "-v") -> str:
    """Return what one version of it is called: another for whatever else would be made of the same version."""
    from forgeline.lineage import value_digest

    version = re.sub(r"[^a-z0-9]+", "-", job.manifest.lineage.version.lower())
    return f"{joint}{version}-{value_digest([job.manifest.digest, body])[:8]}"


def facts(job: Job, **more: Any) -> dict[str, Any]:
    """Return what the ledger and the state know of a deployment, and `more`; never a secret."""
    lineage = job.manifest.lineage
    return {
        "model": lineage.model,
        "version": lineage.version,
        "bundle": job.manifest.digest,
        "image": job.config.serve.targets.pushed,
        **more,
    }


def stays(job: Job, target: str, about: dict[str, Any], *places: str) -> None:
    """Refuse to deploy to another place than where the deployment is: that one would go on, and be forgotten.

    Raises:
        ServingError: naming both.
    """
    known = remembered(job.config.root, target)
    for place in places if known else ():
        if known and known[place] != about[place]:
            raise ServingError(
                f"The {target} target runs with {place} {known[place]}, and configs/serve.yaml says {about[place]}: "
                f"take it down first with `forgeline deploy destroy --target {target}`."
            )


def wait(what: str, look: Callable[[], Seen | None], every: float, seconds: float = SECONDS) -> Seen:
    """Return what `look` sees as soon as that is not None; it is asked every so many seconds.

    Raises:
        ServingError: if nothing was seen in time.
    """
    started, told = time.monotonic(), 0
    with progress_bar(what, round(seconds)) as bar:
        while (seen := look()) is None:
            passed = time.monotonic() - started
            if passed > seconds:
                raise ServingError(f"{what}: nothing came of it in {seconds:.0f} s; look at the vendor's console.")
            bar.advance(round(passed) - told)
            told = round(passed)
            time.sleep(every)
    return seen


def answering(url: str, every: float, seconds: float = 900, context: SSLContext | None = None) -> str:
    """Return a new address once its gateway is ready: names take a while to be known, and models to be loaded.

    Raises:
        ServingError: if it is not in time.
    """
    from urllib.error import URLError
    from urllib.request import urlopen

    def look() -> str | None:
        try:
            with urlopen(f"{url}/readyz", timeout=60, context=context):  # noqa: S310  the vendor told us the address
                return url
        except (URLError, OSError):
            return None

    return wait(f"{url} is awaited", look, every, seconds)


def rendered(body: Any) -> str:
    """Return a body as it is printed and kept."""
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _keys(job: Job) -> tuple[dict[str, str], Signing, Oidc | None]:
    """Return the public keys that the settings name by a file, as variables, and the settings that name those."""
    asked, files = job.config.serve, dict[str, str]()

    def handed(path: str, variable: str) -> str:
        try:
            files[variable] = (job.config.root / path).read_text(encoding="ascii")
        except (OSError, ValueError) as fault:
            raise ServingError(f"{path} is not a public key's PEM file: {fault}") from None
        return str(SCRATCH / variable)

    trusted = tuple(handed(path, f"FORGELINE_FILE_TRUSTED_{at}") for at, path in enumerate(asked.signing.trusted))
    oidc = asked.access.oidc
    if oidc and oidc.public_key:
        oidc = oidc.model_copy(update={"public_key": handed(oidc.public_key, "FORGELINE_FILE_ISSUER")})
    return files, asked.signing.model_copy(update={"key": None, "password": None, "trusted": trusted}), oidc


def _settings(serve: Serve) -> str:
    told = serve.model_dump(mode="json", exclude_defaults=True, exclude=ELSEWHERE)
    for key, engine in (("engine", serve.engine), *serve.others.items()):
        place = told if key == "engine" else told["others"]
        place[key] = {"name": engine.name, **place.get(key, {})}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    Serve.model_validate_json(text)
    return text
