"""The replicas as an application that a cluster's own file names, such as KubeRay's `serveConfigV2`."""

from __future__ import annotations

from typing import Any


def application(order: dict[str, Any]) -> Any:
    """Return the Ray Serve application of an order; how many replicas, and how they are placed, the file says."""
    from ray import serve

    from forgeline.serving.engines.ray import Replica

    return serve.deployment(serve.ingress()(Replica)).bind(order)
