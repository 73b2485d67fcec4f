"""The target `helm`: the manifests of `kubernetes` as a chart; with its default values, it gives the very same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from forgeline.serving.targets import Check, Job, Plan, Running, forget, manifests, refuse, remembered, schemas
from forgeline.serving.targets.command import run
from forgeline.serving.targets.document import dumped
from forgeline.serving.targets.image import ORDER, dockerfile, tag
from forgeline.serving.targets.kubernetes import Kubectl, Kubernetes

CHART = "chart"
AMOUNTS = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": AMOUNTS, "limits": AMOUNTS},
}


class Helm(Kubernetes):
    """A chart whose users may change what is theirs: images, replicas, resources, callers, the host."""

    name = "helm"
    tried = (
        f"rendered by Helm 4.2's own library and checked against the schemas of Kubernetes {schemas.KUBERNETES}; "
        "not installed in a cluster"
    )
    tools = ("docker", "kubectl", "helm")

    def plan(self, job: Job) -> Plan:
        """Return the chart."""
        made = self.objects(job)
        faults = [fault for kind, each in made.items() for fault in self.faults(f"templates/{kind}.yaml", each)]
        values, schema, templates = chart(job, made)
        faults += schemas.against("values.yaml", schema, values)
        if faults:
            refuse(self.name, faults)
        name = manifests.name_of(job)
        about = {"apiVersion": "v2", "name": name, "type": "application", "version": f"0.0.0-{tag(job)[-16:]}"}
        about |= {"appVersion": job.manifest.lineage.version, "description": f"{name}, behind Forgeline's gateway"}
        files = {
            "Dockerfile": dockerfile(job),
            f"{CHART}/Chart.yaml": dumped(about),
            f"{CHART}/values.yaml": dumped(values),
            f"{CHART}/values.schema.json": json.dumps(schema, indent=2) + "\n",
            **{f"{CHART}/templates/{kind}.yaml": text for kind, text in templates.items()},
        }
        checks = [Check(f"templates/{kind}.yaml", self.held_against(each)) for kind, each in made.items()]
        checks.append(Check("values.yaml", "values.schema.json, which Helm asks too"))
        return Plan(files, tuple(checks), self.acts(job))

    def objects(self, job: Job) -> dict[str, manifests.Manifest]:
        """Return what the chart gives with its default values; the namespace is Helm's to make."""
        made = super().objects(job)
        del made["namespace"]
        return made

    def acts(self, job: Job) -> tuple[str, ...]:
        """Return what deploying does."""
        install = f"helm upgrade --install {manifests.name_of(job)} {CHART} --atomic"
        return (f"docker build and push {tag(job)}", install, "the smoke test through kubectl port-forward")

    def ask(self, cluster: Kubectl, place: Path) -> None:
        """Ask nothing: Helm does, before it changes anything."""

    def apply(self, job: Job, cluster: Kubectl, place: Path) -> None:
        """Install or upgrade; Helm itself goes back to the release before if the new one does not get ready."""
        seconds = manifests.patience(job.config.serve) + 60
        words = ("upgrade", "--install", manifests.name_of(job), str(place / CHART), "--create-namespace", "--atomic")
        run(*_helm(cluster), *words, "--timeout", f"{seconds}s")

    def undo(self, job: Job, cluster: Kubectl, former: Path) -> None:
        """Go back to the release before."""
        run(*_helm(cluster), "rollback", manifests.name_of(job), "--wait")

    def status(self, root: Path) -> Running | None:
        """Return how many pods are ready, and which release it is."""
        running = super().status(root)
        facts = remembered(root, self.name)
        if running is None or facts is None or running.health == "gone":
            return running
        cluster = Kubectl(facts["context"], facts["namespace"])
        release = json.loads(run(*_helm(cluster), "status", facts["name"], "--output", "json"))
        told = {**running.facts, "release": f"{release['version']}, {release['info']['status']}"}
        return running.model_copy(update={"facts": told})

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Uninstall the release; the namespace and the Secret stay."""
        facts = remembered(root, self.name)
        if facts is None:
            return None
        run(
            *_helm(Kubectl(facts["context"], facts["namespace"])),
            "uninstall",
            facts["name"],
            "--ignore-not-found",
            "--wait",
        )
        forget(root, self.name)
        return {"kept": f"namespace {facts['namespace']}"}


def chart(job: Job, made: dict[str, manifests.Manifest]) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the default values, their schema, and the templates."""
    made = copy.deepcopy(made)
    lifted = _Lifted()
    pod = made["deployment"]["spec"]["template"]["spec"]
    for container in pod["containers"]:
        key = "image" if container["name"] == "gateway" else "engineImage"
        if container["image"] != tag(job) or key == "image":
            lifted.take(container, "image", key, {"type": "string", "minLength": 1})
        else:
            container["image"] = lifted.again("image")
    lifted.take(pod["containers"][-1], "resources", "resources", RESOURCES)
    scaler = made.get("hpa") or made["scaledobject"]
    least, most = ("minReplicas", "maxReplicas") if "hpa" in made else ("minReplicaCount", "maxReplicaCount")
    lifted.take(scaler["spec"], least, "minReplicas", {"type": "integer", "minimum": 1})
    lifted.take(scaler["spec"], most, "maxReplicas", {"type": "integer", "minimum": 1})
    for sources in made["network"]["spec"]["ingress"]:  # none at all would let everybody in
        lifted.take(sources, "from", "allowedFrom", {"type": "array", "minItems": 1, "items": {"type": "object"}})
    for manifest in made.values():
        manifest["metadata"]["namespace"] = lifted.mark("{{ .Release.Namespace }}")
    if host := job.config.serve.targets.kubernetes.host:
        _lift_host(lifted, made, host)
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "required": list(lifted.values),
        "properties": {**lifted.schemas, "global": {"type": "object"}},
    }
    return lifted.values, schema, {kind: lifted.templated(dumped(each)) for kind, each in made.items()}


