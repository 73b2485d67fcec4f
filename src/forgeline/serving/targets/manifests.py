"""A deployment in Kubernetes' words: hardened pods, who may reach them, and how many there are."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.lineage import value_digest
from forgeline.serving.scaling.render import hpa, keda, needs_keda
from forgeline.serving.targets import Job
from forgeline.serving.targets.image import SETTINGS, STATE, TLS, USER, Inside, tag

Manifest = dict[str, Any]
PORT = "http"
MARGIN = 20  # seconds beside the drain until a pod is killed
NOTICED = 5  # seconds until every balancer knows that a pod goes
SLOW = 12  # seconds; the gateway's own probe of the engine takes 10 at most
DATABASES = {"postgresql": 5432, "redis": 6379, "rediss": 6379}


def name_of(job: Job) -> str:
    """Return what the objects are called; a name that Kubernetes takes."""
    return re.sub(r"[^a-z0-9-]+", "-", job.config.project.name.lower()).strip("-")[:40]


def host_names(job: Job) -> tuple[str, ...]:
    """Return the names by which clients call the gateway in a cluster."""
    asked, name = job.config.serve.targets.kubernetes, name_of(job)
    service = (name, f"{name}.{asked.namespace}", f"{name}.{asked.namespace}.svc")
    return (*service, f"{service[-1]}.cluster.local", *([asked.host] if asked.host else []))


def labels(job: Job) -> dict[str, str]:
    """Return what all objects carry, and pods are chosen by."""
    return {"app.kubernetes.io/name": name_of(job), "app.kubernetes.io/managed-by": "forgeline"}


def objects(job: Job, told: Inside) -> dict[str, Manifest]:
    """Return the objects by the names of their files; the namespace comes first.

    Raises:
        ServingError: if serve.yaml asks for what cannot be had by replicas in a cluster.
    """
    scaling, name = job.config.serve.scaling, name_of(job)
    if scaling.min_replicas == 0:
        raise ServingError(
            "serve.scaling.min_replicas is 0, and then nothing would hold the request that wakes the last pod: "
            "set it to 1, or deploy to kserve, which does."
        )
    scaler = {"scaledobject": keda(scaling, name)} if needs_keda(scaling) else {"hpa": hpa(scaling, name)}
    made = {
        **shared(job, told),
        "deployment": deployment(job, told),
        "service": service(job),
        **scaler,
        "disruption": disruption(job),
        "network": network(job, told),
    }
    if job.config.serve.targets.kubernetes.host:
        made["ingress"] = ingress(job)
    return {kind: placed(job, manifest) for kind, manifest in made.items()}


def shared(job: Job, told: Inside, security: str = "restricted") -> dict[str, Manifest]:
    """Return what every kind of deployment needs: the namespace, the settings, and an account that may do nothing.

    `security` is the namespace's Pod Security Standard.
    """
    return {
        "namespace": {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": job.config.serve.targets.kubernetes.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": security},
            },
        },
        "settings": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": settings_name(job, told)},
            "immutable": True,  # so that a roll-back finds the settings it had
            "data": told.files,
        },
        "account": {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name_of(job)},
            "automountServiceAccountToken": False,
        },
    }


def placed(job: Job, manifest: Manifest) -> Manifest:
    """Return an object with its namespace and labels."""
    metadata = {**manifest["metadata"], "labels": {**labels(job), **manifest["metadata"].get("labels", {})}}
    if manifest["kind"] != "Namespace":
        metadata["namespace"] = job.config.serve.targets.kubernetes.namespace
    return {**manifest, "metadata": metadata}


def check(serve: Serve) -> None:
    """Refuse what several replicas on several machines cannot share.

    Raises:
        ServingError: saying what to set.
    """
    if serve.store.startswith("sqlite"):
        raise ServingError(
            "serve.store is a SQLite file, which the pods of a cluster cannot share: set it to a PostgreSQL address."
        )
    addresses = {"store": serve.store, "limits.redis": serve.limits.redis or "", "seen.traces": serve.seen.traces or ""}
    for key, address in addresses.items():
        if re.search(r"://(.*@)?(localhost|127\.0\.0\.1|\[::1\])", address):
            raise ServingError(f"serve.{key} is on loopback, which in a cluster is each pod's own: name its host.")


def settings_name(job: Job, told: Inside) -> str:
    """Return the name of the settings' ConfigMap, another for other settings."""
    return f"{name_of(job)}-{value_digest(told.files)[:8]}"


