from pathlib import Path

import pytest
import yaml

from forgeline.config import catalogue, load
from forgeline.errors import ConfigError
from forgeline.models.footprint import Shape

PROJECT = Path(__file__).parents[2]
ENTRIES = catalogue.read_all(PROJECT)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "configs/models").mkdir(parents=True)
    return tmp_path


def write(root, name, **changes):
    values = yaml.safe_load((PROJECT / "configs/models/smollm2-135m.yaml").read_text())
    (root / f"configs/models/{name}.yaml").write_text(yaml.safe_dump({**values, **changes}))


@pytest.mark.parametrize("name", ENTRIES)
def test_the_sizes_of_a_model_make_its_parameters(name):
    entry = ENTRIES[name]
    assert Shape.of_entry(entry.architecture).parameters == pytest.approx(entry.parameters, rel=0.01)
    assert set(entry.targets) <= Shape.of_entry(entry.architecture).widths.keys()


def test_every_shipped_model_is_pinned_and_its_licence_known():
    licenses = load(PROJECT).licenses
    assert all(entry.pinned and entry.license in licenses for entry in ENTRIES.values())
    assert len(ENTRIES) >= 12


def test_the_embedded_models_entry_is_the_real_model(base):
    entry, config = ENTRIES["smollm2-135m"], base.model.config
    assert Shape.of_entry(entry.architecture) == Shape.of(config)
    assert (entry.parameters, entry.context) == (base.model.num_parameters(), config.max_position_embeddings)
    assert (entry.architecture.type, entry.chat_template) == (config.model_type, bool(base.tokenizer.chat_template))
    shipped = load(PROJECT).train.model
    assert (entry.address, entry.license) == (shipped.source, shipped.license)
    names = {name.rpartition(".")[2] for name, _ in base.model.named_modules()}
    assert set(entry.targets) <= names


def test_a_name_stands_for_source_revision_and_licence():
    config = load(PROJECT, overrides=["train.model=qwen2.5-3b", "train.epochs=2"])
    entry = ENTRIES["qwen2.5-3b"]
    assert config.train.model.source == f"hf://Qwen/Qwen2.5-3B-Instruct@{entry.revision}"
    assert config.train.model.license == "Qwen-Research"


def test_a_misspelt_name_is_told_with_the_other_faults():
    with pytest.raises(ConfigError) as told:
        load(PROJECT, overrides=["train.model=qwen3-8", "train.epoch=2"])
    assert "has 2 faults" in str(told.value) and "did you mean qwen3-8b?" in str(told.value)


def test_all_faults_of_all_entries_are_told_at_once(folder):
    write(folder, "one", revision="main", licence="MIT")
    write(folder, "two", languages=[False])
    (folder / "configs/models/three.yaml").write_text("source: [")
    with pytest.raises(ConfigError) as told:
        catalogue.read_all(folder)
    message = str(told.value)
    assert "one.yaml: licence: unknown key" in message
    assert "one.yaml: revision: string should match pattern" in message and "found 'main'" in message
    assert "two.yaml: languages.0" in message and "three.yaml: not YAML" in message


def test_without_a_revision_a_hub_model_is_not_pinned(folder):
    write(folder, "loose", source="hf://owner/name")
    assert not catalogue.read(folder, "loose").pinned
    assert catalogue.as_model(folder, "loose")["source"] == "hf://owner/name"


@pytest.mark.parametrize(
    ("license", "use", "answer"),
    [
        ("Apache-2.0", "commercial", True),
        ("apache-2.0", "commercial", True),
        ("Qwen-Research", "commercial", False),
        ("Qwen-Research", "research", True),
        ("ask the vendor", "research", None),
    ],
)
def test_a_licence_permits_forbids_or_is_unknown(license, use, answer):
    assert catalogue.permitted(load(PROJECT).licenses, license, use) is answer
