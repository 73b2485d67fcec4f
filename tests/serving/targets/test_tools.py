"""What is done with docker, kubectl and helm: scripts of these names write down what they are told, and answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_manifests import APART, job

from forgeline.errors import ServingError
from forgeline.serving import targets
from forgeline.serving.targets import Job, folder, remembered

TOOL = f"""#!{sys.executable} -SE
import json, os, signal, sys
from pathlib import Path
here = Path(sys.argv[0]).parent
words = [Path(sys.argv[0]).name, *sys.argv[1:]]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
line = " ".join(words)
for part, says, code in json.loads((here / "answers").read_text()):
    if part in line:
        (sys.stderr if code else sys.stdout).write(says)
        sys.exit(code)
if "port-forward" in line:
    print("Forwarding from 127.0.0.1:45678 -> 8600", flush=True)
    signal.pause()
"""
DIGEST = "registry.example.org/forgeline@sha256:" + "1" * 64
SECRET = json.dumps({"data": {"DB_PASSWORD": "", "REDIS_PASSWORD": ""}})
USUAL = [
    ["image inspect", json.dumps([DIGEST]), 0],
    ["get secret", SECRET, 0],
    ["--role", "fl_key\n", 0],
    ["metadata.generation", "2", 0],
    ["get pods", "replies-2-pod", 0],
]


@dataclass
class Tools:
    """The scripts' folder, and what they are to answer."""

    path: Path
    answers: list[list[Any]] = field(default_factory=list)

    def answer(self, *answers: list[Any]) -> None:
        (self.path / "answers").write_text(json.dumps([*answers, *USUAL]))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.path / "calls").read_text().splitlines()]

    def said(self) -> list[str]:
        return [" ".join(words) for words in self.calls()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path / "bin")
    made.path.mkdir()
    for name in ("docker", "kubectl", "helm"):
        (made.path / name).write_text(TOOL)
        (made.path / name).chmod(0o755)
    (made.path / "calls").touch()
    made.answer()
    monkeypatch.setenv("PATH", str(made.path))
    for name in ("DB_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD"):
        monkeypatch.setenv(name, "secret-value")
    for module in ("compose", "kubernetes"):
        monkeypatch.setattr(f"forgeline.serving.targets.{module}.await_key", lambda url, key, tls: None)
    return made


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Job]:
    """Return a function that makes a job in a project of its own, with a bundle of one file."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/manifest.json").write_text("{}")

    def make(
        profile: str, overrides: tuple[str, ...] = (), smoke: Callable[..., object] = lambda url, key: None
    ) -> Job:
        made = job(tmp_path, profile, overrides)
        off = made.manifest.guards.model_copy(
            update={"toxicity": made.manifest.guards.toxicity.model_copy(update={"action": "off"})}
        )
        config = made.config.model_copy(update={"root": tmp_path})
        return Job(config, made.bundle, made.manifest.model_copy(update={"guards": off}), smoke)

    return make


def fails(url: str, key: str) -> None:
    raise ServingError("The smoke test failed.")


def deployed(name: str, work: Job) -> dict[str, Any]:
    place = targets.named(name)
    return place.deploy(work, place.plan(work))


@pytest.mark.parametrize(("name", "profile"), [("compose", "compose"), ("kubernetes", "cluster"), ("helm", "cluster")])
def test_a_missing_tool_is_a_sentence_and_nothing_is_done(
    name: str, profile: str, asked: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match=r"^`docker` is not on PATH: install Docker Engine.*Nothing was changed\.$"):
        deployed(name, asked(profile))
    assert remembered(tmp_path, name) is None


def test_compose_starts_the_gateway_then_its_watchers(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    facts = deployed("compose", asked("compose", APART, lambda url, key: heard.append((url, key))))
    assert heard == [("http://127.0.0.1:8600", "fl_key")]
    assert facts["url"] == "http://127.0.0.1:8600"
    place = folder(tmp_path, "compose")
    project = f"docker compose --project-directory {place} --file {place}/compose.yaml"
    assert [call.removeprefix(project).strip() for call in tools.said()] == [
        "docker compose version",
        "build",
        "up --detach --wait gateway engine",
        "exec -T gateway python -m forgeline.serving.gateway.access --order /srv/order/order.json "
        "--name Prometheus --role operator --days 90",
        "up --detach --wait --remove-orphans",
        "exec -T gateway python -m forgeline.serving.gateway.access --order /srv/order/order.json "
        "--name smoke test --role caller --days 0.05",
    ]
    assert (tmp_path / ".forgeline/keys/prometheus").read_text() == "fl_key"
    assert (place / "image/bundle/manifest.json").is_file()
    assert not any("secret-value" in path.read_text() for path in place.rglob("*") if path.is_file())
    services = [
        {"Service": "gateway", "State": "running", "Health": "healthy"},
        {"Service": "redis", "State": "running"},
    ]
    tools.answer([" ps ", "\n".join(map(json.dumps, services)), 0], ["logs", "gateway | hello\n", 0])
    running = targets.named("compose").status(tmp_path)
    assert running is not None
    assert (running.health, running.version, running.facts["redis"]) == ("ready", "3", "running")
    assert list(targets.named("compose").logs(tmp_path, 7)) == ["gateway | hello\n"]
    assert targets.named("compose").destroy(tmp_path) == {"kept": "volumes"}
    assert tools.said()[-1].endswith("down --remove-orphans")
    assert targets.named("compose").status(tmp_path) is None


def test_compose_needs_its_variables(tools: Tools, asked: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(ServingError, match=r"^compose needs DB_PASSWORD in the environment: export it first\.$"):
        deployed("compose", asked("compose"))
    assert tools.said() == ["docker compose version"]


def test_compose_brings_the_old_version_back(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    deployed("compose", asked("compose"))
    before = (folder(tmp_path, "compose") / "compose.yaml").read_text()
    done = len(tools.calls())
    with pytest.raises(ServingError, match=r"smoke test failed\. Version 3 was started again and is serving"):
        deployed("compose", asked("compose", ("serve.limits.max_queue=7", "serve.port=8611"), fails))
    assert tools.said()[-1].endswith("up --detach --wait --remove-orphans")
    assert len(tools.calls()) > done
    assert (folder(tmp_path, "compose") / "compose.yaml").read_text() == before
    assert remembered(tmp_path, "compose") is not None


def test_kubernetes_asks_the_cluster_before_it_changes_it(
    tools: Tools, asked: Callable[..., Job], tmp_path: Path
) -> None:
    heard: list[tuple[str, str]] = []
    work = asked(
        "cluster", (*APART, "serve.targets.kubernetes.context=prod"), lambda url, key: heard.append((url, key))
    )
    facts = deployed("kubernetes", work)
    assert heard == [("http://127.0.0.1:45678", "fl_key")]
    assert (facts["url"], facts["image"]) == ("https://replies.example.org", DIGEST)
    said = [call.replace(str(folder(tmp_path, "kubernetes")), "F") for call in tools.said()]
    tag, kubectl = "registry.example.org/forgeline:" + "ab" * 8, "kubectl --context prod --namespace forgeline "
    assert said[:4] == [
        f"{kubectl}get secret forgeline --ignore-not-found --output json",
        f"docker build --file F/Dockerfile --target gateway --tag {tag} F/image",
        f"docker push --quiet {tag}",
        f"docker image inspect --format {{{{json .RepoDigests}}}} {tag}",
    ]
    first, asks, applies, waits = said[4:8]
    apply = f"{kubectl}apply --server-side --force-conflicts --field-manager forgeline"
    assert first == f"{apply} --filename F/00-namespace.yaml"
    assert asks == f"{applies} --dry-run=server"
    assert applies.startswith(f"{apply} --filename F/01-settings.yaml --filename F/02-account.yaml")
    assert waits == f"{kubectl}rollout status deployment/reply-writer --timeout=720s"
    text = (folder(tmp_path, "kubernetes") / "03-deployment.yaml").read_text()
    assert tag not in text
    assert text.count(DIGEST) == 2  # the gateway's, and its engine's beside it
    pods = {"spec": {"replicas": 2}, "status": {"readyReplicas": 1}}
    tools.answer(["get deployment", json.dumps(pods), 0])
    running = targets.named("kubernetes").status(tmp_path)
    assert running is not None
    assert (running.health, running.facts["replicas"]) == ("degraded", "1 of 2 ready")
    assert targets.named("kubernetes").destroy(tmp_path) == {"kept": "namespace forgeline"}
    assert "delete ingress,service,deployment" in tools.said()[-1]


def test_a_secret_without_the_variable_is_a_sentence(tools: Tools, asked: Callable[..., Job]) -> None:
    tools.answer(["get secret", "", 0])
    with pytest.raises(ServingError, match=r"^The Secret forgeline in namespace forgeline lacks DB_PASSWORD, REDIS"):
        deployed("kubernetes", asked("cluster"))
    assert len(tools.calls()) == 1


def test_what_the_cluster_refuses_changes_nothing(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    tools.answer(["--dry-run=server", "admission webhook denied the request: no", 1])
    with pytest.raises(ServingError, match="failed: admission webhook denied the request: no"):
        deployed("kubernetes", asked("cluster"))
    assert "--dry-run=server" in tools.said()[-1]
    assert not folder(tmp_path, "kubernetes-former").exists()
    assert remembered(tmp_path, "kubernetes") is None


def read(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*.yaml")}


@pytest.mark.parametrize(
    ("name", "undo"),
    [
        ("kubernetes", "rollout status deployment/reply-writer"),
        ("helm", "rollback reply-writer --wait"),
        ("kserve", 'patch inferenceservice/reply-writer --type merge --patch {"spec": {"predictor": {"canary'),
    ],
)
def test_a_failed_smoke_test_is_undone(
    tools: Tools, asked: Callable[..., Job], tmp_path: Path, name: str, undo: str
) -> None:
    deployed(name, asked("cluster"))
    before, done = read(folder(tmp_path, name)), len(tools.calls())
    with pytest.raises(ServingError, match=r"smoke test failed\. Version 3 is serving\."):
        deployed(name, asked("cluster", ("serve.limits.max_queue=7",), fails))
    assert any(undo in call for call in tools.said()[-3:])
    assert read(folder(tmp_path, name)) == before  # so that the next failure comes back to it as well
    assert remembered(tmp_path, name) is not None
    if name == "kubernetes":  # the new settings were applied, and then those before
        applied = [call for call in tools.said()[done:] if " apply " in call and "dry-run" not in call]
        assert "-former/" in applied[-1]


def test_a_first_version_that_fails_can_be_taken_away(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="deploy destroy --target kubernetes` takes away what was applied"):
        deployed("kubernetes", asked("cluster", smoke=fails))
    assert not any("undo" in call for call in tools.said())
    assert targets.named("kubernetes").destroy(tmp_path) is not None


def test_helm_installs_the_pinned_image(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    facts = deployed("helm", asked("cluster"))
    assert facts["image"] == DIGEST
    chart = folder(tmp_path, "helm") / "chart"
    install = (
        f"helm --namespace forgeline upgrade --install reply-writer {chart} --create-namespace --atomic --timeout 720s"
    )
    assert install in tools.said()
    assert f"image: {DIGEST}" in (chart / "values.yaml").read_text()
    pods = {"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}
    release = {"version": 4, "info": {"status": "deployed"}}
    tools.answer(["get deployment", json.dumps(pods), 0], ["helm --namespace forgeline status", json.dumps(release), 0])
    running = targets.named("helm").status(tmp_path)
    assert running is not None
    assert (running.health, running.facts["release"]) == ("ready", "4, deployed")
    targets.named("helm").destroy(tmp_path)
    assert tools.said()[-1] == "helm --namespace forgeline uninstall reply-writer --ignore-not-found --wait"


@pytest.mark.parametrize(
    ("name", "awaited"), [("kserve", "inferenceservice/reply-writer"), ("kuberay", "rayservice/reply-writer-ray")]
)
def test_operators_are_waited_for(tools: Tools, asked: Callable[..., Job], name: str, awaited: str) -> None:
    deployed(name, asked("cluster"))
    assert any(f"wait --for=condition=Ready {awaited} --timeout=" in call for call in tools.said())


REAL = shutil.which("kubectl")


@pytest.mark.skipif(REAL is None, reason="kubectl is not installed")
def test_the_real_kubectl_understands_every_word(tools: Tools, asked: Callable[..., Job], tmp_path: Path) -> None:
    """Asked with a cluster that is not there, it fails for that reason alone."""
    for name in ("kubernetes", "kserve"):
        deployed(name, asked("cluster"))
        tools.answer(["get deployment", json.dumps({"spec": {"replicas": 1}, "status": {}}), 0])
        targets.named(name).status(tmp_path)
        list(targets.named(name).logs(tmp_path, 5))
        targets.named(name).destroy(tmp_path)
        deployed(name, asked("cluster"))
    nowhere = {"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "kind": "Config"}
    nowhere |= {"apiVersion": "v1", "contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}
    (tmp_path / "config").write_text(json.dumps(nowhere))
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "config"), "PATH": os.defpath}
    seen = {tuple(words[1:]) for words in tools.calls() if words[0] == "kubectl"}
    assert len(seen) > 12
    for words in seen:
        done = subprocess.run([str(REAL), *words], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode
        assert "127.0.0.1:1" in done.stderr, (words, done.stderr)
