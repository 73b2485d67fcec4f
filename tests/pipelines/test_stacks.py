"""The stack files and the training job: read by ZenML's own code, against the flavours' and Kubernetes' own schemas."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from forgeline.config import load
from forgeline.errors import ConfigError, RegistryError

if TYPE_CHECKING:
    from conftest import Project

PROJECT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PROJECT / "configs/stacks").glob("*.yaml"))
SDK = {"kubernetes": "kubernetes", "sagemaker": "sagemaker", "vertex": "kfp", "azureml": "azure.ai.ml"}


@pytest.fixture(scope="module")
def stacks(copy_project: Callable[[], Project]) -> Iterator[Any]:
    """The module, with the tests' ZenML store, in which every shipped stack is registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENML_CONFIG_PATH", copy_project().env["ZENML_CONFIG_PATH"])
        patch.setenv("ZENML_ANALYTICS_OPT_IN", "false")
        patch.setenv("ZENML_LOGGING_VERBOSITY", "CRITICAL")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.syspath_prepend(PROJECT)
        patch.chdir(PROJECT)
        from zenml.client import Client

        from pipelines import stacks

        Client().create_secret("forgeline", {"MLFLOW_TRACKING_TOKEN": "secret"})
        for name in NAMES:
            stacks.register(PROJECT, name)
        yield stacks


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_stack_is_what_its_file_says(stacks: Any, name: str) -> None:
    from zenml.client import Client

    before = Client().get_stack(name)
    file = stacks.register(PROJECT, name)  # again: brought up to date, not doubled
    stack = Client().get_stack(name)
    assert stack.id == before.id
    assert {kind: (each.name, each.flavor) for kind, each in file.components.items()} == {
        kind: (each.name, each.flavor_name) for kind, (each,) in stack.components.items()
    }
    for kind, component in file.components.items():
        known = stack.components[kind][0].configuration
        assert component.configuration.items() <= known.items()


@pytest.mark.parametrize("name", NAMES)
def test_zenml_imports_the_file_itself(stacks: Any, tmp_path: Path, name: str) -> None:
    from click.testing import CliRunner
    from zenml.cli.stack import import_stack
    from zenml.client import Client

    path = tmp_path / "stack.yaml"  # with names of its own beside those that are registered
    path.write_text((PROJECT / f"configs/stacks/{name}.yaml").read_text().replace("name: forgeline-", "name: other-"))
    done = CliRunner().invoke(import_stack, [f"other-{name}", "--filename", str(path)])
    assert done.exit_code == 0, done.output
    imported, registered = (Client().get_stack(prefix + name).components for prefix in ("other-", ""))
    for kind, (component,) in registered.items():
        assert imported[kind][0].configuration == component.configuration


@pytest.mark.parametrize("name", sorted(SDK))
def test_the_pipeline_compiles_for_the_stack(stacks: Any, name: str) -> None:
    """What is missing to run it is the cluster alone: settings, secrets and image are resolved."""
    pytest.importorskip(SDK[name], reason="this cloud's packages are not installed")
    from zenml.client import Client
    from zenml.config.compiler import Compiler
    from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
    from zenml.stack import Stack

    from pipelines.training import candidate

    file, stack = stacks.read(PROJECT, name), Stack.from_model(Client().get_stack(name))
    pipeline = candidate.with_options(**file.run.model_dump())
    pipeline.prepare(config=load(PROJECT, profile="gpu"), origin=None)
    compiled = Compiler().compile(pipeline, stack, PipelineRunConfiguration())
    settings = compiled.pipeline_configuration.settings
    component = file.components["orchestrator"].name
    assert settings[f"orchestrator:{component}"].model_dump(exclude_unset=True) == file.run.settings["orchestrator"]
    (build,) = stack.get_docker_builds(compiled)
    assert (build.settings.dockerfile, build.step_name) == ("deploy/training.Dockerfile", None)


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("kubernetes", "kubernetes_context", "kubernetes_contxt", "unknown key; did you mean kubernetes_context?"),
        ("kubernetes", "volume_mounts", "volumeMounts", "orchestrator_pod_settings.volumeMounts: unknown key"),
        ("sagemaker", "instance_type", "instance", "run.settings.orchestrator.instance: unknown key"),
        ("sagemaker", "max_runtime_in_seconds: 86400", "max_runtime_in_seconds: a day", "valid integer"),
        ("vertex", "accelerator_count", "accelerators", "custom_job_parameters.accelerators: unknown key"),
        ("azureml", "compute_name: forgeline-gpu", "", "please define a name for the compute target"),
        ("azureml", "install_stack_requirements", "install_stack", "run.settings.docker.install_stack: unknown key"),
        ("azureml", "    docker:", "    dokcer:", "no such settings; legal: docker"),
        ("azureml", "flavor: azureml", "flavor: azure_ml", "ZenML has no flavour azure_ml"),
        ("azureml", "stack_name:", "name:", "stack_name: field required"),
    ],
)
def test_a_mistake_is_a_sentence(stacks: Any, tmp_path: Path, name: str, old: str, new: str, told: str) -> None:
    text = (PROJECT / f"configs/stacks/{name}.yaml").read_text()
    assert old in text
    path = tmp_path / f"configs/stacks/{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as error:
        stacks.read(tmp_path, name)
    assert told in str(error.value)


