"""Which number of threads decodes fastest, on a machine that gets busier and quiet again."""

from __future__ import annotations

import pytest

from forgeline.serving.engines.pace import WASTE, Pace


def trial(pace: Pace, seconds: dict[int, float]) -> None:
    while pace.on_trial:
        pace.took(seconds[pace.threads()])


def test_the_fastest_is_chosen_and_found_out_again_when_the_machine_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("forgeline.serving.engines.pace.time.monotonic", lambda: now)
    pace = Pace(4)
    assert (pace.threads(), pace.on_trial) == (4, False)
    pace.begin()
    trial(pace, {4: 0.02, 2: 0.03, 1: 0.05})
    assert pace.threads() == 4
    now += 3 * (0.01 + 0.03) / WASTE + 0.001
    assert pace.on_trial is False and pace.threads() == 4 and pace.on_trial
    trial(pace, {4: 0.4, 2: 0.2, 1: 0.06})  # others want the processors now
    assert pace.threads() == 1
    wasted = 3 * (0.4 - 0.06) + 3 * (0.2 - 0.06)
    now += wasted / WASTE - 0.001
    assert pace.threads() == 1 and not pace.on_trial  # trials cost, so they are far between
    now += 0.002
    assert pace.threads() == 4 and pace.on_trial