def _lift_host(lifted: _Lifted, made: dict[str, manifests.Manifest], host: str) -> None:
    """Make the host a value: of the Ingress, and of the names that the gateway answers to."""
    mark = lifted.within("host", host, {"type": "string", "format": "hostname"})
    spec = made["ingress"]["spec"]
    spec["rules"][0]["host"] = mark
    for tls in spec.get("tls", ()):
        tls["hosts"] = [mark]
    settings = made["settings"]
    settings["data"][ORDER] = settings["data"][ORDER].replace(f'"{host}"', f'"{mark}"')
    suffix = f'{{{{ if ne .Values.host "{host}" }}}}-{{{{ .Values.host | sha256sum | trunc 8 }}}}{{{{ end }}}}'
    settings["metadata"]["name"] += lifted.mark(suffix)  # other settings, another name: the pods are rolled
    for volume in made["deployment"]["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "settings":
            volume["configMap"]["name"] = settings["metadata"]["name"]


class _Lifted:
    """Values taken out of manifests, with marks in their places that become Helm's expressions."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.schemas: dict[str, Any] = {}
        self._marks: dict[str, str] = {}

    def take(self, parent: dict[str, Any], field: str, key: str, schema: dict[str, Any]) -> None:
        """Make a field the chart's value `key`."""
        self.values[key], self.schemas[key] = parent[field], schema
        parent[field] = self.again(key)

    def again(self, key: str) -> str:
        """Return the mark of a value that stands alone; JSON is YAML, whatever its type."""
        return self.mark(f"{{{{ .Values.{key} | toJson }}}}")

    def within(self, key: str, value: Any, schema: dict[str, Any]) -> str:
        """Return the mark of a value within a text."""
        self.values[key], self.schemas[key] = value, schema
        return self.mark(f"{{{{ .Values.{key} }}}}")

    def mark(self, expression: str) -> str:
        """Return the mark of an expression."""
        placed = f"mark-{len(self._marks)}-of-helm"
        self._marks[placed] = expression
        return placed

    def templated(self, text: str) -> str:
        """Return a template: what looks like an expression of Helm's and is none is kept from it."""
        text = text.replace("{{", '{{ "{{" }}')
        for mark, expression in self._marks.items():
            text = text.replace(mark, expression)
        return text


def _helm(cluster: Kubectl) -> tuple[str, ...]:
    context = ("--kube-context", cluster.words[2]) if "--context" in cluster.words else ()
    return ("helm", *context, "--namespace", cluster.namespace)
