"""A job for a managed target: the real configuration, a manifest, and a smoke test that notes where it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scene import LINEAGE, PROJECT

from forgeline.config import load
from forgeline.config.schema import Config, Guards, Sampling
from forgeline.errors import ServingError
from forgeline.serving.bundle import Lineage, Manifest
from forgeline.serving.targets import Job

IMAGE = "registry.example.org/forgeline@sha256:" + "a" * 64


@dataclass
class Smoke:
    """Passes, or not; `asked` are the URLs."""

    passes: bool = True
    asked: list[str] = field(default_factory=list)

    def __call__(self, url: str) -> None:
        self.asked.append(url)
        if not self.passes:
            raise ServingError("The smoke test failed.")


Make = Callable[..., Job]


@pytest.fixture(scope="session")
def shipped() -> Config:
    return load(PROJECT)


@pytest.fixture
def make(shipped: Config, tmp_path: Path) -> Make:
    """Return a job of a version; `serve` is by dotted key."""

    def made(version: str = "3", smoke: Any = None, **sections: Any) -> Job:
        given = shipped.serve.model_dump(mode="json")
        given["targets"] = {"pushed": IMAGE, **sections.pop("targets", {})}
        given |= sections
        serve = type(shipped.serve).model_validate(given)
        config = shipped.model_copy(update={"serve": serve, "root": tmp_path})
        manifest = Manifest.model_construct(
            lineage=Lineage(**{**LINEAGE, "version": version}),
            sampling=Sampling(),
            guards=Guards(),
            digest=version.zfill(2) * 32,
        )
        return Job(config, tmp_path / "bundle", manifest, smoke or Smoke())

    return made


@pytest.fixture(scope="session")
def session() -> Any:
    """Keep what the SDK reads of the APIs: its model of SageMaker alone takes a second."""
    import boto3
    import moto  # noqa: F401  before the session, which it then answers

    return boto3.Session()


@pytest.fixture
def aws(session: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """AWS as moto has it, empty; its hooks are the session's `events`."""
    import boto3
    from moto import mock_aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():  # which takes the default session away
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
        yield session
