"""The bill of materials of a deployment (CycloneDX 1.6): the packages of its environment, the model and its lineage.

The same bundle in the same environment gives the same bytes: there is no time and nothing random in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from forgeline.config.schema import Model, Project
from forgeline.errors import ServingError
from forgeline.lineage import value_digest
from forgeline.serving.bundle import Manifest
from forgeline.sources.environment import shown

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component

MODEL = "model"
TITLES = "License :: "  # how trove classifiers of licences begin
LONGEST = 100  # characters of a licence's name; packages that give more have put the text there


def sbom(manifest: Manifest, project: Project, environment: Path | None = None) -> dict[str, Any]:
    """Return the bill of a verified bundle in an environment: this one, or the virtual one in a folder.

    Source: https://cyclonedx.org/docs/1.6/json/.

    Raises:
        ServingError: if there is no environment in that folder.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    found = _installed(environment)
    packages = {name: _package(name, each) for name, each in found.items()}
    model = _model(manifest)
    whole = Component(
        name=project.name,
        version=manifest.lineage.version,
        type=ComponentType.APPLICATION,
        bom_ref="deployment",
        description=project.objective,
    )
    bom = Bom(components=[model, *packages.values()])
    bom.metadata.component = whole
    bom.register_dependency(model)
    for name, package in packages.items():
        needed = (packages.get(each) for each in _needed(found[name]))
        bom.register_dependency(package, [each for each in needed if each is not None])
    bom.register_dependency(whole, [model, *packages.values()])
    told: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del told["metadata"]["timestamp"], told["serialNumber"]
    described = next(each for each in told["components"] if each["bom-ref"] == MODEL)
    described["modelCard"] = _card(manifest, project)  # which the library cannot write yet
    told["serialNumber"] = UUID(value_digest(told)[:32], version=4).urn
    return told


def _installed(environment: Path | None) -> dict[str, Distribution]:
    """Return the distributions of an environment by their canonical names."""
    found: Iterable[Distribution] = distributions()
    if environment is not None:
        places = sorted(environment.glob("lib/python*/site-packages"))
        if not places:
            raise ServingError(f"{environment} holds no virtual environment: lib/python*/site-packages is missing.")
        found = distributions(path=[str(place) for place in places])
    named: dict[str, Distribution] = {}
    for each in found:
        named.setdefault(canonicalize_name(each.metadata["Name"]), each)  # the first on the path is what is imported
    return dict(sorted(named.items()))


def _package(name: str, found: Distribution) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    url = PackageURL("pypi", None, name, found.version)
    licence = _licence(found)
    return Component(
        name=name,
        version=found.version,
        type=ComponentType.LIBRARY,
        bom_ref=url.to_string(),
        purl=url,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        hashes=_archive_hashes(found),
    )


def _licence(found: Distribution) -> str | None:
    """Return what a package says of its licence: an SPDX expression, a name, or what its classifiers say."""
    metadata = found.metadata
    # Not by []: where the backport of importlib.metadata is imported, as ZenML does, that raises for what is not there.
    stated = next(iter(metadata.get_all("License-Expression") or metadata.get_all("License") or []), None)
    if stated and len(stated) <= LONGEST and stated.upper() != "UNKNOWN":
        return str(stated)
    titles = [each for each in metadata.get_all("Classifier") or [] if each.startswith(TITLES)]
    return "; ".join(title.rpartition(" :: ")[2] for title in titles) or None


def _archive_hashes(found: Distribution) -> list[HashType]:
    """Return the hash of the archive that a package came from; known only of those installed by address (PEP 610)."""
    from cyclonedx.model import HashAlgorithm, HashType

    origin = json.loads(found.read_text("direct_url.json") or "{}")
    digest = origin.get("archive_info", {}).get("hashes", {}).get("sha256")
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []


def _needed(found: Distribution) -> set[str]:
    """Return the canonical names of what a package needs here, its extras aside."""
    asked = map(Requirement, found.requires or [])
    return {canonicalize_name(each.name) for each in asked if not each.marker or each.marker.evaluate({"extra": ""})}


def _model(manifest: Manifest) -> Component:
    """Return a bundle's model with its files, its base and the links of its lineage."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    def file(name: str, digest: str) -> Component:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
        return Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=hashes)

    lineage = manifest.lineage
    facts = lineage.model_dump(exclude={"model", "version"}) | {
        "bundle": manifest.digest,
        "method": manifest.method,
        "dtype": manifest.dtype,
    }
    return Component(
        name=lineage.model,
        version=lineage.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=MODEL,
        licenses=[LicenseFactory().make_from_string(manifest.base.license)] if manifest.base else [],
        pedigree=Pedigree(ancestors=[_base(manifest.base, manifest.base_digest)]) if manifest.base else None,
        components=[file(name, digest) for name, digest in manifest.files.items()],
        properties=[Property(name=f"forgeline:{name}", value=value) for name, value in facts.items()],
    )


def _base(base: Model, digest: str | None) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=shown(base.source),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base",
        licenses=[LicenseFactory().make_from_string(base.license)],
        properties=[Property(name="forgeline:weights_digest", value=digest)] if digest else [],
    )


def _card(manifest: Manifest, project: Project) -> dict[str, Any]:
    """Return the model card, as CycloneDX's schema has it."""
    digest = {"name": "forgeline:data_digest", "value": manifest.lineage.data_digest}
    data = {"type": "dataset", "name": f"the splits of {project.name}", "contents": {"properties": [digest]}}
    return {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [data],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "considerations": {"users": [project.users], "useCases": [project.objective]},
        "properties": [
            {"name": "forgeline:owner", "value": project.owner},
            {"name": "forgeline:risk_tier", "value": project.risk_tier},
            {"name": "forgeline:human_review", "value": project.human_review},
        ],
    }
