"""Gates: rules over evidence, with verdicts that say why, and what would change them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel

from forgeline.config.schema import Gate, Policy, Project
from forgeline.evaluation.bootstrap import Difference, Estimate
from forgeline.evaluation.slices import Slices
from forgeline.registry import explain
from forgeline.registry.explain import Bounds

Outcome = Literal["pass", "fail", "unknown"]
NOT_PASSED: tuple[Outcome, ...] = ("fail", "unknown")  # a slice that fails says more than one that is open


class Origin(BaseModel):
    """When a piece of evidence was made (ISO 8601), for which data version, and how it is made again."""

    at: str
    data_digest: str
    again: str


class Evidence(BaseModel):
    """What is known of a candidate.

    `differences` has a key only for what it was compared with, `slices` one for each gate that judges by slice.
    A `champion` of None says that there is none yet; a champion without differences is a gap. `absent` says why
    a piece of evidence, a comparison, or a gate's slices are not there. `approvals` says by role who approved.
    `notes` say of a value what it is about. Estimates of fewer than `enough` examples say nothing.
    """

    version: int
    data_digest: str
    values: dict[str, Estimate | float]
    differences: dict[str, dict[str, Difference]]
    champion: int | None
    slices: dict[str, Slices] = {}
    approvals: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    absent: dict[str, str] = {}
    notes: dict[str, str] = {}
    enough: int = 1


class Verdict(BaseModel):
    """One gate's outcome, the sentence that explains it, and what would change it."""

    gate: str
    outcome: Outcome
    reason: str
    change: str = ""


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


class _Held(NamedTuple):
    outcome: Outcome
    reason: str
    change: str


def _judge(name: str, gate: Gate, evidence: Evidence) -> Verdict:
    if gate.evidence is None:
        held = _approved(str(gate.approval), evidence)
    elif gate.against == "champion" and evidence.champion is None:
        held = _Held("pass", "there is no champion yet", "a champion to lose to")
    else:
        held = _judge_evidence(name, gate, gate.evidence, evidence)
    return Verdict(gate=name, **held._asdict())


def _approved(role: str, evidence: Evidence) -> _Held:
    if role in evidence.approvals:
        reason = f"approved as {role} by {evidence.approvals[role]}"
        return _Held("pass", reason, "nothing; another version needs an approval of its own")
    command = f"`forgeline approve {evidence.version} --role {role} --reason …`"
    reason = f"nobody approved version {evidence.version} as {role}"
    return _Held("unknown", reason, f"whoever is {role} approves it: {command}")


def _judge_evidence(name: str, gate: Gate, measure: str, evidence: Evidence) -> _Held:
    what = f"{measure} against {gate.against}" if gate.against else measure
    if doubt := _doubt(gate, measure, evidence):
        return doubt._replace(reason=f"{what} {doubt.reason}")
    if gate.by and name in evidence.slices:
        return _hold_slices(gate, measure, evidence.slices[name], evidence, f"{what} by {gate.by}")
    known: Mapping[str, Estimate | float] = evidence.values
    if gate.against:
        known = evidence.differences.get(gate.against, {})
    if gate.by or measure not in known:
        return _absent(name, gate, measure, evidence, f"{what} by {gate.by}" if gate.by else what)
    held = _hold(gate, measure, known[measure], evidence)
    return held._replace(reason=f"{what} {held.reason}")


def _hold_slices(gate: Gate, measure: str, found: Slices, evidence: Evidence, what: str) -> _Held:
    """Hold every slice with enough examples against a gate: all must pass, and those that do not are named."""
    parts = {part: values[measure] for part, values in found.estimates.items() if measure in values}
    small = f"; {len(found.too_few)} have fewer than {evidence.enough} examples" if found.too_few else ""
    if not parts:
        change = f"more examples{_again(measure, evidence)}"
        return _Held("unknown", f"{what}: no slice can be judged{small}", change)
    held = {part: _hold(gate, measure, value, evidence) for part, value in parts.items()}
    for outcome in NOT_PASSED:
        if named := {part: each for part, each in held.items() if each.outcome == outcome}:
            reasons = "; ".join(f"{part} {each.reason}" for part, each in named.items())
            changes = "; ".join(f"{part}: {each.change}" for part, each in named.items())
            return _Held(outcome, f"{what}: {reasons}{small}", changes)
    closest = min(parts, key=lambda part: _bounds(gate, parts[part]).slack(parts[part].low, parts[part].high))
    reason = f"{what}: of {len(parts)}, {closest} is closest: it {held[closest].reason}{small}"
    return _Held("pass", reason, f"{closest}: {held[closest].change}")


