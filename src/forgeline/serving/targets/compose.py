"""The target `compose`: the gateway, its engine, its databases, and what watches it, on one machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.serving.client import await_key
from forgeline.serving.gateway.access.tls import check_exposure
from forgeline.serving.targets import Check, Job, Plan, Running, folder, forget, refuse, remember, remembered, schemas
from forgeline.serving.targets.command import lines, run
from forgeline.serving.targets.dashboard import dashboard
from forgeline.serving.targets.document import dumped
from forgeline.serving.targets.image import (
    CERTIFICATE,
    CONTEXT,
    KEY,
    KEYS,
    ORDER,
    SETTINGS,
    STATE,
    USER,
    Inside,
    dockerfile,
    inside,
    stage,
    tag,
)
from forgeline.sources.environment import VARIABLE

NAME = "compose"
FILE = "compose.yaml"
PROBE = "import ssl, urllib.request as u; u.urlopen('{}://127.0.0.1:{}/readyz', timeout=12{})"
UNVERIFIED = ", context=ssl._create_unverified_context()"  # it asks itself
ADDRESS = re.compile(
    r"(?P<scheme>postgres\w*|rediss?)(?:\+\w+)?://(?P<user>[^:@/]*|\$\{env:\w+\}):(?P<password>\$\{env:\w+\})"
    r"@(?P<host>[^:/@]+)(?::(?P<port>\d+))?/(?P<name>\w+)"
)
LOOPBACK = {"localhost", "127.0.0.1"}


class Compose:
    """One gateway; what serve.yaml finds on loopback, PostgreSQL and Redis, are services beside it."""

    tried = "rendered and checked against the Compose Specification's schema, not run"

    def plan(self, job: Job) -> Plan:
        """Return the project's files."""
        check_exposure(job.config.serve)
        told = inside(_moved(job), ("gateway",), behind_proxy=job.config.serve.access.tls is None)
        files = {f"order/{name}": text for name, text in told.files.items()}
        project = rendered(job, told)
        files |= {
            FILE: dumped(project),
            "Dockerfile": dockerfile(job),
            "prometheus.yml": dumped(_scraping(told)),
            "grafana/datasources/prometheus.yaml": dumped(DATASOURCE),
            "grafana/dashboards/forgeline.yaml": dumped(PROVIDER),
            "grafana/dashboards/forgeline.json": json.dumps(dashboard(), indent=1) + "\n",
        }
        if faults := schemas.compose(FILE, project):
            refuse(NAME, faults)
        checks = (
            Check(FILE, "the Compose Specification's schema"),
            Check(f"order/{ORDER}", "configs/serve.yaml's schema, and what may listen beyond loopback"),
        )
        acts = ("docker compose build", "docker compose up --detach --wait", "a key for Prometheus", "the smoke test")
        return Plan(files, checks, acts)

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Build and start; if the new containers do not answer, those before come back from their own files."""
        told = inside(_moved(job), ("gateway",), behind_proxy=job.config.serve.access.tls is None)
        _check_tools(told.variables)
        root = job.config.root
        place, former = folder(root, NAME), folder(root, f"{NAME}-former")
        before = remembered(root, NAME)
        if before and place.is_dir():
            shutil.rmtree(former, ignore_errors=True)
            place.rename(former)
        try:
            plan.write(place)
            stage(job, place)
            run("docker", "compose", *_project(place), "build")
            facts = _started(job, told, place)
        except BaseException as fault:
            if not before or not former.is_dir():
                raise
            shutil.rmtree(place, ignore_errors=True)
            former.rename(place)
            run("docker", "compose", *_project(place), "up", "--detach", "--wait", "--remove-orphans")
            if not isinstance(fault, ServingError):
                raise
            raise ServingError(f"{fault} Version {before['version']} was started again and is serving.") from fault
        remember(root, NAME, facts)
        return facts

    def status(self, root: Path) -> Running | None:
        """Return what docker says of the containers; the worst of them counts."""
        facts = remembered(root, NAME)
        if facts is None:
            return None
        told = run("docker", "compose", *_project(folder(root, NAME)), "ps", "--all", "--format", "json")
        services = [json.loads(line) for line in told.splitlines() if line.strip()]
        states = {each["Service"]: each.get("Health") or each["State"] for each in services}
        health: Literal["ready", "not ready", "gone"] = "ready"
        if states.get("gateway") != "healthy":
            health = "not ready" if "gateway" in states else "gone"
        return Running(health=health, version=facts["version"], url=facts["url"], facts={**facts, **states})

    def logs(self, root: Path, lines_: int) -> Iterator[str]:
        """Yield the last lines of each container."""
        if remembered(root, NAME):
            words = (*_project(folder(root, NAME)), "logs", "--no-color", "--tail", str(lines_))
            yield from lines("docker", "compose", *words)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Stop and remove the containers; the volumes with keys, interactions and metrics stay."""
        if remembered(root, NAME) is None:
            return None
        run("docker", "compose", *_project(folder(root, NAME)), "down", "--remove-orphans")
        forget(root, NAME)
        return {"kept": "volumes"}