def test_an_unknown_stack_is_named(stacks: Any) -> None:
    with pytest.raises(ConfigError, match=r"no stack kubernets; it has: azureml, .* did you mean kubernetes\?"):
        stacks.read(PROJECT, "kubernets")


def test_a_cluster_cannot_reach_a_file_of_this_machine(stacks: Any) -> None:
    with pytest.raises(RegistryError, match=r"cannot reach sqlite:///mlflow\.db: start `mlflow server`"):
        stacks.run(load(PROJECT), "sagemaker")


def test_the_pod_is_one_that_kubernetes_accepts(stacks: Any) -> None:
    import kubernetes_validate
    from kubernetes.client import ApiClient
    from zenml.integrations.kubernetes.flavors.kubernetes_orchestrator_flavor import KubernetesOrchestratorSettings
    from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest

    settings = KubernetesOrchestratorSettings(**stacks.read(PROJECT, "kubernetes").run.settings["orchestrator"])
    pod = build_pod_manifest(
        pod_name="forgeline",
        image_name="image",
        command=["python"],
        args=[],
        privileged=False,
        pod_settings=settings.orchestrator_pod_settings,
        service_account_name=settings.service_account_name,
    )
    manifest = ApiClient().sanitize_for_serialization(pod)
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    assert manifest["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_training_job_is_one_that_kubernetes_accepts() -> None:
    import kubernetes_validate

    documents = {d["kind"]: d for d in yaml.safe_load_all((PROJECT / "deploy/kubernetes/training.yaml").read_text())}
    for document in documents.values():
        kubernetes_validate.validate(document, "1.37", strict=True)
    distributed = load(PROJECT, profile="nodes").train.distributed
    service, job = documents["Service"], documents["Job"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["completions"] == job["parallelism"] == distributed.nodes
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(distributed.processes)
    first = f"{documents['Job']['metadata']['name']}-0.{job['template']['spec']['subdomain']}"
    assert distributed.rendezvous == f"{first}:{service['spec']['ports'][0]['port']}"
    assert service["metadata"]["name"] == job["template"]["spec"]["subdomain"]


def test_the_other_pods_join_the_newest_tuning_that_is_not_done(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((PROJECT / "deploy/kubernetes/training.yaml").read_text())
    (job,) = (document for document in documents if document["kind"] == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for place, name in enumerate(("abandoned", "begun", "done")):
        folder = tmp_path / ".forgeline/tuning" / name
        folder.mkdir(parents=True)
        (folder / "job.json").touch()
        os.utime(folder / "job.json", (place, place))
    (folder / "result.json").touch()
    program = tmp_path / "bin/python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    env = {"JOB_COMPLETION_INDEX": "1", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    said = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=20)
    assert said.stdout == "-m forgeline.tuning launch .forgeline/tuning/begun/job.json\n"


def test_a_stack_makes_the_candidate_and_the_decision_is_taken_here(smoke_project: Project) -> None:
    told = smoke_project.forgeline("stack", "local")
    assert told.returncode == 0, told.stderr
    assert "forgeline train --stack local" in told.stdout
    finished = smoke_project.forgeline("train", "--stack", "local", "--profile", "smoke", "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (result["action"], result["version"], result["champion"]) == ("promoted", 1, 1)
    assert {verdict["outcome"] for verdict in result["verdicts"]} == {"pass"}
    assert "'default'" in smoke_project.run("zenml", "stack", "get").stderr  # the user's choice is as it was