def _hold(gate: Gate, measure: str, found: Estimate | float, evidence: Evidence) -> _Held:
    """Hold a value against a gate's bounds: all of its interval, if it has one."""
    bounds = _bounds(gate, found)
    if bounds == (None, None):
        reason = f"is {found}, and neither more nor less of it is worse"
        return _Held("unknown", reason, "bound it with min or max in configs/policy.yaml")
    note = f" ({evidence.notes[measure]})" if measure in evidence.notes else ""
    if not isinstance(found, Estimate):
        outcome: Outcome = "pass" if bounds.slack(found, found) >= 0 else "fail"
        return _Held(outcome, f"is {found:g}{note}; must be {bounds}", explain.number(found, bounds))
    again = _again(measure, evidence)
    if found.n < evidence.enough:
        reason = f"is {found}{note} on {found.n} examples: fewer than {evidence.enough} show nothing"
        return _Held("unknown", reason, f"{evidence.enough - found.n} more examples{again}")
    if bounds.slack(found.low, found.high) >= 0:
        outcome = "pass"
    else:
        outcome = "unknown" if bounds.overlap(found.low, found.high) else "fail"
    told = explain.told(found, bounds)
    return _Held(outcome, f"is {told}{note}; all of it must be {bounds}", explain.estimate(found, bounds, again))


def _bounds(gate: Gate, found: Estimate | float) -> Bounds:
    """Return what a gate asks for; a margin is on the side where the difference is worse, if either is."""
    if gate.margin is None:
        return Bounds(gate.min, gate.max)
    better = found.better if isinstance(found, Difference) else None
    return Bounds(-gate.margin if better == "higher" else None, gate.margin if better == "lower" else None)


def _absent(name: str, gate: Gate, measure: str, evidence: Evidence, what: str) -> _Held:
    """Say of what is not there why, and how it comes to be."""
    why = next((evidence.absent[key] for key in (str(gate.against), measure, name) if key in evidence.absent), "")
    if not why and gate.against in evidence.differences and measure in evidence.values:
        why = "their tokens are not the same"
    note = f" ({evidence.notes[measure]})" if measure in evidence.notes else ""
    reason = f"no evidence of {what}{note}{': ' * bool(why)}{why}"
    return _Held("unknown", reason, why or f"something must measure {measure}")


def _doubt(gate: Gate, measure: str, evidence: Evidence) -> _Held | None:
    """Return why what was measured cannot be relied on: it is about other data, or too old."""
    origin = evidence.origins.get(measure)
    if measure not in evidence.values:
        return None
    if origin and origin.data_digest != evidence.data_digest:
        theirs, ours = origin.data_digest[:12], evidence.data_digest[:12]
        return _Held("unknown", f"was measured with data {theirs}, and the version is made of {ours}", origin.again)
    if gate.max_age_days is None:
        return None
    if origin is None:
        return _Held("unknown", "has no date, so nobody knows its age", "judge it without max_age_days")
    other = evidence.origins.get(str(gate.against), origin)
    for whose, made in (("it", origin), (str(gate.against), other)):
        days = (datetime.now(UTC) - datetime.fromisoformat(made.at)).total_seconds() / 86400
        if days > gate.max_age_days:
            reason = f"is stale: {whose} was measured on {made.at[:10]}, more than {gate.max_age_days:g} days ago"
            return _Held("unknown", reason, made.again)
    return None


def _again(measure: str, evidence: Evidence) -> str:
    origin = evidence.origins.get(measure)
    return f" ({origin.again})" if origin else ""