def rendered(job: Job, told: Inside) -> dict[str, Any]:
    """Return the project."""
    serve, settings = job.config.serve, job.config.serve.targets.compose
    published = f"{'127.0.0.1' if serve.host == 'localhost' else serve.host}:{serve.port}:{serve.port}"
    databases = _databases(serve)
    probe = PROBE.format(told.scheme, serve.port, UNVERIFIED if told.scheme == "https" else "")
    gateway: dict[str, Any] = {
        "image": tag(job),
        "build": {"context": CONTEXT, "dockerfile": "../Dockerfile", "target": "gateway"},
        "ports": [published],
        "environment": {name: reference(f"${{env:{name}}}") for name in told.variables},
        "volumes": [f"./order:{SETTINGS}:ro", f"state:{STATE}"],
        "healthcheck": {
            "test": ["CMD", "python", "-c", probe],
            "interval": "15s",
            "timeout": "15s",
            "retries": 3,
            "start_period": f"{_patience(serve)}s",
            "start_interval": "2s",
        },
        "depends_on": {name: {"condition": "service_healthy"} for name in databases},
        "stop_grace_period": f"{round(serve.drain_timeout) + 15}s",
        **_hardened(),
        **({} if told.engine else _limits(job)),
    }
    services = {"gateway": gateway, **databases}
    secrets: dict[str, Any] = {"prometheus_key": {"file": str(_prometheus_key(job.config.root))}}
    if serve.access.tls:
        root = job.config.root
        secrets["tls_certificate"] = {"file": str((root / serve.access.tls.certificate).resolve())}
        secrets["tls_key"] = {"file": str((root / serve.access.tls.key).resolve())}
        places = (("tls_certificate", CERTIFICATE), ("tls_key", KEY))
        gateway["secrets"] = [{"source": source, "target": str(place)} for source, place in places]
    if told.engine:
        services["engine"] = _engine(job, told)
    secrets["grafana_password"] = {"environment": "GRAFANA_PASSWORD"}
    if "postgres" in databases:
        secrets["db_password"] = {"environment": _password(serve.store)}
    services |= {"prometheus": _prometheus(settings), "grafana": _grafana(settings)}
    volumes: dict[str, Any] = {name: {} for name in ("state", "metrics", "boards", *databases)}
    name = f"forgeline-{re.sub(r'[^a-z0-9_-]', '-', job.config.project.name.lower())}"
    return {"name": name, "services": services, "secrets": secrets, "volumes": volumes}


def reference(text: str) -> str:
    """Return a text with compose's own references in place of ours; an unset variable stops it with a sentence."""
    return VARIABLE.sub(r"${\1:?export it first}", text)


def _moved(job: Job) -> Job:
    """Return the job with databases on loopback called by their services' names."""
    serve = job.config.serve
    limits = serve.limits.model_copy(update={"redis": _renamed(serve.limits.redis, "redis")})
    moved = serve.model_copy(update={"store": _renamed(serve.store, "postgres"), "limits": limits})
    config = job.config.model_copy(update={"serve": moved})
    return Job(config, job.bundle, job.manifest, job.smoke)


def _renamed(address: str | None, service: str) -> Any:
    found = ADDRESS.fullmatch(address or "")
    if address is None or found is None or found["host"] not in LOOPBACK:
        return address
    head, _, tail = address.rpartition("@")
    path = tail.partition("/")[2]
    return f"{head}@{service}/{path}"


