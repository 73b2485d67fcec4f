"""The bill of materials: valid by the published schema, the same each time, and true of what is installed."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from scene import LINEAGE, PROJECT

from forgeline import cli
from forgeline.config import Config
from forgeline.errors import ServingError
from forgeline.serving.bundle import verify
from forgeline.serving.sbom import sbom


@pytest.fixture(scope="module")
def bill(bundle: Path, config: Config) -> dict[str, Any]:
    return sbom(verify(bundle), config.project)


def named(bill: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in bill["components"] if each["name"] == name)


def test_it_is_what_the_schema_says(bill: dict[str, Any]) -> None:
    assert bill["specVersion"] == "1.6"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    broken = {**bill, "components": [{**bill["components"][0], "hashes": [{"alg": "none", "content": "0"}]}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_it_names_the_packages_that_serve(bill: dict[str, Any]) -> None:
    fastapi = named(bill, "fastapi")
    assert fastapi["purl"] == f"pkg:pypi/fastapi@{version('fastapi')}"
    assert fastapi["licenses"] == [{"license": {"id": "MIT"}}]
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"] if "dependsOn" in each}
    assert named(bill, "starlette")["bom-ref"] in needs[fastapi["bom-ref"]]


def test_it_tells_what_the_model_came_from(bill: dict[str, Any], bundle: Path, config: Config) -> None:
    model, manifest = next(each for each in bill["components"] if each["bom-ref"] == "model"), verify(bundle)
    facts = {each["name"]: each["value"] for each in model["properties"]}
    assert (model["type"], model["version"]) == ("machine-learning-model", "3")
    assert facts["forgeline:data_digest"] == LINEAGE["data_digest"] and facts["forgeline:bundle"] == manifest.digest
    assert {each["name"]: each["hashes"][0]["content"] for each in model["components"]} == manifest.files
    [base] = model["pedigree"]["ancestors"]
    assert base["properties"] == [{"name": "forgeline:weights_digest", "value": manifest.base_digest}]
    assert model["modelCard"]["considerations"]["useCases"] == [config.project.objective]


def test_the_command_writes_the_same_each_time(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bill: dict[str, Any], config: Config
) -> None:
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["forgeline", "sbom", "bundle", "--output", "sbom.cdx.json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert json.loads((tmp_path / "sbom.cdx.json").read_text()) == bill


def test_it_is_the_same_where_the_backport_finds_the_packages(
    bundle: Path, config: Config, bill: dict[str, Any]
) -> None:
    import importlib_metadata  # as ZenML does; it puts its own finder before the standard one

    assert importlib_metadata.version("fastapi")
    assert sbom(verify(bundle), config.project) == bill


def test_another_environment_has_its_own_packages(bundle: Path, config: Config, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="holds no virtual environment"):
        sbom(verify(bundle), config.project, tmp_path)
    info = tmp_path / "lib/python3.12/site-packages/vllm-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm\nVersion: 0.32.0\nLicense: Apache-2.0\n")
    origin = {"url": "https://example.org/vllm.whl", "archive_info": {"hashes": {"sha256": "a" * 64}}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    found = sbom(verify(bundle), config.project, tmp_path)
    assert [each["name"] for each in found["components"] if each["type"] == "library"] == ["vllm"]
    assert named(found, "vllm")["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
