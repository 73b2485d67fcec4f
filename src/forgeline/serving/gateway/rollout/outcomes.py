"""What one request says of the arm that it came to."""

from __future__ import annotations

from forgeline.serving.engines import Usage
from forgeline.serving.engines.make import PRIMARY
from forgeline.serving.gateway.exchange import Asking, Exchange
from forgeline.serving.gateway.rollout.evidence import Outcome

WRITTEN_BEFORE = {"cache", "semantic"}
FAULTS = {"engine_failed", "unavailable", "timeout", "context_or_template", "guard_failed", "internal"}
REFUSED = "content_policy"
LEFT = "client_closed"
LONG_ENOUGH = 4  # tokens of a reply whose pace is taken


def outcome_of(exchange: Exchange, error: str | None) -> Outcome | None:
    """Return what an exchange says of the arm that it came to; None if it says nothing.

    What limits, a full queue or the database refused is no fault of an arm's, nor is what was written before. Whoever
    left before the first token shows only that it took longer.
    """
    asking = exchange.asking
    failed = error in FAULTS or (error is None and exchange.rung not in {PRIMARY, *WRITTEN_BEFORE})
    if exchange.failed or failed:
        return Outcome(error=True)
    if error == LEFT and asking is not None and asking.first is None:
        return Outcome(first=asking.age(), left=True)
    if error == REFUSED:
        return Outcome(error=False, guard=True)
    if error is not None or exchange.rung != PRIMARY or asking is None:
        return None
    return Outcome(
        error=asking.faults > 0,
        guard=any(verdict.action in ("flag", "block") for verdict in exchange.verdicts),
        first=asking.first,
        pace=_pace(asking, exchange.usage),
    )


def _pace(asking: Asking, usage: Usage | None) -> float | None:
    """Return the seconds from one token to the next, of a reply that is long enough."""
    if asking.first is None or asking.last is None or usage is None or usage.completion_tokens < LONG_ENOUGH:
        return None
    return (asking.last - asking.first) / (usage.completion_tokens - 1)