def _databases(serve: Serve) -> dict[str, dict[str, Any]]:
    """Return the services of the databases that serve.yaml finds on loopback."""
    settings, services = serve.targets.compose, dict[str, dict[str, Any]]()
    store, redis = ADDRESS.fullmatch(serve.store), ADDRESS.fullmatch(serve.limits.redis or "")
    for address, found, key in ((serve.store, store, "store"), (serve.limits.redis, redis, "limits.redis")):
        if found is None and address is not None and re.search(r"://.*(localhost|127\.0\.0\.1)", address):
            raise ServingError(
                f"serve.{key} does not look like scheme://user:${{env:PASSWORD}}@127.0.0.1/name, from which compose "
                "would make a service."
            )
    if store and store["host"] in LOOPBACK:
        services["postgres"] = {
            "image": settings.postgres,
            "environment": {
                "POSTGRES_USER": reference(store["user"]),
                "POSTGRES_DB": store["name"],
                "POSTGRES_PASSWORD_FILE": "/run/secrets/db_password",
            },
            "secrets": ["db_password"],
            "volumes": ["postgres:/var/lib/postgresql/data"],
            "healthcheck": _asked(f"pg_isready --username {reference(store['user'])} --dbname {store['name']}"),
            **_kept(),
        }
    if redis and redis["host"] in LOOPBACK:
        password = VARIABLE.fullmatch(redis["password"])
        assert password is not None  # noqa: S101
        services["redis"] = {
            "image": settings.redis,
            "command": ["sh", "-c", f'exec redis-server --save "" --requirepass "$${password[1]}"'],
            "environment": {password[1]: reference(password[0])},
            "volumes": ["redis:/data"],
            "healthcheck": _asked(f'REDISCLI_AUTH="$${password[1]}" redis-cli ping | grep -q PONG'),
            **_kept(),
        }
    return services


def _engine(job: Job, told: Inside) -> dict[str, Any]:
    """Return the engine's service: it listens on the gateway's loopback address, and nowhere else."""
    vllm = job.config.serve.engine.name == "vllm"
    assert told.engine is not None  # noqa: S101
    return {
        "image": f"{tag(job)}-engine" if vllm else tag(job),
        **({"build": {"context": CONTEXT, "dockerfile": "../Dockerfile", "target": "engine"}} if vllm else {}),
        **({"shm_size": "2g"} if vllm else {}),  # its processes on several GPUs meet there
        "entrypoint": told.engine[:1],
        "command": told.engine[1:],
        "network_mode": "service:gateway",
        "volumes": [f"./order:{SETTINGS}:ro"],
        "stop_grace_period": f"{round(job.config.serve.drain_timeout) + 15}s",
        **_hardened(),
        **_limits(job),
    }


def _prometheus(settings: Any) -> dict[str, Any]:
    return {
        "image": settings.prometheus,
        "volumes": ["./prometheus.yml:/etc/prometheus/prometheus.yml:ro", "metrics:/prometheus"],
        "secrets": ["prometheus_key"],
        "ports": [f"127.0.0.1:{settings.prometheus_port}:9090"],
        **_kept(),
    }


def _grafana(settings: Any) -> dict[str, Any]:
    return {
        "image": settings.grafana,
        "environment": {
            "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana_password",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        },
        "secrets": ["grafana_password"],
        "volumes": ["./grafana:/etc/grafana/provisioning:ro", "boards:/var/lib/grafana"],
        "ports": [f"127.0.0.1:{settings.grafana_port}:3000"],
        "depends_on": ["prometheus"],
        **_kept(),
    }


def _hardened() -> dict[str, Any]:
    return {
        "user": f"{USER}:{USER}",
        "read_only": True,
        "tmpfs": ["/tmp:exec,mode=1777"],  # noqa: S108  what compiles its kernels does so there
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
    }


def _kept() -> dict[str, Any]:
    return {"restart": "unless-stopped", "security_opt": ["no-new-privileges:true"]}


