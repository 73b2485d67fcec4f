"""Registered versions: what they are made of, and which alias points where."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from forgeline.config.schema import Config, Project, Train
from forgeline.errors import RegistryError
from forgeline.evaluation.report import Report
from forgeline.registry.tracking import connect

CHAMPION, CHALLENGER = "champion", "challenger"


class Lineage(BaseModel):
    """What a version came from: every link of the chain of evidence, by its own name."""

    key: str
    data_digest: str
    data_hashes: dict[str, str]
    git_revision: str
    config_digest: str
    zenml_run_id: str
    mlflow_run_id: str


class Version(BaseModel):
    """One registered model version."""

    name: str
    number: int
    run_id: str
    aliases: list[str]
    lineage: Lineage


def register(config: Config, lineage: Lineage) -> Version:
    """Register a run's adapter as a version; the same key gives the same version again."""
    client, name = connect(config.project), config.project.name
    for version in versions(config.project):
        if version.lineage.key == lineage.key:
            return version
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name, description=config.project.objective)
    tags = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in lineage.model_dump().items()}
    source = f"{client.get_run(lineage.mlflow_run_id).info.artifact_uri}/adapter"
    created = client.create_model_version(name, source, run_id=lineage.mlflow_run_id, tags=tags)
    client.set_registered_model_alias(name, CHALLENGER, created.version)
    return get(config.project, str(created.version))


def versions(project: Project) -> list[Version]:
    """Return all registered versions, oldest first."""
    client = connect(project)
    aliases = _aliases(client, project.name)
    found = client.search_model_versions(f"name = '{project.name}'")
    return sorted((_version(each, aliases) for each in found), key=lambda version: version.number)


def get(project: Project, reference: str) -> Version:
    """Return a version by number or alias.

    Raises:
        RegistryError: if there is none, naming those that exist.
    """
    client, name = connect(project), project.name
    try:
        if reference.isdigit():
            found = client.get_model_version(name, reference)
        else:
            found = client.get_model_version_by_alias(name, reference)
    except MlflowException:
        known = versions(project)
        names = [str(v.number) for v in known] + sorted({alias for v in known for alias in v.aliases})
        legal = f"there are: {', '.join(names)}" if names else "nothing is registered yet; `forgeline run` does that"
        raise RegistryError(f"{name} has no version or alias {reference!r}; {legal}.") from None
    return _version(found, _aliases(client, name))


def champion(project: Project) -> Version | None:
    """Return the version that the champion alias points to, or None."""
    return next((version for version in versions(project) if CHAMPION in version.aliases), None)


def adapter_folder(project: Project, version: Version) -> Path:
    """Return a local folder with a version's adapter."""
    return _artifact(project, version, "adapter")


def train_settings(project: Project, version: Version) -> Train:
    """Return the settings a version was trained with, its base model among them."""
    settings = json.loads(_artifact(project, version, "config.json").read_text())
    return Train.model_validate(settings["train"])


def report(project: Project, version: Version) -> Report:
    """Return a version's evaluation report."""
    return Report.read(_artifact(project, version, "evaluation/report.json"))


def set_alias(project: Project, alias: str, version: Version) -> None:
    """Point an alias at a version."""
    connect(project).set_registered_model_alias(project.name, alias, str(version.number))


def _artifact(project: Project, version: Version, path: str) -> Path:
    connect(project)
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{version.name} version {version.number}: its artifact {path} is gone from MLflow run {version.run_id} "
            f"({error}). Restore the artifact store from a copy, or train again."
        ) from error


def _aliases(client: MlflowClient, name: str) -> dict[int, list[str]]:
    found = client.search_registered_models(filter_string=f"name = '{name}'")
    aliases: dict[int, list[str]] = {}
    for alias, number in (found[0].aliases if found else {}).items():
        aliases.setdefault(int(number), []).append(alias)
    return aliases


def _version(found: mlflow.entities.model_registry.ModelVersion, aliases: dict[int, list[str]]) -> Version:
    tags = {**found.tags, "data_hashes": json.loads(found.tags["data_hashes"])}
    return Version(
        name=found.name,
        number=int(found.version),
        run_id=found.run_id,
        aliases=sorted(aliases.get(int(found.version), [])),
        lineage=Lineage.model_validate(tags),
    )
