"""The target `kubernetes`: a Deployment and what belongs to it, applied with kubectl; others build on it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.client import await_key
from forgeline.serving.scaling.render import needs_keda
from forgeline.serving.targets import (
    Check,
    Job,
    Plan,
    Running,
    folder,
    forget,
    manifests,
    refuse,
    remember,
    remembered,
    schemas,
)
from forgeline.serving.targets.command import lines, need, reading, run
from forgeline.serving.targets.document import dumped
from forgeline.serving.targets.image import KEYS, Inside, built, dockerfile, inside, stage, tag

FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
KINDS = "ingress,service,deployment,horizontalpodautoscaler,poddisruptionbudget,networkpolicy,serviceaccount,configmap"
APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager", "forgeline")


class Kubernetes:
    """Manifests that kubectl applies; the pods before the new ones go only when those are ready."""

    name = "kubernetes"
    tried = f"rendered and checked against the schemas of Kubernetes {schemas.KUBERNETES}, not run"
    tools: tuple[str, ...] = ("docker", "kubectl")
    workload = "deployment"

    def told(self, job: Job) -> Inside:
        """Return what the containers are told."""
        manifests.check(job.config.serve)
        access = job.config.serve.access
        return inside(job, manifests.host_names(job), behind_proxy=access.behind_proxy)

    def objects(self, job: Job) -> dict[str, manifests.Manifest]:
        """Return the objects by the names of their files, in the order in which they are applied."""
        return manifests.objects(job, self.told(job))

    def faults(self, file: str, manifest: manifests.Manifest) -> list[str]:
        """Return what is wrong with an object."""
        if manifest["kind"] == "ScaledObject":
            return schemas.keda(file, manifest)
        return schemas.kubernetes(file, manifest)

    def plan(self, job: Job) -> Plan:
        """Return the manifests."""
        made = self.objects(job)
        files = {_file(place, kind): manifest for place, (kind, manifest) in enumerate(made.items())}
        faults = [fault for file, manifest in files.items() for fault in self.faults(file, manifest)]
        if faults:
            refuse(self.name, faults)
        texts = {file: dumped(manifest) for file, manifest in files.items()}
        checks = tuple(Check(file, self.held_against(manifest)) for file, manifest in files.items())
        return Plan({"Dockerfile": dockerfile(job), **texts}, checks, self.acts(job))

    def held_against(self, manifest: manifests.Manifest) -> str:
        """Return what an object is checked against."""
        if manifest["kind"] == "ScaledObject":
            return f"KEDA's ScaledObject by cloudcoil-models-keda {version('cloudcoil-models-keda')}, no unknown field"
        return f"Kubernetes {schemas.KUBERNETES}, {manifest['apiVersion']} {manifest['kind']}, no unknown field"

    def acts(self, job: Job) -> tuple[str, ...]:
        """Return what deploying does."""
        return (
            f"docker build and push {tag(job)}",
            "kubectl apply --server-side --dry-run=server, and then without --dry-run",
            f"kubectl rollout status {self.workload}/{manifests.name_of(job)}",
            "the smoke test through kubectl port-forward",
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Push the image, apply, wait, and let the smoke test speak; what fails after that is undone."""
        need(*self.tools)
        root, cluster = job.config.root, Kubectl.of(job)
        cluster.check_secret(job, self.told(job).variables)
        place, former = folder(root, self.name), folder(root, f"{self.name}-former")
        before = remembered(root, self.name)
        if before and place.is_dir():
            shutil.rmtree(former, ignore_errors=True)
            place.rename(former)
        try:
            images = self.build(job, plan, place)
            self.ask(cluster, place)
        except BaseException:
            _put_back(former, place)
            raise
        facts = self.facts(job, images[tag(job)])
        if before is None:
            remember(root, self.name, facts)  # whatever becomes of it, it can be looked at and taken away
        applied = False
        try:
            self.apply(job, cluster, place)
            applied = True
            self.wait(job, cluster)
            with cluster.forwarded(self.door(job), job.config.serve.port) as port:
                _smoked(job, cluster, self.door(job), port)
        except ServingError as fault:
            if before is None:
                left = f"`forgeline deploy destroy --target {self.name}` takes away what was applied."
                raise ServingError(f"{fault} {left}") from fault
            if applied:
                self.undo(job, cluster, former)
            _put_back(former, place)
            raise ServingError(f"{fault} Version {before['version']} is serving.") from fault
        remember(root, self.name, facts)
        return facts

    def build(self, job: Job, plan: Plan, place: Path) -> dict[str, str]:
        """Write the plan, push its images, name them there by digest; return the digests by what they stand for."""
        plan.write(place)
        stage(job, place)
        images = {tag(job): built(job, place)}
        if (engine := f"{tag(job)}-engine") in "".join(plan.files.values()):
            images[engine] = built(job, place, "engine")
        for file in place.rglob("*.yaml"):
            file.write_text(_pinned(file.read_text(encoding="utf-8"), images), encoding="utf-8")
        return images

    def door(self, job: Job) -> str:
        """Return whose port is forwarded for the smoke test, and whose container makes its key."""
        return f"deployment/{manifests.name_of(job)}"

    def ask(self, cluster: Kubectl, place: Path) -> None:
        """Make the namespace, if it is not there, and ask the cluster whether it would take the rest."""
        first, *rest = _files(place)
        cluster(*APPLY, "--filename", first)
        cluster(*APPLY, *_named(rest), "--dry-run=server")

    def apply(self, job: Job, cluster: Kubectl, place: Path) -> None:
        """Give the cluster what was rendered."""
        cluster(*APPLY, *_named(_files(place)[1:]))

    def wait(self, job: Job, cluster: Kubectl) -> None:
        """Return once the new pods have taken the place of those before."""
        seconds = manifests.patience(job.config.serve) + 60
        cluster("rollout", "status", f"deployment/{manifests.name_of(job)}", f"--timeout={seconds}s")

    def undo(self, job: Job, cluster: Kubectl, former: Path) -> None:
        """Bring back what ran before, from its own files."""
        self.apply(job, cluster, former)
        self.wait(job, cluster)

    def facts(self, job: Job, image: str) -> dict[str, Any]:
        """Return what is remembered of a deployment."""
        asked, name = job.config.serve.targets.kubernetes, manifests.name_of(job)
        scheme = "https" if job.config.serve.access.tls or asked.certificate else "http"
        inner = f"http://{name}.{asked.namespace}.svc:{job.config.serve.port}"
        return {
            "version": job.manifest.lineage.version,
            "model": job.manifest.lineage.model,
            "digest": job.manifest.digest,
            "url": f"{scheme}://{asked.host}" if asked.host else inner,
            "image": image,
            "name": name,
            "namespace": asked.namespace,
            "context": asked.context or "",
            "kinds": KINDS + (",scaledobject" if needs_keda(job.config.serve.scaling) else ""),
        }

    def status(self, root: Path) -> Running | None:
        """Return how many pods are ready."""
        facts = remembered(root, self.name)
        if facts is None:
            return None
        cluster = Kubectl(facts["context"], facts["namespace"])
        found = cluster("get", f"deployment/{facts['name']}", "--ignore-not-found", "--output", "json")
        if not found.strip():
            return Running(health="gone", version=facts["version"], url=facts["url"])
        seen = json.loads(found)
        ready, wanted = seen["status"].get("readyReplicas", 0), seen["spec"]["replicas"]
        told = {"replicas": f"{ready} of {wanted} ready", "image": facts["image"], "namespace": facts["namespace"]}
        health = "ready" if ready >= wanted else "degraded" if ready else "not ready"
        return Running(health=health, version=facts["version"], url=facts["url"], facts=told)

    def logs(self, root: Path, lines_: int) -> Iterator[str]:
        """Yield the last lines of each pod."""
        if facts := remembered(root, self.name):
            chosen = ("--selector", f"app.kubernetes.io/name={facts['name']}", "--all-containers", "--prefix")
            words = Kubectl(facts["context"], facts["namespace"]).words
            yield from lines(*words, "logs", *chosen, "--tail", str(lines_))

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete what was applied, but for the namespace and the Secret, which may be others' too."""
        facts = remembered(root, self.name)
        if facts is None:
            return None
        chosen = ("--selector", f"app.kubernetes.io/name={facts['name']},app.kubernetes.io/managed-by=forgeline")
        Kubectl(facts["context"], facts["namespace"])("delete", facts["kinds"], *chosen, "--wait")
        forget(root, self.name)
        return {"kept": f"namespace {facts['namespace']}"}