def _limits(job: Job) -> dict[str, Any]:
    asked = job.config.serve.targets.resources
    reservations: dict[str, Any] = {"cpus": f"{asked.cpus:g}", "memory": asked.memory.removesuffix("i").lower()}
    if asked.gpus:
        reservations["devices"] = [{"driver": "nvidia", "count": asked.gpus, "capabilities": ["gpu"]}]
    return {"deploy": {"resources": {"limits": {"memory": reservations["memory"]}, "reservations": reservations}}}


def _asked(command: str) -> dict[str, Any]:
    return {"test": ["CMD-SHELL", command], "interval": "10s", "timeout": "5s", "retries": 6}


def _scraping(told: Inside) -> dict[str, Any]:
    job: dict[str, Any] = {
        "job_name": "forgeline",
        "scheme": told.scheme,
        "authorization": {"credentials_file": "/run/secrets/prometheus_key"},
        "static_configs": [{"targets": [f"gateway:{told.serve.port}"]}],
    }
    if told.scheme == "https":  # within the project's own network, by a name that its certificate need not have
        job["tls_config"] = {"insecure_skip_verify": True}
    return {"global": {"scrape_interval": "15s"}, "scrape_configs": [job]}


DATASOURCE = {
    "apiVersion": 1,
    "datasources": [
        {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "url": "http://prometheus:9090"}
        | {"access": "proxy", "isDefault": True}
    ],
}
PROVIDER = {
    "apiVersion": 1,
    "providers": [
        {"name": "forgeline", "type": "file", "options": {"path": "/etc/grafana/provisioning/dashboards"}},
    ],
}


def _started(job: Job, told: Inside, place: Path) -> dict[str, Any]:
    """Start the services, give Prometheus its key, and let the smoke test speak; return what is remembered."""
    up = ("docker", "compose", *_project(place), "up", "--detach", "--wait")
    watched_by = _prometheus_key(job.config.root)
    watched_by.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    watched_by.touch(mode=0o644)
    run(*up, "gateway", *(["engine"] if told.engine else []))
    _renew_prometheus_key(job, place)
    run(*up, "--remove-orphans")
    url = f"{told.scheme}://{_reached(job.config.serve.host)}:{job.config.serve.port}"
    key = run(*_keys(place), "--name", "smoke test", "--role", "caller", "--days", "0.05").strip()
    await_key(url, key, job.config.serve.access.tls)
    job.smoke(url, key)
    return {
        "version": job.manifest.lineage.version,
        "model": job.manifest.lineage.model,
        "digest": job.manifest.digest,
        "url": url,
        "image": tag(job),
    }


def _renew_prometheus_key(job: Job, place: Path) -> None:
    """Write an operator's key into the file that Prometheus reads, unless a young one is there."""
    path, days = _prometheus_key(job.config.root), job.config.serve.access.key_days
    if path.stat().st_size and time.time() - path.stat().st_mtime < days * 86_400 / 2:
        return
    key = run(*_keys(place), "--name", "Prometheus", "--role", "operator", "--days", str(days)).strip()
    path.write_text(key, encoding="ascii")


def _prometheus_key(root: Path) -> Path:
    """Return the key's file: in a folder that only we can open, and readable to whoever Prometheus runs as."""
    return root.resolve() / ".forgeline" / "keys" / "prometheus"


def _keys(place: Path) -> tuple[str, ...]:
    return ("docker", "compose", *_project(place), "exec", "-T", "gateway", *KEYS)


def _project(place: Path) -> tuple[str, ...]:
    return ("--project-directory", str(place), "--file", str(place / FILE))


def _check_tools(variables: tuple[str, ...]) -> None:
    run("docker", "compose", "version")
    missing = [name for name in (*variables, "GRAFANA_PASSWORD") if not os.environ.get(name)]
    if missing:
        raise ServingError(f"compose needs {', '.join(missing)} in the environment: export it first.")


def _password(store: str) -> str:
    found = ADDRESS.fullmatch(store)
    name = VARIABLE.fullmatch(found["password"]) if found else None
    assert name is not None  # noqa: S101
    return name[1]


def _patience(serve: Serve) -> int:
    supervision = getattr(serve.engine, "supervision", None)
    return 60 + round(supervision.start_timeout if supervision else 0)


def _reached(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
