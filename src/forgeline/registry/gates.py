"""Gates: rules over evidence, with verdicts that say why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel

from forgeline.config.schema import Gate, Policy, Project
from forgeline.evaluation.bootstrap import Estimate

Outcome = Literal["pass", "fail", "unknown"]


class Evidence(BaseModel):
    """What is known of a candidate. `differences` has a key only for what it was compared with.

    A `champion` of None says that there is none yet; a champion without differences is a gap. `notes` say
    of a value what it is about, for verdicts.
    """

    values: dict[str, Estimate | float]
    differences: dict[str, dict[str, Estimate]]
    champion: int | None
    notes: dict[str, str] = {}


class Verdict(BaseModel):
    """One gate's outcome and the sentence that explains it."""

    gate: str
    outcome: Outcome
    reason: str


def judge(policy: Policy, evidence: Evidence) -> list[Verdict]:
    """Return every gate's verdict; only `pass` lets a candidate through."""
    return [_judge(name, gate, evidence) for name, gate in policy.gates.items()]


def judge_success(project: Project, evidence: Evidence) -> list[Verdict]:
    """Return whether each success metric of the use case is reached; it informs, and blocks nothing."""
    goals = {name: Gate(evidence=name, min=bound.min, max=bound.max) for name, bound in project.success.items()}
    return [_judge(name, goal, evidence) for name, goal in goals.items()]


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
    outcome: Outcome
    what = f"{gate.evidence} against {gate.against}" if gate.against else gate.evidence
    limits = [("at least", gate.min), ("at most", gate.max)]
    bounds = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
    note = f" ({evidence.notes[gate.evidence]})" if gate.evidence in evidence.notes else ""
    if found is None:
        compared = gate.against in evidence.differences and gate.evidence in evidence.values
        why = ": their tokens are not the same" if compared else ""
        return Verdict(gate=name, outcome="unknown", reason=f"no evidence of {what}{why}{note}")
    if not gate.confident:
        value = found.value if isinstance(found, Estimate) else found
        shown = str(found) if isinstance(found, Estimate) else f"{found:g}"
        outcome = "pass" if _within(gate, value, value) else "fail"
        return Verdict(gate=name, outcome=outcome, reason=f"{what} is {shown}{note}; must be {bounds}")
    if not isinstance(found, Estimate):
        return Verdict(gate=name, outcome="unknown", reason=f"{what} has no confidence interval")
    if _within(gate, found.low, found.high):
        outcome = "pass"
    else:
        outcome = "unknown" if _overlaps(gate, found.low, found.high) else "fail"
    return Verdict(gate=name, outcome=outcome, reason=f"{what} is {found}; all of it must be {bounds}")


def _within(gate: Gate, low: float, high: float) -> bool:
    return (gate.min is None or low >= gate.min) and (gate.max is None or high <= gate.max)


def _overlaps(gate: Gate, low: float, high: float) -> bool:
    return (gate.min is None or high >= gate.min) and (gate.max is None or low <= gate.max)
