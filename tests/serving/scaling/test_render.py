"""One policy, rendered for everybody who carries it out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from forgeline.config.schema.serve.scaling import Scaling
from forgeline.errors import ServingError
from forgeline.serving.scaling import render

OFFICE = {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "replicas": 3}


def scaling(**keys: Any) -> Scaling:
    return Scaling.model_validate(keys)


def test_an_autoscaler_of_kubernetes_is_valid_and_has_the_policy_s_numbers() -> None:
    import kubernetes_validate

    manifest = render.hpa(scaling(min_replicas=1, max_replicas=9, ongoing_requests=5, up_delay=7), "gateway")
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    spec = manifest["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"], spec["scaleTargetRef"]["name"]) == (1, 9, "gateway")
    assert spec["metrics"][0]["external"]["target"]["averageValue"] == "5"
    assert spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 7


@pytest.mark.parametrize("keys", [{"min_replicas": 0}, {"schedule": [OFFICE]}, {"first_token": 0.5}])
def test_what_an_autoscaler_cannot_do_is_refused(keys: dict[str, Any]) -> None:
    assert render.needs_keda(scaling(**keys))
    with pytest.raises(ServingError, match="render KEDA's ScaledObject"):
        render.hpa(scaling(**keys), "gateway")


def test_a_scaled_object_follows_load_latency_and_the_clock_down_to_nothing() -> None:
    asked = scaling(min_replicas=0, idle=900, first_token=0.5, schedule=[OFFICE], timezone="Europe/Berlin")
    spec = render.keda(asked, "engine")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"]) == (0, 4, 900)
    load, latency, clock = spec["triggers"]
    assert load["metadata"]["query"] == "sum(avg_over_time(forgeline_ongoing_requests[30s]))"
    assert (load["metadata"]["threshold"], load["metricType"]) == ("8", "AverageValue")
    assert "forgeline_first_token_seconds_bucket" in latency["metadata"]["query"]
    assert (latency["metadata"]["threshold"], latency["metricType"]) == ("0.5", "Value")
    assert clock["metadata"] == {
        "timezone": "Europe/Berlin",
        "start": "0 8 * * 1-5",
        "end": "0 18 * * 1-5",
        "desiredReplicas": "3",
    }
    assert all(isinstance(value, str) for trigger in spec["triggers"] for value in trigger["metadata"].values())


def test_ray_takes_the_policy() -> None:
    config = pytest.importorskip("ray.serve.config")
    taken = config.AutoscalingConfig(**render.ray(scaling(min_replicas=0, idle=60, window=15)))
    assert (taken.min_replicas, taken.max_replicas, taken.target_ongoing_requests) == (0, 4, 8)
    assert (taken.look_back_period_s, taken.upscale_delay_s, taken.downscale_to_zero_delay_s) == (15, 10, 60)


def test_skypilot_is_told_requests_a_second() -> None:
    policy = render.skypilot(scaling(ongoing_requests=8, request_seconds=1.6))
    assert policy["target_qps_per_replica"] == 5
    with pytest.raises(ServingError, match=r"neither serve\.scaling\.schedule nor"):
        render.skypilot(scaling(schedule=[OFFICE]))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"min_replicas": 5}, "max_replicas is 4, fewer than min_replicas, 5"),
        ({"schedule": [{**OFFICE, "replicas": 7}]}, "schedule asks for 7 replicas"),
        ({"schedule": [{**OFFICE, "start": "at eight"}]}, "start"),
        ({"timezone": "Middle/Earth"}, "no time zone such as Europe/Berlin"),
        ({"down_delay": 7200}, "3600"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        scaling(**keys)
