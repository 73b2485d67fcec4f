"""What the policy wishes for, by load, latency and the clock."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from forgeline.config.schema.serve.scaling import Scaling
from forgeline.serving.scaling import render
from forgeline.serving.scaling.policy import FIRST_TOKEN, Policy, floor, wished

OFFICE = {"start": "0 8 * * 1-5", "end": "30 18 * * 1-5", "replicas": 3}
SALE = {"start": "0 12 * * *", "end": "0 13 * * *", "replicas": 4}
SCALING = Scaling.model_validate({"schedule": [OFFICE, SALE], "timezone": "Europe/Berlin", "first_token": 0.5})


@pytest.mark.parametrize(
    ("day", "clock", "replicas"),
    [(30, "07:59", 0), (30, "08:00", 3), (30, "12:30", 4), (30, "18:29", 3), (30, "18:30", 0), (29, "10:00", 0)],
)
def test_a_schedule_is_kept_in_its_own_time_zone(day: int, clock: str, replicas: int) -> None:
    at = datetime.fromisoformat(f"2026-11-{day} {clock}:00").replace(tzinfo=ZoneInfo("Europe/Berlin"))
    assert floor(SCALING, at.timestamp()) == replicas


@pytest.mark.parametrize(
    ("ongoing", "running", "late", "asked"),
    [(20, 2, 0.0, 2.5), (20, 2, 0.75, 3.0), (2, 4, 0.25, 2.0), (0, 1, 0.0, 1.0)],
)
def test_the_larger_wish_counts(ongoing: float, running: float, late: float, asked: float) -> None:
    assert wished(ongoing, running, late, target=8, bound=0.5, floor=1) == asked


def test_ray_asks_the_policy_that_it_was_given() -> None:
    kwargs = render.ray(SCALING)["policy"]["policy_kwargs"]
    late = {FIRST_TOKEN: {"a": 1.0, "b": 2.0}}
    context = SimpleNamespace(current_num_replicas=2, total_num_requests=4.0, aggregated_metrics=late)
    assert Policy(**kwargs)(context) == (6.0, {})


def test_ray_finds_the_policy_by_its_name() -> None:
    config = pytest.importorskip("ray.serve.config")
    taken = config.AutoscalingConfig(**render.ray(SCALING))
    assert taken.policy.get_policy() is Policy
