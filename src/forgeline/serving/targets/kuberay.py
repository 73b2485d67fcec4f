"""The target `kuberay`: replicas of the engine on a Ray cluster that KubeRay keeps, and the gateway in front."""

from __future__ import annotations

from typing import Any

from forgeline.config.schema.serve.engine import Ray, Remote, Transformers
from forgeline.errors import ServingError
from forgeline.serving.scaling.render import ray
from forgeline.serving.targets import Check, Job, Plan, manifests, refuse, schemas
from forgeline.serving.targets.document import dumped
from forgeline.serving.targets.image import ADAPTERS, BASES, BUNDLE, SETTINGS, SRV, STATE, Inside, inside, tag
from forgeline.serving.targets.kubernetes import Kubectl, Kubernetes

SERVE_PORT = 8000  # where Ray Serve's proxies listen
APPLICATION = "forgeline"
IMPORT_PATH = "forgeline.serving.engines.ray_application:application"


class Kuberay(Kubernetes):
    """A RayService with the engine, reached by nobody but the gateway's own Deployment."""

    name = "kuberay"
    tried = (
        f"rendered and checked: pods against the schemas of Kubernetes {schemas.KUBERNETES}, the application against "
        "Ray's own, the RayService once against KubeRay's of 2026-08; run on a local Ray, not in a cluster"
    )

    def told(self, job: Job) -> Inside:
        """Return what the gateway is told: the engine is Ray Serve's address in the cluster."""
        manifests.check(job.config.serve)
        engine, name = _engine(job), manifests.name_of(job)
        remote = Remote(
            name="url",
            url=f"http://{name}-ray-serve-svc:{SERVE_PORT}/v1",
            model=job.manifest.lineage.model,
            models={adapter: adapter for adapter in engine.replica.adapters},
            logprobs=True,
            timeouts=engine.timeouts,
        )
        proxied = job.config.serve.access.behind_proxy
        return inside(job, manifests.host_names(job), behind_proxy=proxied, answered_by=remote)

    def objects(self, job: Job) -> dict[str, manifests.Manifest]:
        """Return the gateway's objects, the RayService, and the policy that keeps others from it."""
        told = self.told(job)
        fixed = job.config.serve.scaling.model_copy(update={"min_replicas": 2, "schedule": (), "first_token": None})
        gateway = _with_scaling(job, fixed)
        made = manifests.objects(gateway, told)
        made |= {kind: manifests.placed(job, each) for kind, each in manifests.shared(job, told, "baseline").items()}
        del made["hpa"]  # a gateway costs a core, and its engine scales by itself
        made["deployment"]["spec"]["replicas"] = 2
        container = made["deployment"]["spec"]["template"]["spec"]["containers"][0]
        container["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}}
        made["network"]["spec"]["egress"].append(
            {"to": [{"podSelector": {"matchLabels": _ray_labels(job)}}], "ports": [_tcp(SERVE_PORT)]}
        )
        rayed = {"rayservice": rayservice(job, told), "raynetwork": _network(job)}
        return {**made, **{kind: manifests.placed(job, each) for kind, each in rayed.items()}}

    def plan(self, job: Job) -> Plan:
        """Return the manifests; Ray's own schema is asked of the application."""
        plan = super().plan(job)
        faults = application_faults(dumped(served(job, self.told(job))))
        if faults:
            refuse(self.name, faults)
        return Plan(plan.files, (*plan.checks, Check("serveConfigV2", "Ray's ServeDeploySchema")), plan.acts)

    def faults(self, file: str, manifest: manifests.Manifest) -> list[str]:
        """Return what is wrong with an object."""
        if manifest["kind"] != "RayService":
            return super().faults(file, manifest)
        cluster = manifest["spec"]["rayClusterConfig"]
        groups = {"headGroupSpec": cluster["headGroupSpec"]}
        groups |= {f"workerGroupSpecs[{number}]": each for number, each in enumerate(cluster["workerGroupSpecs"])}
        return [
            fault
            for path, group in groups.items()
            for fault in schemas.pod(file, f"spec.rayClusterConfig.{path}.template.spec", {**group["template"]["spec"]})
        ]

    def held_against(self, manifest: manifests.Manifest) -> str:
        """Return what an object is checked against."""
        if manifest["kind"] != "RayService":
            return super().held_against(manifest)
        return f"Kubernetes {schemas.KUBERNETES} (the pods'); KubeRay's own fields come with no package"

    def wait(self, job: Job, cluster: Kubectl) -> None:
        """Return once the replicas answer, and then the gateway's pods."""
        seconds = manifests.patience(job.config.serve) + 300
        cluster("wait", "--for=condition=Ready", f"rayservice/{manifests.name_of(job)}-ray", f"--timeout={seconds}s")
        super().wait(job, cluster)

    def facts(self, job: Job, image: str) -> dict[str, Any]:
        """Return what is remembered of a deployment."""
        facts = super().facts(job, image)
        return {**facts, "kinds": f"rayservice,{facts['kinds'].removesuffix(',scaledobject')}"}


def served(job: Job, told: Inside) -> dict[str, Any]:
    """Return the Serve config: one application, whose replicas are as `serve.scaling` says."""
    engine, serve = _engine(job), job.config.serve
    adapters = {name: str(ADAPTERS / name) for name in engine.replica.adapters}
    inner = engine.model_copy(
        update={"address": "auto", "replica": engine.replica.model_copy(update={"adapters": adapters})}
    )
    order = {
        "application": APPLICATION,
        "bundle": str(BUNDLE),
        "root": str(STATE),
        "drain": serve.drain_timeout,
        "engine": inner.model_dump(mode="json"),
        "scaling": serve.scaling.model_dump(mode="json"),
        "signing": told.serve.signing.model_dump(mode="json"),
    }
    scaling = ray(serve.scaling)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},  # noqa: S104  a policy lets the gateway in, no other
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": order,
                "deployments": [
                    {
                        "name": "Replica",
                        "autoscaling_config": scaling,
                        "max_ongoing_requests": 4 * serve.scaling.ongoing_requests,
                        "graceful_shutdown_timeout_s": serve.drain_timeout,
                        "health_check_period_s": 5,
                        "ray_actor_options": {"num_cpus": engine.cpus, "num_gpus": engine.gpus},
                    }
                ],
            }
        ],
    }


