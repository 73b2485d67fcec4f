"""Registered versions: what they are made of, and which alias points where."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from forgeline.config.schema import Config, Project, Train
from forgeline.data.versions import DataVersion
from forgeline.errors import RegistryError
from forgeline.evaluation.report import Report
from forgeline.lineage import code_digest, git_revision
from forgeline.registry.fingerprint import ROOMS
from forgeline.registry.tracking import connect

REPORT, BASE_REPORT = "evaluation/report.json", "evaluation/base.json"
FINGERPRINT = "forgeline.fingerprint"
APPROACH = "forgeline.approach"
CHAMPION, CHALLENGER = "champion", "challenger"


class Lineage(BaseModel):
    """What a version came from: every link of the chain of evidence, by its own name."""

    key: str
    data_digest: str
    data_hashes: dict[str, str]
    git_revision: str
    config_digest: str
    code_digest: str
    zenml_run_id: str
    mlflow_run_id: str

    @staticmethod
    def of(config: Config, data: DataVersion, key: str, mlflow_run_id: str, zenml_run_id: str) -> Lineage:
        """Return the lineage of what was made just now, in this project, from a dataset version."""
        return Lineage(
            key=key,
            data_digest=data.digest,
            data_hashes=data.hashes,
            git_revision=git_revision(config.root),
            config_digest=config.digest(),
            code_digest=code_digest(*ROOMS),
            zenml_run_id=zenml_run_id,
            mlflow_run_id=mlflow_run_id,
        )

    def tags(self) -> dict[str, str]:
        """Return the lineage as MLflow tags."""
        values = self.model_dump().items()
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}


class Version(BaseModel):
    """One registered model version; `approach` names the way it is asked, where it is not asked plainly."""

    name: str
    number: int
    run_id: str
    aliases: list[str]
    lineage: Lineage
    approach: str | None = None

    def bundle_lineage(self) -> dict[str, str]:
        """Return the links of the chain of evidence that travel with a bundle."""
        return {
            "model": self.name,
            "version": str(self.number),
            "mlflow_run": self.lineage.mlflow_run_id,
            "zenml_run": self.lineage.zenml_run_id,
            "data_digest": self.lineage.data_digest,
            "git_revision": self.lineage.git_revision,
            "config_digest": self.lineage.config_digest,
        }


def register(project: Project, lineage: Lineage, approach: str | None = None) -> Version:
    """Register what a run tuned, or an approach, as a version; the same key gives the same version again."""
    client, name = connect(project), project.name
    for version in versions(project):
        if version.lineage.key == lineage.key:
            return version
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name, description=project.objective)
    source = f"{client.get_run(lineage.mlflow_run_id).info.artifact_uri}/tuned"
    tags = {**lineage.tags(), **({APPROACH: approach} if approach else {})}
    created = client.create_model_version(name, source, run_id=lineage.mlflow_run_id, tags=tags)
    client.set_registered_model_alias(name, CHALLENGER, created.version)
    return get(project, str(created.version))


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


def tuned_folder(project: Project, version: Version) -> Path:
    """Return a local folder with what was tuned: an adapter, or a whole model."""
    return artifact(project, version, "tuned")


def last_fingerprint(project: Project) -> str | None:
    """Return the fingerprint of the last finished run, or None."""
    found = connect(project).search_registered_models(filter_string=f"name = '{project.name}'")
    return found[0].tags.get(FINGERPRINT) if found else None


def set_fingerprint(project: Project, value: str) -> None:
    """Remember the fingerprint of a finished run, where every machine that runs the project can read it."""
    connect(project).set_registered_model_tag(project.name, FINGERPRINT, value)


def train_settings(project: Project, version: Version) -> Train:
    """Return the settings a version was trained with, its base model among them."""
    settings = json.loads(artifact(project, version, "config.json").read_text())
    return Train.model_validate(settings["train"])


def report(project: Project, version: Version) -> Report:
    """Return a version's evaluation report."""
    return Report.read(artifact(project, version, REPORT))


def base_report(project: Project, version: Version) -> Report:
    """Return the base model's report that a version was compared with."""
    return Report.read(artifact(project, version, BASE_REPORT))


def set_alias(project: Project, alias: str, version: Version) -> None:
    """Point an alias at a version."""
    connect(project).set_registered_model_alias(project.name, alias, str(version.number))


def artifact(project: Project, version: Version, path: str) -> Path:
    """Return a local copy of a file or folder that was stored with a version's run."""
    connect(project)
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{version.name} version {version.number}: its artifact {path} is gone from MLflow run {version.run_id} "
            f"({error}). Restore the artifact store from a copy, or train again."
        ) from error


def has_artifact(project: Project, version: Version, path: str) -> bool:
    """Say whether a file was stored with a version's run."""
    listed = connect(project).list_artifacts(version.run_id, str(Path(path).parent))
    return any(each.path == path for each in listed)


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
        approach=found.tags.get(APPROACH),
    )
