from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
from scene import LINEAGE

from forgeline.config import Config
from forgeline.errors import ServingError
from forgeline.serving.bundle import build, load, verify


def test_the_same_content_is_the_same_bundle(config: Config, adapter: Path, bundle: Path) -> None:
    before = {*bundle.parent.iterdir()}
    assert build(config, adapter, LINEAGE, bundle.parent) == bundle
    assert {*bundle.parent.iterdir()} == before


def test_another_lineage_is_another_bundle(config: Config, adapter: Path, bundle: Path, tmp_path: Path) -> None:
    other = build(config, adapter, {**LINEAGE, "version": "4"}, tmp_path)
    assert other.name != bundle.name
    assert verify(other).lineage.version == "4"


def test_manifest_tells_where_everything_came_from(config: Config, bundle: Path) -> None:
    manifest = verify(bundle)
    assert manifest.lineage.model_dump() == LINEAGE
    assert manifest.digest.startswith(bundle.name)
    assert manifest.base == config.train.model
    assert manifest.dtype == "float32"
    assert (manifest.sampling, manifest.guards) == (config.serve.sampling, config.serve.guards)


def test_no_path_of_the_training_machine_is_in_a_bundle(config: Config, bundle: Path) -> None:
    for path in bundle.rglob("*.json"):
        assert str(config.root) not in path.read_text()


def test_files_are_read_only(bundle: Path) -> None:
    assert not any(path.stat().st_mode & 0o222 for path in bundle.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("tuned/adapter_config.json", lambda path: path.write_text("{}"), "altered"),
        ("tuned/chat_template.jinja", lambda path: path.unlink(), "is missing"),
        ("tuned/notes.txt", lambda path: path.write_text("hello"), "was added"),
        ("tuned/adapter_model.bin", lambda path: path.write_bytes(b""), "pickled"),
    ],
)
def test_a_damaged_bundle_is_refused_by_name(copied: Path, root: Path, name: str, damage: object, says: str) -> None:
    damage(copied / name)  # type: ignore[operator]
    with pytest.raises(ServingError, match=says) as fault:
        load(copied, root)
    assert str(copied / name) in str(fault.value)


def test_an_altered_manifest_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["lineage"]["version"] = "99"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ServingError, match="does not follow from its fields"):
        verify(copied)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"manifest\.json is missing"):
        verify(tmp_path)


def test_a_pickled_adapter_is_refused(config: Config, adapter: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(adapter, tmp_path / "adapter")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ServingError, match="safetensors"):
        build(config, pickled, LINEAGE, tmp_path / "bundles")


def test_a_gap_in_the_lineage_is_named(config: Config, adapter: Path, tmp_path: Path) -> None:
    gap = {key: value for key, value in LINEAGE.items() if key != "data_digest"}
    with pytest.raises(ServingError, match="missing or not expected: data_digest"):
        build(config, adapter, gap, tmp_path)


def test_another_base_model_is_refused(bundle: Path, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "base", tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ServingError, match="gives other weights"):
        load(bundle, tmp_path)


def test_a_full_disk_leaves_nothing_behind(config: Config, adapter: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # a write past it fails as on a full disk
    try:
        with pytest.raises(ServingError, match="cannot be written below"):
            build(config, adapter, LINEAGE, tmp_path / "bundles")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "bundles").iterdir()) == []
