"""A dataset version as MLflow sees it: an input of the runs that read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import register_dataset_source
from mlflow.types import DataType, Schema
from mlflow.types.schema import Array, ColSpec, Object, Property

from forgeline.data.versions import SCHEME, DataVersion, objects

DIGEST_CHARS = 36  # as many as MLflow keeps
CONTEXTS = {"train": "training", "validation": "validation", "test": "evaluation"}

TURN = Object([Property("role", DataType.string), Property("content", DataType.string)])
SCHEMA = Schema(
    [
        ColSpec(DataType.string, "id"),
        ColSpec(Array(TURN), "messages"),
        ColSpec(Array(DataType.string), "references", required=False),
        ColSpec(DataType.string, "key"),
        ColSpec(DataType.string, "source", required=False),
    ]
)


class VersionSource(DatasetSource):
    """Where a split of a dataset version lies: by id, in the data's store."""

    def __init__(self, uri: str, object_id: str) -> None:
        self.uri, self.object_id = uri, object_id

    def load(self) -> Path:
        """Return the split's file, fetched if it is not here; the working folder must be the project's.

        Raises:
            DataError: if neither the local store nor the remote has it.
        """
        return objects(Path.cwd(), [self.object_id])[self.object_id]

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` needs."""
        return {"uri": self.uri, "object_id": self.object_id}

    @classmethod
    def from_dict(cls, source_dict: dict[str, Any]) -> VersionSource:
        """Return the source that `to_dict` described."""
        return cls(source_dict["uri"], source_dict["object_id"])

    @staticmethod
    def _get_source_type() -> str:
        return SCHEME

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, VersionSource)

    @classmethod
    def _resolve(cls, raw_source: VersionSource) -> VersionSource:
        return raw_source


class SplitDataset(Dataset):
    """One split of a dataset version; its digest is the version's.

    Train and test have names of their own: MLflow keeps one context for a name and digest in a run.
    """

    def __init__(self, project: str, data: DataVersion, split: str) -> None:
        self._rows = data.counts[split]
        source = VersionSource(f"{SCHEME}://{project}@{data.digest}/{data.paths[split]}", data.hashes[split])
        super().__init__(source, name=f"{project}/{split}", digest=data.digest[:DIGEST_CHARS])

    @property
    def profile(self) -> dict[str, int]:
        """The number of rows."""
        return {"num_rows": self._rows}

    @property
    def schema(self) -> Schema:
        """The fields of a record that training and evaluation read."""
        return SCHEMA

    def to_dict(self) -> dict[str, str]:
        """Return the fields of MLflow's dataset entity."""
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return {**super().to_dict(), "schema": schema, "profile": json.dumps(self.profile)}


register_dataset_source(VersionSource)
