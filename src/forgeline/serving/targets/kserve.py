"""The target `kserve`: an InferenceService on Knative, which may have no pod at all, and canaries of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.scaling.render import needs_keda
from forgeline.serving.targets import Job, Running, manifests, remembered, schemas
from forgeline.serving.targets.image import Inside, inside
from forgeline.serving.targets.kubernetes import Kubectl, Kubernetes

# What a predictor may have beside a pod's own fields, by KServe 0.21's Python models (V1beta1PredictorSpec).
PREDICTOR = {
    "type": "object",
    "properties": {
        "minReplicas": {"type": "integer", "minimum": 0},
        "maxReplicas": {"type": "integer", "minimum": 1},
        "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
        "scaleTarget": {"type": "integer", "minimum": 1},
        "containerConcurrency": {"type": "integer", "minimum": 0},
        "timeout": {"type": "integer", "minimum": 1},
        "canaryTrafficPercent": {"type": "integer", "minimum": 0, "maximum": 100},
    },
}
KEPT = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"
NOT_KNATIVE = ("topologySpreadConstraints", "terminationGracePeriodSeconds")  # Knative's features, off by default


class Kserve(Kubernetes):
    """One InferenceService; Knative holds the request that wakes the first pod."""

    name = "kserve"
    tried = (
        f"rendered and checked: the pod against Kubernetes {schemas.KUBERNETES}, the rest against KServe 0.21; not run"
    )
    workload = "inferenceservice"

    def told(self, job: Job) -> Inside:
        """Return what the containers are told; Knative's own proxy stands before them, and ends TLS."""
        manifests.check(job.config.serve)
        name, namespace = manifests.name_of(job), job.config.serve.targets.kubernetes.namespace
        if job.config.serve.access.tls:
            raise ServingError("On kserve Knative's ingress ends TLS: leave serve.access.tls out, set behind_proxy.")
        names = tuple(
            f"{service}.{domain}"
            for service in (name, f"{name}-predictor")
            for domain in (namespace, f"{namespace}.svc", f"{namespace}.svc.cluster.local")
        )
        host = job.config.serve.targets.kubernetes.host
        told = (*names, *([host] if host else []))
        return inside(job, told, behind_proxy=job.config.serve.access.behind_proxy)

    def objects(self, job: Job) -> dict[str, manifests.Manifest]:
        """Return the namespace, the settings, the account and the InferenceService."""
        serve, told = job.config.serve, self.told(job)
        if needs_keda(serve.scaling.model_copy(update={"min_replicas": 1})):
            raise ServingError(
                "Knative scales on ongoing requests alone: kserve can carry out neither serve.scaling.schedule nor "
                "serve.scaling.first_token."
            )
        pod = manifests.pod(job, told)
        for container in pod["containers"]:
            del container["lifecycle"]  # Knative's queue-proxy drains
        for field in NOT_KNATIVE:
            del pod[field]
        predictor: dict[str, Any] = {
            "minReplicas": serve.scaling.min_replicas,
            "maxReplicas": serve.scaling.max_replicas,
            "scaleMetric": "concurrency",
            "scaleTarget": serve.scaling.ongoing_requests,
            "timeout": round(serve.limits.request_timeout + serve.drain_timeout),
        }
        if serve.targets.kserve.canary_percent is not None:
            predictor["canaryTrafficPercent"] = serve.targets.kserve.canary_percent
        service = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": manifests.name_of(job),
                "annotations": {
                    "serving.kserve.io/deploymentMode": "Knative",
                    "forgeline/version": job.manifest.lineage.version,
                    **({KEPT: f"{round(serve.scaling.idle)}s"} if serve.scaling.min_replicas == 0 else {}),
                },
            },
            "spec": {"predictor": {**predictor, **pod}},
        }
        made = {**manifests.shared(job, told, security="baseline"), "inferenceservice": service}
        return {kind: manifests.placed(job, manifest) for kind, manifest in made.items()}

    def faults(self, file: str, manifest: manifests.Manifest) -> list[str]:
        """Return what is wrong with an object."""
        if manifest["kind"] != "InferenceService":
            return super().faults(file, manifest)
        predictor = manifest["spec"]["predictor"]
        own = {key: value for key, value in predictor.items() if key in PREDICTOR["properties"]}
        pod = {key: value for key, value in predictor.items() if key not in own}
        found = schemas.against(file, PREDICTOR, own)
        found = [re.sub(r": ", ": spec.predictor.", fault, count=1) for fault in found]
        return found + schemas.pod(file, "spec.predictor", pod)

    def held_against(self, manifest: manifests.Manifest) -> str:
        """Return what an object is checked against."""
        if manifest["kind"] != "InferenceService":
            return super().held_against(manifest)
        return f"Kubernetes {schemas.KUBERNETES} (the pod's fields), KServe 0.21's models (the predictor's own)"

    def acts(self, job: Job) -> tuple[str, ...]:
        """Return what deploying does."""
        ready = f"kubectl wait --for=condition=Ready inferenceservice/{manifests.name_of(job)}"
        return tuple(ready if act.startswith("kubectl rollout") else act for act in super().acts(job))

    def wait(self, job: Job, cluster: Kubectl) -> None:
        """Return once the new revision answers; until then all traffic goes to the one before."""
        seconds = manifests.patience(job.config.serve) + 60
        name = f"inferenceservice/{manifests.name_of(job)}"
        generation = cluster("get", name, "--output", "jsonpath={.metadata.generation}").strip()
        cluster("wait", f"--for=jsonpath={{.status.observedGeneration}}={generation}", name, "--timeout=60s")
        cluster("wait", "--for=condition=Ready", name, f"--timeout={seconds}s")

    def door(self, job: Job) -> str:
        """Return the newest revision's pod."""
        cluster = Kubectl.of(job)
        chosen = f"serving.kserve.io/inferenceservice={manifests.name_of(job)}"
        newest = "jsonpath={.items[-1:].metadata.name}"
        words = ("get", "pods", "--selector", chosen, "--sort-by", ".metadata.creationTimestamp", "--output", newest)
        return f"pod/{cluster(*words).strip()}"

    def undo(self, job: Job, cluster: Kubectl, former: Path) -> None:
        """Send all traffic to the revision before: Knative still has it."""
        patch = '{"spec": {"predictor": {"canaryTrafficPercent": 0}}}'
        cluster("patch", f"inferenceservice/{manifests.name_of(job)}", "--type", "merge", "--patch", patch)

    def facts(self, job: Job, image: str) -> dict[str, Any]:
        """Return what is remembered of a deployment."""
        return {**super().facts(job, image), "kinds": "inferenceservice,serviceaccount,configmap"}

    def status(self, root: Path) -> Running | None:
        """Return what KServe says of it."""
        facts = remembered(root, self.name)
        if facts is None:
            return None
        cluster = Kubectl(facts["context"], facts["namespace"])
        asked = '{.status.conditions[?(@.type=="Ready")].status} {.status.url}'
        words = ("--ignore-not-found", "--output", f"jsonpath={asked}")
        ready, _, url = cluster("get", f"inferenceservice/{facts['name']}", *words).strip().partition(" ")
        health = {"True": "ready", "": "gone"}.get(ready, "not ready")
        told = {"image": facts["image"], "namespace": facts["namespace"]}
        return Running(health=health, version=facts["version"], url=url or facts["url"], facts=told)
