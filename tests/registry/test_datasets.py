from __future__ import annotations

import hashlib
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from forgeline.config import load
from forgeline.data.versions import DataVersion
from forgeline.errors import DataError
from forgeline.registry import tracking

PROJECT = Path(__file__).parents[2]
ROWS = {"train": '{"id": "a"}\n{"id": "b"}\n', "test": '{"id": "c"}\n'}


def test_a_dataset_version_is_an_input_of_the_run_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    project = load(PROJECT).project
    repository = Repo.init(no_scm=True)
    for split, text in ROWS.items():
        Path(f"{split}.jsonl").write_text(text)
        repository.add(f"{split}.jsonl")
    repository.close()
    data = DataVersion(
        digest="0123456789abcdef" * 4,
        hashes={split: hashlib.md5(text.encode()).hexdigest() for split, text in ROWS.items()},  # noqa: S324
        counts={split: text.count("\n") for split, text in ROWS.items()},
        test_leakage=0,
        unmasked_pii=0,
        data_card=True,
        paths={split: f"data/splits/{split}.jsonl" for split in ROWS},
    )
    with tracking.run(project, "candidate", "key", {"forgeline.data": data.digest}) as run:
        run.reads(data, "train")
        run.reads(data, "train")
        run.reads(data, "test")

    found = mlflow.search_runs(filter_string=f"datasets.digest = '{data.digest[:36]}'", output_format="list")
    assert [each.info.run_id for each in found] == [run.run_id]
    assert found[0].data.tags["forgeline.data"] == data.digest
    inputs = {each.dataset.name: each for each in MlflowClient().get_run(run.run_id).inputs.dataset_inputs}
    assert {name: each.tags[0].value for name, each in inputs.items()} == {
        f"{project.name}/train": "training",
        f"{project.name}/test": "evaluation",
    }
    train = inputs[f"{project.name}/train"]
    assert train.dataset.profile == '{"num_rows": 2}' and '"messages"' in train.dataset.schema
    source = mlflow.data.get_source(train)
    assert source.uri == f"dvc://{project.name}@{data.digest}/data/splits/train.jsonl"
    assert source.load().read_text() == ROWS["train"]
    source.load().unlink()
    with pytest.raises(DataError, match="no remote to fetch them from"):
        source.load()
