"""Which approach to use: what each scored and costs, and the one that the rule chooses."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from pydantic import BaseModel

from forgeline.config.schema import Cost, Evaluate, Recommend
from forgeline.errors import EvaluationError
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.compare import difference
from forgeline.evaluation.metrics import create
from forgeline.evaluation.report import Report
from forgeline.evaluation.subjects import Messages
from forgeline.prompting import Approach

UNITS = {"tokens": "tokens a reply", "cost": "for 1,000 replies", "latency": "s at the median"}


class Taken(BaseModel):
    """What one reply takes: mean tokens, and seconds of `timed` prompts asked one at a time, with all looked up."""

    prompt_tokens: float
    reply_tokens: float
    timed: int
    seconds: float
    latency_p50: float
    latency_p95: float

    def metrics(self) -> dict[str, float]:
        """Return it as numbers to log."""
        return self.model_dump(exclude={"timed"})


class Outcome(BaseModel):
    """What an approach scored, and what one reply takes.

    `key` is of everything that decides it, `asked` what the model reads for the first test prompt. `money` is for
    1,000 replies, one at a time, on the machine of configs/cost.yaml; tuning is not in it.
    """

    approach: Approach
    key: str
    report: str
    metrics: dict[str, Estimate]
    asked: Messages
    taken: Taken
    tuning_seconds: float
    money: float = 0.0
    currency: str = ""

    def priced(self, cost: Cost) -> Outcome:
        """Return it at today's prices."""
        money = self.taken.seconds * 1000 / 3600 * cost.prices[cost.machine]
        return self.model_copy(update={"money": money, "currency": cost.currency})

    def spent(self, prefer: str) -> float:
        """Return what the rule wants to be small."""
        match prefer:
            case "tokens":
                return self.taken.prompt_tokens + self.taken.reply_tokens
            case "cost":
                return self.money
            case _:
                return self.taken.latency_p50


class Recommendation(BaseModel):
    """The chosen approach, None if all are too slow; why; and each one's difference to the best."""

    approach: str | None
    reason: str
    differences: dict[str, Estimate]


class Comparison(BaseModel):
    """All outcomes, what the rule says of them, and the MLflow run that holds theirs."""

    outcomes: list[Outcome]
    recommendation: Recommendation
    test_prompts: int
    run_id: str
    page: str


def taken(subject: Approached, report: Report, prompts: Sequence[Messages], timed: int, max_new_tokens: int) -> Taken:
    """Return what a reply takes of a scored approach.

    Args:
        subject: the approach.
        report: its evaluation on `prompts`.
        prompts: the test prompts.
        timed: how many of them are asked one at a time.
        max_new_tokens: the budget of a reply.
    """
    alone, asked = subject.alone(), prompts[:timed]
    alone.replies(asked[:1], max_new_tokens)  # what is loaded or compiled at first use is not the approach's
    seconds = []
    for prompt in asked:
        started = time.perf_counter()
        alone.replies([prompt], max_new_tokens)
        seconds.append(time.perf_counter() - started)
    return Taken(
        prompt_tokens=fmean(subject.prompt_tokens(prompts)),
        reply_tokens=fmean(row.tokens for row in report.rows),
        timed=len(asked),
        seconds=fmean(seconds),
        latency_p50=float(np.quantile(seconds, 0.5, method="inverted_cdf")),
        latency_p95=float(np.quantile(seconds, 0.95, method="inverted_cdf")),
    )


def recommend(
    outcomes: Sequence[Outcome], reports: Mapping[str, Report], rule: Recommend, evaluate: Evaluate, seed: int
) -> Recommendation:
    """Return the approach that the rule chooses, and its reasoning in sentences.

    Raises:
        EvaluationError: if the metric was not measured of all, has no better side, or does not compare.
    """
    sign = _sign(rule.metric, evaluate)
    if lacking := [one.approach.name for one in outcomes if rule.metric not in one.metrics]:
        raise EvaluationError(
            f"{rule.metric} was not measured of {', '.join(lacking)}: name another in approaches.recommend.metric."
        )
    limit = math.inf if rule.latency_p95_max is None else rule.latency_p95_max
    slow = [one for one in outcomes if one.taken.latency_p95 > limit]
    fit = [one for one in outcomes if one.taken.latency_p95 <= limit]
    late = "; ".join(
        f"{one.approach.name} is too slow (p95 {one.taken.latency_p95:.2f} s, allowed {limit:g})" for one in slow
    )
    if not fit:
        return Recommendation(approach=None, reason=f"No approach is recommended: {late}.", differences={})
    best = max(fit, key=lambda one: (sign * one.metrics[rule.metric].value, -one.spent(rule.prefer)))
    differences = {
        one.approach.name: _difference(reports[one.approach.name], reports[best.approach.name], rule, evaluate, seed)
        for one in fit
        if one is not best
    }
    as_good = [one for one in fit if one is best or _worst(differences[one.approach.name], sign) >= -rule.within]
    chosen = min(as_good, key=lambda one: (one.spent(rule.prefer), one is not best))
    reason = " ".join(_sentences(chosen, best, as_good, differences, rule))
    return Recommendation(
        approach=chosen.approach.name, reason=f"{reason} {late}.".strip() if late else reason, differences=differences
    )


def _sign(name: str, evaluate: Evaluate) -> int:
    better = create({name: evaluate.metrics[name]})[name].better
    if better is None:
        raise EvaluationError(f"approaches.recommend.metric: {name} has no better side: name another metric.")
    return 1 if better == "higher" else -1


def _difference(report: Report, best: Report, rule: Recommend, evaluate: Evaluate, seed: int) -> Estimate:
    found = difference(report, best, evaluate, seed)
    if rule.metric not in found:
        raise EvaluationError(
            f"{rule.metric} of {report.model} and {best.model} does not compare: their tokens are not the same. "
            "Name another in approaches.recommend.metric."
        )
    return found[rule.metric]


def _worst(difference: Estimate, sign: int) -> float:
    """Return the end of the interval at which the approach is worst."""
    return difference.low if sign > 0 else -difference.high


def _sentences(
    chosen: Outcome, best: Outcome, as_good: Sequence[Outcome], differences: Mapping[str, Estimate], rule: Recommend
) -> list[str]:
    name, leader = chosen.approach.name, best.approach.name
    score = f"{rule.metric} {best.metrics[rule.metric]}"
    within = f"the whole interval of the difference is at most {rule.within:g} worse"
    unit = f"{chosen.currency} {UNITS['cost']}" if rule.prefer == "cost" else UNITS[rule.prefer]
    if chosen is not best:
        return [
            f"{name} is recommended: {leader} scores best ({score}), but {name} is as good ({differences[name]}: "
            f"{within}) and takes {chosen.spent(rule.prefer):.4g} {unit}, {leader} {best.spent(rule.prefer):.4g}."
        ]
    others = [one.approach.name for one in as_good if one is not best]
    if others:
        return [
            f"{name} is recommended: it scores best ({score}); {', '.join(others)} may be as good ({within}), but "
            f"none takes less than its {best.spent(rule.prefer):.4g} {unit}."
        ]
    if not differences:
        return [f"{name} is recommended: nothing else was compared ({score})."]
    return [
        f"{name} is recommended: it scores best ({score}), and of no other is it sure that it is at most "
        f"{rule.within:g} worse (" + ", ".join(f"{other} {found}" for other, found in differences.items()) + ")."
    ]