def deployment(job: Job, told: Inside) -> Manifest:
    """Return the Deployment: a pod more before one fewer, and time to drain; how many, the autoscaler says."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name_of(job)},
        "spec": {
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": patience(job.config.serve),
            "selector": {"matchLabels": {"app.kubernetes.io/name": name_of(job)}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": labels(job),
                    "annotations": {"forgeline/version": job.manifest.lineage.version}
                    | {"forgeline/bundle": job.manifest.digest},
                },
                "spec": pod(job, told),
            },
        },
    }


def pod(job: Job, told: Inside) -> Manifest:
    """Return the pod: the gateway, and the engine beside it if it has a process of its own."""
    serve, asked = job.config.serve, job.config.serve.targets.kubernetes
    mounts = [{"name": "settings", "mountPath": str(SETTINGS), "readOnly": True}]
    own = [{"name": "state", "mountPath": str(STATE)}, {"name": "scratch", "mountPath": "/tmp"}]  # noqa: S108
    volumes: list[Manifest] = [
        {"name": "settings", "configMap": {"name": settings_name(job, told)}},
        {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    if serve.access.tls:
        if asked.certificate is None:
            raise ServingError(
                "serve.access.tls needs the pair in the cluster: name its Secret in kubernetes.certificate."
            )
        mounts.append({"name": "tls", "mountPath": str(TLS), "readOnly": True})
        volumes.append({"name": "tls", "secret": {"secretName": asked.certificate, "defaultMode": 0o440}})
    gateway = {
        "name": "gateway",
        "image": tag(job),
        "ports": [{"name": PORT, "containerPort": serve.port}],
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": asked.secret, "key": name}}}
            for name in told.variables
        ],
        "resources": resources(job) if told.engine is None else {"requests": {"cpu": "1", "memory": "1Gi"}},
        **probes(serve, told.scheme),
        # While the balancers learn that the pod goes, it still takes requests; then SIGTERM, and it drains.
        "lifecycle": {"preStop": {"sleep": {"seconds": NOTICED}}},
        "volumeMounts": [*mounts, *own],
        "securityContext": CONTAINER,
    }
    containers = [gateway]
    if told.engine:
        vllm = serve.engine.name == "vllm"
        engine = {
            "name": "engine",
            "image": f"{tag(job)}-engine" if vllm else tag(job),
            "command": told.engine,
            "resources": resources(job),
            "lifecycle": {"preStop": {"sleep": {"seconds": NOTICED + round(serve.drain_timeout)}}},
            "volumeMounts": [*mounts, *own, *([{"name": "memory", "mountPath": "/dev/shm"}] if vllm else [])],  # noqa: S108
            "securityContext": CONTAINER,
        }
        containers.append(engine)
        if vllm:
            volumes.append({"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}})
    spec = {
        "serviceAccountName": name_of(job),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": NOTICED + round(serve.drain_timeout) + MARGIN,
        "securityContext": POD,
        "containers": containers,
        "volumes": volumes,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": name_of(job)}},
            }
        ],
    }
    if asked.pull_secret:
        spec["imagePullSecrets"] = [{"name": asked.pull_secret}]
    return {**spec, **asked.pod}


POD = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def resources(job: Job) -> Manifest:
    """Return what the container with the engine is given; memory and GPUs are bounds too."""
    asked = job.config.serve.targets.resources
    bounds = {"memory": asked.memory} | ({"nvidia.com/gpu": str(asked.gpus)} if asked.gpus else {})
    return {"requests": {"cpu": f"{asked.cpus:g}", **bounds}, "limits": bounds}


def probes(serve: Serve, scheme: str) -> Manifest:
    """Return the three probes; readiness generates a token, but only if none was generated for ten seconds."""

    def asked(path: str, period: int, failures: int, timeout: int) -> Manifest:
        get = {"path": path, "port": PORT, "scheme": scheme.upper()}
        return {"httpGet": get, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout}

    return {
        "startupProbe": asked("/readyz", 5, -(-patience(serve) // 5), SLOW),
        "readinessProbe": asked("/readyz", 15, 2, SLOW),
        "livenessProbe": asked("/healthz", 10, 3, 5),
    }


def patience(serve: Serve) -> int:
    """Return the seconds until a pod counts as failed: what its engine may take to start, and a minute."""
    supervision = getattr(serve.engine, "supervision", None)
    return 60 + round(supervision.start_timeout if supervision else 60)


def service(job: Job) -> Manifest:
    """Return the Service, within the cluster only."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name_of(job)},
        "spec": {
            "selector": {"app.kubernetes.io/name": name_of(job)},
            "ports": [{"name": PORT, "port": job.config.serve.port, "targetPort": PORT}],
        },
    }


def ingress(job: Job) -> Manifest:
    """Return the Ingress of the host, by TLS if there is a certificate for it."""
    asked = job.config.serve.targets.kubernetes
    backend = {"service": {"name": name_of(job), "port": {"name": PORT}}}
    rule = {"host": asked.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec: Manifest = {"rules": [rule]}
    if asked.ingress_class:
        spec["ingressClassName"] = asked.ingress_class
    if asked.certificate:
        spec["tls"] = [{"hosts": [asked.host], "secretName": asked.certificate}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name_of(job)},
        "spec": spec,
    }


def disruption(job: Job) -> Manifest:
    """Return the budget: of all pods, one at a time may be taken away by whoever drains a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name_of(job)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name_of(job)}}},
    }


def network(job: Job, told: Inside) -> Manifest:
    """Return the policy: in come the callers' and the watchers' namespaces, out go names and what serve.yaml names."""
    asked = job.config.serve.targets.kubernetes
    sources = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        for namespace in (*asked.callers, *asked.watchers)
    ]
    ports = [{"protocol": "TCP", "port": port} for port in outgoing(told.serve)]
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    dns = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name_of(job)},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": name_of(job)}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": sources, "ports": [{"protocol": "TCP", "port": told.serve.port}]}] if sources else [],
            "egress": [{"to": [dns], "ports": names}, {"ports": ports}],
        },
    }


def outgoing(serve: Serve) -> list[int]:
    """Return the ports that the gateway must reach: databases, collectors, providers, and webhooks' 443."""
    engines = (serve.engine, *serve.others.values())
    addresses = [getattr(engine, "url", None) for engine in engines]
    addresses += [serve.store, serve.limits.redis, serve.seen.traces, serve.access.oidc and serve.access.oidc.jwks]
    found = {443}
    for address in filter(None, addresses):
        scheme, _, rest = str(address).partition("://")
        place = urlsplit(f"//{rest.rpartition('@')[2]}")
        if place.hostname not in {"127.0.0.1", "localhost"}:
            known = {**DATABASES, "https": 443, "http": 80}.get(scheme.partition("+")[0], 443)
            found.add(place.port or known)
    return sorted(found)
