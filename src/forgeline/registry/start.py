"""What `train.start` goes on from: a registered version, by number or alias, or an adapter's folder.

A folder is written with a slash.
"""

from __future__ import annotations

from pathlib import Path

from forgeline.config.schema import Config, Project, Train
from forgeline.errors import RegistryError
from forgeline.lineage import file_digest
from forgeline.registry import versions


def settled(config: Config) -> Config:
    """Return the configuration with an alias replaced by the number of the version that it points to now.

    Aliases move on; what was trained, and its lineage, must say from which version.
    """
    start = config.train.start
    if start is None or "/" in start:
        return config
    number = str(versions.get(config.project, start).number)
    return config.model_copy(update={"train": config.train.model_copy(update={"start": number})})


def identity(project: Project, train: Train) -> str | None:
    """Return the lineage key of the version to go on from, or the digest of the folder's adapter.

    Raises:
        RegistryError: if there is no such version or folder, or the version has another base model.
    """
    if train.start is None:
        return None
    if "/" in train.start:
        weights = Path(train.start) / "adapter_model.safetensors"
        if not weights.is_file():
            raise RegistryError(f"train.start: {weights} does not exist; name an adapter's folder, or a version.")
        return file_digest(weights)
    version = versions.get(project, train.start)
    source = versions.train_settings(project, version).model.source
    if source != train.model.source:
        raise RegistryError(
            f"train.start: version {version.number} was made for the base {source}, and train.model.source is "
            f"{train.model.source}: start from a version of the same base."
        )
    return version.lineage.key


def located(project: Project, train: Train) -> Train:
    """Return the settings with the folder of the version to go on from in place of its number."""
    if train.start is None or "/" in train.start:
        return train
    folder = versions.tuned_folder(project, versions.get(project, train.start))
    return train.model_copy(update={"start": str(folder)})
