"""The quick part of `python -m tests.load`: each of these is a few seconds of traffic."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `python -m` starts from the project's folder, pytest need not

from tests.load.deployment import NotHere
from tests.load.scenarios import SCENARIOS, Scenario, crash, restart, update


@pytest.mark.parametrize("scenario", [crash, restart, update], ids=lambda scenario: scenario.__name__)
def test_under_traffic(scenario: Scenario, tmp_path: Path) -> None:
    assert scenario in SCENARIOS
    try:
        print(asyncio.run(scenario(tmp_path, 0.5)))
    except NotHere as reason:
        pytest.skip(str(reason))
