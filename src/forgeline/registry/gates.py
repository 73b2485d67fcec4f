"""Gates: rules over evidence, with verdicts that say why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel

from forgeline.config.schema import Gate, Policy
from forgeline.evaluation.bootstrap import Estimate


class Evidence(BaseModel):
    """What is known of a candidate. `differences` has a key only for what it was compared with.

    A `champion` of None says that there is none yet; a champion without differences is a gap.
    """

    values: dict[str, Estimate | float]
    differences: dict[str, dict[str, Estimate]]
    champion: int | None


class Verdict(BaseModel):
    """One gate's outcome and the sentence that explains it."""

    gate: str
    outcome: Literal["pass", "fail", "unknown"]
    reason: str


def judge(policy: Policy, evidence: Evidence) -> list[Verdict]:
    """Return every gate's verdict; only `pass` lets a candidate through."""
    return [_judge(name, gate, evidence) for name, gate in policy.gates.items()]


def passed(verdicts: list[Verdict]) -> bool:
    """Say whether every gate passed."""
    return all(verdict.outcome == "pass" for verdict in verdicts)


def _judge(name: str, gate: Gate, evidence: Evidence) -> Verdict:
    if gate.against == "champion" and evidence.champion is None:
        return Verdict(gate=name, outcome="pass", reason="there is no champion yet")
    known: Mapping[str, Estimate | float] = evidence.values
    if gate.against:
        known = evidence.differences.get(gate.against, {})
    found = known.get(gate.evidence)
    what = f"{gate.evidence} against {gate.against}" if gate.against else gate.evidence
    bounds = " and ".join(
        [f"at least {gate.min:g}"] * (gate.min is not None) + [f"at most {gate.max:g}"] * (gate.max is not None)
    )
    if found is None:
        return Verdict(gate=name, outcome="unknown", reason=f"no evidence of {what}")
    estimate = found if isinstance(found, Estimate) else None
    value = estimate.value if estimate else float(found)  # type: ignore[arg-type]
    if gate.confident:
        if estimate is None:
            return Verdict(gate=name, outcome="unknown", reason=f"{what} has no confidence interval")
        inside, possible = _within(gate, estimate.low, estimate.high), _overlaps(gate, estimate.low, estimate.high)
        outcome: Literal["pass", "fail", "unknown"] = "pass" if inside else "unknown" if possible else "fail"
        return Verdict(gate=name, outcome=outcome, reason=f"{what} is {estimate}; all of it must be {bounds}")
    shown = str(estimate) if estimate else f"{value:g}"
    return Verdict(
        gate=name,
        outcome="pass" if _within(gate, value, value) else "fail",
        reason=f"{what} is {shown}; must be {bounds}",
    )


def _within(gate: Gate, low: float, high: float) -> bool:
    return (gate.min is None or low >= gate.min) and (gate.max is None or high <= gate.max)


def _overlaps(gate: Gate, low: float, high: float) -> bool:
    return (gate.min is None or high >= gate.min) and (gate.max is None or low <= gate.max)
