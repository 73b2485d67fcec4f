"""One policy in the words of those who carry it out: Kubernetes, KEDA, Ray Serve, SkyPilot."""

from __future__ import annotations

from typing import Any

from forgeline.config.schema.serve.scaling import Scaling
from forgeline.errors import ServingError

ONGOING = "forgeline_ongoing_requests"  # the gateway's own count; autoscaling is on the sum over all gateways
POLICY = "forgeline.serving.scaling.policy:Policy"
POLL_SECONDS = 15
AT_ONCE = 4  # times what a replica is meant to have are sent to it before requests wait in Ray's proxy
LATENCY_WINDOW = "1m"  # of the time to the first token: Prometheus needs four scrapes for a rate


def needs_keda(scaling: Scaling) -> bool:
    """Return whether the policy asks for what a HorizontalPodAutoscaler cannot do by itself."""
    return scaling.min_replicas == 0 or bool(scaling.schedule) or scaling.first_token is not None


def hpa(scaling: Scaling, deployment: str) -> dict[str, Any]:
    """Return the HorizontalPodAutoscaler (autoscaling/v2) of a Deployment.

    It reads the external metric `forgeline_ongoing_requests`, which a metrics adapter must serve.

    Raises:
        ServingError: if the policy needs KEDA.
    """
    if needs_keda(scaling):
        raise ServingError(
            "A HorizontalPodAutoscaler knows neither a schedule, nor scaling to zero, nor the time to the first "
            "token: serve.scaling asks for one of them, so render KEDA's ScaledObject."
        )
    per_replica = {"type": "AverageValue", "averageValue": str(scaling.ongoing_requests)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deployment},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "behavior": _behavior(scaling),
            "metrics": [{"type": "External", "external": {"metric": {"name": ONGOING}, "target": per_replica}}],
        },
    }


def keda(scaling: Scaling, deployment: str) -> dict[str, Any]:
    """Return the ScaledObject (keda.sh/v1alpha1) of a Deployment; the largest of its triggers' wishes counts.

    With `min_replicas` 0 the gateway must not be in the Deployment: something has to hold the request that wakes it.
    """
    triggers = [
        _prometheus(scaling, "ongoing", f"sum({mean_ongoing(scaling)})", scaling.ongoing_requests, "AverageValue")
    ]
    if scaling.first_token is not None:
        triggers.append(_prometheus(scaling, "first-token", FIRST_TOKEN, scaling.first_token, "Value"))
    for number, window in enumerate(scaling.schedule):
        metadata = {"timezone": scaling.timezone, "start": window.start, "end": window.end}
        metadata |= {"desiredReplicas": str(window.replicas)}
        triggers.append({"type": "cron", "name": f"schedule-{number}", "metadata": metadata})
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": deployment},
        "spec": {
            "scaleTargetRef": {"name": deployment},
            "pollingInterval": POLL_SECONDS,
            "cooldownPeriod": round(scaling.idle),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)}},
            "triggers": triggers,
        },
    }


def ray(scaling: Scaling) -> dict[str, Any]:
    """Return the arguments of Ray Serve's AutoscalingConfig, as values of JSON."""
    own = {"policy_function": POLICY, "policy_kwargs": {"scaling": scaling.model_dump(mode="json")}}
    return {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.ongoing_requests,
        "look_back_period_s": scaling.window,
        "upscale_delay_s": scaling.up_delay,
        "downscale_delay_s": scaling.down_delay,
        "downscale_to_zero_delay_s": scaling.idle,
        "metrics_interval_s": report_seconds(scaling),
        **({"policy": own} if scaling.schedule or scaling.first_token is not None else {}),
    }


def report_seconds(scaling: Scaling) -> float:
    """Return how often a Ray proxy tells the controller of its requests; Ray warns of windows that are no longer."""
    return min(10.0, scaling.window / 5)


def skypilot(scaling: Scaling) -> dict[str, Any]:
    """Return a SkyPilot service's `replica_policy`, which counts requests a second.

    A replica with so many ongoing requests, each of `request_seconds`, ends their quotient a second (J. Little, 1961).

    Raises:
        ServingError: if the policy has a schedule or a bound on the time to the first token.
    """
    if scaling.schedule or scaling.first_token is not None:
        raise ServingError(
            "SkyPilot scales on requests a second alone: it can carry out neither serve.scaling.schedule nor "
            "serve.scaling.first_token."
        )
    return {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_qps_per_replica": round(scaling.ongoing_requests / scaling.request_seconds, 3),
        "upscale_delay_seconds": scaling.up_delay,
        "downscale_delay_seconds": scaling.down_delay,
    }


def mean_ongoing(scaling: Scaling) -> str:
    """Return the PromQL of each gateway's ongoing requests on the mean of the window."""
    return f"avg_over_time({ONGOING}[{round(scaling.window)}s])"


# Without requests the quantile is no number, which compares with nothing: then the time is nought.
FIRST_TOKEN = (
    f"(histogram_quantile(0.95, sum by (le) (rate(forgeline_first_token_seconds_bucket[{LATENCY_WINDOW}]))) > 0) "
    "or vector(0)"
)


def _prometheus(scaling: Scaling, name: str, query: str, threshold: float, kind: str) -> dict[str, Any]:
    metadata = {"serverAddress": scaling.prometheus, "query": query, "threshold": f"{threshold:g}"}
    metadata |= {"ignoreNullValues": "false"}  # a gateway that is not scraped is no reason to have fewer replicas
    return {"type": "prometheus", "name": name, "metricType": kind, "metadata": metadata}


def _behavior(scaling: Scaling) -> dict[str, Any]:
    """Return Kubernetes' hysteresis: of the window's wishes it follows the least when rising, and the most when not."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": round(scaling.up_delay)},
        "scaleDown": {"stabilizationWindowSeconds": round(scaling.down_delay)},
    }