def application_faults(config: str) -> list[str]:
    """Return the faults of a Serve config, by Ray's own schema.

    Raises:
        ServingError: if Ray is not installed.
    """
    import yaml
    from pydantic import ValidationError

    try:
        from ray.serve.config import AutoscalingConfig
        from ray.serve.schema import ServeDeploySchema
    except ImportError:
        raise ServingError("The application is held against Ray's schema: pip install 'forgeline[ray]'.") from None
    path = ""
    try:
        schema = ServeDeploySchema.model_validate(yaml.safe_load(config))
        for number, deployment in enumerate(schema.applications[0].deployments):
            path = f"applications.0.deployments.{number}.autoscaling_config."  # which the schema takes as it is
            AutoscalingConfig.model_validate(deployment.autoscaling_config)
    except ValidationError as fault:
        return [f"serveConfigV2: {path}{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in fault.errors()]
    return []


def rayservice(job: Job, told: Inside) -> manifests.Manifest:
    """Return the RayService: a head that computes nothing, and workers that do."""
    asked = job.config.serve.targets
    workers = {
        "groupName": "replicas",
        "replicas": asked.kuberay.min_workers,
        "minReplicas": asked.kuberay.min_workers,
        "maxReplicas": asked.kuberay.max_workers,
        "rayStartParams": {},
        "template": _template(job, told, "worker", manifests.resources(job)),
    }
    head = {
        "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104  KubeRay's operator asks there
        "template": _template(
            job, told, "head", {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
        ),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": f"{manifests.name_of(job)}-ray"},
        "spec": {
            "serveConfigV2": dumped(served(job, told)),
            "rayClusterConfig": {
                "rayVersion": _release(),
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"idleTimeoutSeconds": round(job.config.serve.scaling.down_delay)},
                "authOptions": {"mode": "token"},  # who reaches a Ray cluster without one runs code in it
                "headGroupSpec": head,
                "workerGroupSpecs": [workers],
            },
        },
    }


def _template(job: Job, told: Inside, kind: str, resources: manifests.Manifest) -> manifests.Manifest:
    asked = job.config.serve.targets.kubernetes
    scratch = [{"name": "scratch", "mountPath": "/tmp"}, {"name": "state", "mountPath": str(STATE)}]  # noqa: S108
    settings = {"name": "settings", "mountPath": str(SETTINGS), "readOnly": True}  # with the keys that are trusted
    container = {
        "name": f"ray-{kind}",
        "image": tag(job),
        "env": [{"name": "FORGELINE_BASES", "value": str(BASES)}, {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "resources": resources,
        "workingDir": str(SRV),
        "volumeMounts": [*scratch, settings, {"name": "memory", "mountPath": "/dev/shm"}],  # noqa: S108
        "securityContext": manifests.CONTAINER,
    }
    spec = {
        "enableServiceLinks": False,
        "securityContext": manifests.POD,
        "containers": [container],
        "volumes": [
            {"name": "settings", "configMap": {"name": manifests.settings_name(job, told)}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "state", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }
    if asked.pull_secret:
        spec["imagePullSecrets"] = [{"name": asked.pull_secret}]
    if kind == "worker":  # the head's account is KubeRay's own, whose autoscaler asks the cluster for pods
        spec |= {"serviceAccountName": manifests.name_of(job), "automountServiceAccountToken": False, **asked.pod}
    return {"metadata": {"labels": _ray_labels(job)}, "spec": spec}


def _network(job: Job) -> manifests.Manifest:
    """Return the policy: pods of the cluster reach each other, the gateway Ray Serve, KubeRay's operator the head."""
    mine = {"podSelector": {"matchLabels": _ray_labels(job)}}
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": manifests.name_of(job)}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{manifests.name_of(job)}-ray"},
        "spec": {
            "podSelector": {"matchLabels": _ray_labels(job)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [mine]},
                {"from": [gateway], "ports": [_tcp(SERVE_PORT)]},
                {"from": [operator], "ports": [_tcp(SERVE_PORT), _tcp(8265)]},
            ],
        },
    }


def _engine(job: Job) -> Ray:
    """Return the engine's settings; a plain transformers engine becomes each replica's."""
    engine = job.config.serve.engine
    if isinstance(engine, Ray):
        return engine
    if isinstance(engine, Transformers):
        gpus = job.config.serve.targets.resources.gpus
        return Ray(name="ray", replica=engine.model_copy(update={"process": False}), gpus=gpus)
    raise ServingError(f"serve.engine is {engine.name}: kuberay runs replicas of transformers; set it to ray.")


def _with_scaling(job: Job, scaling: Any) -> Job:
    serve = job.config.serve.model_copy(update={"scaling": scaling})
    return Job(job.config.model_copy(update={"serve": serve}), job.bundle, job.manifest, job.smoke)


def _ray_labels(job: Job) -> dict[str, str]:
    return {"forgeline/ray": manifests.name_of(job)}


def _release() -> str:
    """Return the release of Ray in the image: requirements.lock's, which is also this environment's."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ray")
    except PackageNotFoundError:
        raise ServingError("The image has the release of Ray that is here: pip install 'forgeline[ray]'.") from None


def _tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
