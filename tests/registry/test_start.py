from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.errors import RegistryError
from forgeline.lineage import file_digest
from forgeline.registry import start, tracking, versions

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The shipped configuration, that goes on from the champion, with a registry of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shipped = load(PROJECT, overrides=["train.start=champion"])
    stores = shipped.project.stores.model_copy(update={"mlflow": f"sqlite:///{tmp_path}/mlflow.db"})
    project = shipped.project.model_copy(update={"stores": stores})
    return shipped.model_copy(update={"root": tmp_path, "project": project})


def register(config, key, tmp_path):
    adapter = tmp_path / f"adapter-{key}"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_text(key)
    with tracking.run(config.project, key, key, {}) as run:
        run.artifact(adapter, "tuned")
        run.settings(config.model_dump(mode="json", exclude={"root"}), "config.json")
    fields = {"data_digest": "d", "git_revision": "g", "config_digest": "c", "code_digest": "s", "zenml_run_id": "z"}
    lineage = versions.Lineage(key=key, data_hashes={"test": "md5"}, mlflow_run_id=run.run_id, **fields)
    return versions.register(config.project, lineage)


def test_an_alias_is_settled_as_the_version_it_points_to(config, tmp_path):
    with pytest.raises(RegistryError, match="no version or alias 'champion'; nothing is registered yet"):
        start.settled(config)
    for key in ("a", "b"):
        versions.set_alias(config.project, versions.CHAMPION, register(config, key, tmp_path))
        settled = start.settled(config)
        assert settled.train.start == ("1" if key == "a" else "2")
        assert start.identity(config.project, settled.train) == key
        folder = Path(start.located(config.project, settled.train).start)
        assert (folder / "adapter_model.safetensors").read_text() == key
        assert start.settled(settled) == settled


def test_a_folder_is_known_by_its_weights(config, tmp_path):
    register(config, "a", tmp_path)
    train = config.train.model_copy(update={"start": "./adapter-a"})
    weights = tmp_path / "adapter-a/adapter_model.safetensors"
    assert start.identity(config.project, train) == file_digest(weights)
    assert start.located(config.project, train) == train
    with pytest.raises(RegistryError, match=r"train.start: elsewhere/adapter_model.safetensors does not exist; name"):
        start.identity(config.project, train.model_copy(update={"start": "elsewhere/"}))


def test_a_version_of_another_base_is_refused(config, tmp_path):
    register(config, "a", tmp_path)
    other = config.train.model.model_copy(update={"source": "models/other"})
    train = config.train.model_copy(update={"start": "1", "model": other})
    with pytest.raises(RegistryError, match=r"version 1 was made for the base .*, and train.model.source is models/o"):
        start.identity(config.project, train)


def test_without_a_start_nothing_is_asked(config):
    train = config.train.model_copy(update={"start": None})
    bare = config.model_copy(update={"train": train})
    assert start.settled(bare) == bare
    assert start.identity(config.project, train) is None
    assert start.located(config.project, train) == train