class Kubectl:
    """kubectl, pointed at a context and a namespace."""

    def __init__(self, context: str, namespace: str) -> None:
        self.namespace = namespace
        self.words = ("kubectl", *(("--context", context) if context else ()), "--namespace", namespace)

    @classmethod
    def of(cls, job: Job) -> Kubectl:
        """Return the one that serve.yaml names."""
        asked = job.config.serve.targets.kubernetes
        return cls(asked.context or "", asked.namespace)

    def __call__(self, *words: str) -> str:
        """Return what it says; raise ServingError if it fails."""
        return run(*self.words, *words)

    def check_secret(self, job: Job, variables: tuple[str, ...]) -> None:
        """Raise ServingError if the cluster's Secret lacks a variable: its pods would wait for it for ever."""
        if not variables:
            return
        name = job.config.serve.targets.kubernetes.secret
        found = self("get", "secret", name, "--ignore-not-found", "--output", "json")
        missing = sorted(set(variables) - set(json.loads(found or "{}").get("data", {})))
        if missing:
            literals = " ".join(f'--from-literal={each}="${each}"' for each in missing)
            raise ServingError(
                f"The Secret {name} in namespace {self.namespace} lacks {', '.join(missing)}: make it with "
                f"`kubectl create secret generic {name} --namespace {self.namespace} {literals}`. Nothing was changed."
            )

    @contextmanager
    def forwarded(self, what: str, port: int) -> Iterator[int]:
        """Yield a port of this machine behind which a pod's port is."""
        with reading(*self.words, "port-forward", what, f":{port}") as said:
            heard = []
            for line in said:
                heard.append(line.strip())
                if found := FORWARDED.search(line):
                    yield int(found[1])
                    return
            raise ServingError(f"kubectl forwards no port of {what}: {' '.join(heard) or 'it said nothing'}")


def _smoked(job: Job, cluster: Kubectl, door: str, port: int) -> None:
    tls = job.config.serve.access.tls
    made = ("--name", "smoke test", "--role", "caller", "--days", "0.05")
    key = cluster("exec", door, "--container", "gateway", "--", *KEYS, *made).strip()
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    await_key(url, key, tls)
    job.smoke(url, key)


def _pinned(text: str, images: dict[str, str]) -> str:
    """Return a manifest with images by the digests that the registry gave them."""
    for name in sorted(images, key=len, reverse=True):
        text = re.sub(rf"{re.escape(name)}(?=[\s'\"]|$)", images[name], text)
    return text


def _files(place: Path) -> list[str]:
    return sorted(map(str, place.glob("*.yaml")))


def _named(files: list[str]) -> list[str]:
    return [word for file in files for word in ("--filename", file)]


def _put_back(former: Path, place: Path) -> None:
    """Let the files of what is serving be the target's again."""
    if former.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        former.rename(place)


def _file(place: int, kind: str) -> str:
    return f"{place:02}-{kind}.yaml"
