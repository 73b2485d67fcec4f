"""What the policy wishes for at a moment, for whoever asks: Ray Serve's controller, or the simulator."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from forgeline.config.schema.serve.scaling import Scaling

FIRST_TOKEN = "first_token"  # noqa: S105 - under which a replica reports the 95th percentile of its own


def wished(ongoing: float, running: float, late: float, target: float, bound: float, floor: float) -> float:
    """Return how many replicas the load asks for, before bounds and hysteresis.

    `ongoing` requests are `target` for each; `running` replicas whose first tokens come after `late` seconds are too
    few, or too many, by how far that is from `bound` (0: there is none); there are never fewer than `floor`.
    """
    asked = ongoing / target
    if bound > 0.0 and late > 0.0:
        asked = max(asked, running * late / bound)
    return max(asked, floor)


def floor(scaling: Scaling, at: float) -> int:
    """Return the least number of replicas that the schedule asks for at a time (epoch seconds)."""
    return _floor(scaling, int(at // 60))


@lru_cache(maxsize=4096)
def _floor(scaling: Scaling, minute: int) -> int:
    now = datetime.fromtimestamp(60 * minute, ZoneInfo(scaling.timezone)) + timedelta(seconds=1)
    open_ = [
        window.replicas
        for window in scaling.schedule
        if croniter(window.start, now).get_prev(float) > croniter(window.end, now).get_prev(float)
    ]
    return max(open_, default=0)


class Policy:
    """Ray Serve's autoscaling policy for a schedule and a bound on the first token; Ray adds bounds and hysteresis."""

    def __init__(self, scaling: dict[str, Any]) -> None:
        self._scaling = Scaling.model_validate(scaling)

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the wish, and a state that nobody needs."""
        scaling, running = self._scaling, context.current_num_replicas
        told = (context.aggregated_metrics or {}).get(FIRST_TOKEN, {})
        late = sum(told.values()) / len(told) if told else 0.0
        asked = wished(
            context.total_num_requests if running else context.target_num_replicas * scaling.ongoing_requests,
            *(running, late, scaling.ongoing_requests, scaling.first_token or 0.0),
            floor(scaling, time.time()),
        )
        return asked, {}
