from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from forgeline.config.schema import Gate, Policy
from forgeline.evaluation.bootstrap import Difference, Estimate
from forgeline.evaluation.slices import Slices
from forgeline.registry.gates import Evidence, Origin, judge, passed


def estimate(value, low, high, n=400):
    return Estimate(value=value, low=low, high=high, n=n, confidence=0.95)


def apart(value, low, high, better="higher", n=400):
    return Difference(**dict(estimate(value, low, high, n)), p=0.5, detectable=1.9, better=better)


EVIDENCE = Evidence(
    version=4,
    data_digest="d",
    values={"bleu": estimate(36, 33, 39), "toxicity": estimate(0, 0, 0.1, n=20), "test_leakage": 0, "data_card": 1.0},
    differences={
        "base": {"bleu": apart(34, 31, 37)},
        "champion": {
            "bleu": apart(-0.2, -1.5, 1.1),
            "perplexity": apart(0.2, 0.1, 0.3, "lower"),
            "length": apart(0, -1, 1, None),
        },
    },
    champion=3,
    absent={"toxicity_of_all": "run `forgeline probe 4`"},
    enough=30,
)


def verdict_of(known=EVIDENCE, /, **rule):
    [verdict] = judge(Policy(gates={"g": Gate(**rule)}), known)
    return verdict


@pytest.mark.parametrize(
    ("gate", "outcome", "reason", "change"),
    [
        ({"evidence": "bleu", "min": 30}, "pass", "bleu is 36.00 [33.00, 39.00]; all of it", "until it is 3 lower"),
        ({"evidence": "bleu", "min": 35}, "unknown", "all of it must be at least 35", "2 higher, or"),
        ({"evidence": "bleu", "min": 35}, "unknown", "", "about 3,600 examples, not 400"),
        ({"evidence": "bleu", "min": 37}, "unknown", "all of it must be at least 37", "value itself is out of bounds"),
        ({"evidence": "bleu", "min": 40}, "fail", "all of it must be at least 40", "7 higher; more examples do not"),
        ({"evidence": "bleu", "max": 38}, "unknown", "all of it must be at most 38", "about 900 examples"),
        ({"evidence": "bleu", "against": "base", "min": 0}, "pass", "bleu against base is 34", "31 lower"),
        ({"evidence": "bleu", "against": "champion", "margin": 0.5}, "unknown", "must be at least -0.5", "1 higher"),
        ({"evidence": "bleu", "against": "champion", "margin": 1.5}, "pass", "must be at least -1.5", ""),
        ({"evidence": "perplexity", "against": "champion", "margin": 0.4}, "pass", "must be at most 0.4", "0.1 higher"),
        ({"evidence": "perplexity", "against": "champion", "margin": 0.05}, "fail", "at most 0.05", "0.25 lower"),
        ({"evidence": "length", "against": "champion", "margin": 2}, "unknown", "neither more nor less", "min or max"),
        ({"evidence": "toxicity", "max": 0.2}, "unknown", "fewer than 30 show nothing", "10 more examples"),
        ({"evidence": "toxicity_of_all", "max": 0.2}, "unknown", "no evidence of", "run `forgeline probe 4`"),
        ({"evidence": "test_leakage", "max": 0}, "pass", "test_leakage is 0; must be at most 0", ""),
        ({"evidence": "data_card", "min": 2}, "fail", "must be at least 2", "it must be 1 higher"),
        ({"evidence": "perplexity", "max": 8}, "unknown", "no evidence of perplexity", "must measure perplexity"),
    ],
)
def test_a_gate_says_what_why_and_what_would_change_it(gate, outcome, reason, change):
    verdict = verdict_of(**gate)
    assert verdict.outcome == outcome
    assert reason in verdict.reason and change in verdict.change


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        (estimate(0.32, 0.2996, 0.35), "unknown", "is 0.3200 [0.2996, 0.3500]; all of it must be at least 0.3"),
        (estimate(0.32, 0.3, 0.35), "pass", "is 0.32 [0.30, 0.35]; all of it must be at least 0.3"),
    ],
)
def test_what_misses_a_bound_by_a_hair_does_not_look_as_if_it_met_it(found, outcome, reason):
    verdict = verdict_of(EVIDENCE.model_copy(update={"values": {"ser": found}}), evidence="ser", min=0.3)
    assert verdict.outcome == outcome and reason in verdict.reason


def test_models_of_other_tokens_have_no_common_perplexity():
    known = EVIDENCE.model_copy(update={"values": {"perplexity": estimate(4, 3, 5)}})
    verdict = verdict_of(known, evidence="perplexity", against="base", max=0)
    assert verdict.outcome == "unknown"
    assert verdict.reason == "no evidence of perplexity against base: their tokens are not the same"


def test_without_a_champion_there_is_nothing_to_lose_to():
    known = EVIDENCE.model_copy(update={"champion": None, "differences": {}})
    verdict = verdict_of(known, evidence="bleu", against="champion", margin=1)
    assert (verdict.outcome, verdict.reason) == ("pass", "there is no champion yet")


def test_a_champion_that_could_not_be_compared_blocks_and_says_why():
    why = "scored on different test prompts"
    known = EVIDENCE.model_copy(update={"differences": {}, "absent": {"champion": why}})
    verdict = verdict_of(known, evidence="bleu", against="champion", margin=1)
    assert verdict.outcome == "unknown" and not passed([verdict])
    assert verdict.reason == f"no evidence of bleu against champion: {why}"


def parts(**estimates):
    found = Slices(by="act", estimates={name: {"bleu": each} for name, each in estimates.items()}, too_few={"bye": 4})
    return EVIDENCE.model_copy(update={"slices": {"g": found}})


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        ({"inform": apart(9, 2, 16), "book": apart(5, 1, 9)}, "pass", "of 2, book is closest: it is 5.00 [1.00, 9.00]"),
        ({"inform": apart(9, 2, 16), "book": apart(1, -1, 3)}, "unknown", "by act: book is 1.00 [-1.00, 3.00]"),
        ({"inform": apart(-5, -9, -1), "book": apart(1, -1, 3)}, "fail", "by act: inform is -5.00"),
        ({}, "unknown", "no slice can be judged; 1 have fewer than 30 examples"),
    ],
)
def test_every_slice_must_pass_and_the_failing_one_is_named(found, outcome, reason):
    verdict = verdict_of(parts(**found), evidence="bleu", against="base", by="act", min=0)
    assert verdict.outcome == outcome and reason in verdict.reason
    assert "1 have fewer than 30 examples" in verdict.reason


def test_slices_that_are_not_there_block():
    known = EVIDENCE.model_copy(update={"absent": {"g": "No test prompt has a group 'atc'; legal: act."}})
    verdict = verdict_of(known, evidence="bleu", against="base", by="atc", min=0)
    assert verdict.outcome == "unknown"
    assert verdict.reason == "no evidence of bleu against base by atc: No test prompt has a group 'atc'; legal: act."


def test_evidence_that_is_stale_or_about_other_data_blocks():
    old = (datetime.now(UTC) - timedelta(days=40)).isoformat()

    def known(**origins):
        made = {name: Origin(at=at, data_digest=data, again="measure again") for name, (at, data) in origins.items()}
        return EVIDENCE.model_copy(update={"origins": made})

    rule = {"evidence": "bleu", "min": 30}
    assert verdict_of(known(bleu=(old, "d")), **rule).outcome == "pass"
    stale = verdict_of(known(bleu=(old, "d")), **rule, max_age_days=30)
    assert (stale.outcome, stale.change) == ("unknown", "measure again")
    assert stale.reason == f"bleu is stale: it was measured on {old[:10]}, more than 30 days ago"
    other = verdict_of(known(bleu=(old, "other")), **rule)
    assert (other.outcome, other.change) == ("unknown", "measure again")
    assert "was measured with data other, and the version is made of d" in other.reason
    now = datetime.now(UTC).isoformat()
    against = {"evidence": "bleu", "against": "base", "min": 0, "max_age_days": 30}
    assert f"base was measured on {old[:10]}" in verdict_of(known(bleu=(now, "d"), base=(old, "d")), **against).reason
    undated = verdict_of(evidence="test_leakage", max=0, max_age_days=30)
    assert undated.outcome == "unknown" and "nobody knows its age" in undated.reason


def test_an_approval_is_of_a_role_and_of_this_version():
    missing = verdict_of(approval="owner")
    assert (missing.outcome, missing.reason) == ("unknown", "nobody approved version 4 as owner")
    assert "`forgeline approve 4 --role owner --reason …`" in missing.change
    given = EVIDENCE.model_copy(update={"approvals": {"owner": "ada on 2026-11-01"}})
    assert verdict_of(given, approval="owner").outcome == "pass"
    assert verdict_of(given, approval="security").outcome == "unknown"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({}, "evidence or approval must be given"),
        ({"evidence": "bleu"}, "min, max or both must be given, or a margin"),
        ({"evidence": "bleu", "margin": 1}, "give against"),
        ({"evidence": "bleu", "against": "base", "margin": 1, "min": 0}, "no min or max"),
        ({"approval": "owner", "min": 1}, "min cannot bound it"),
    ],
)
def test_half_a_rule_is_none(rule, told):
    with pytest.raises(ValidationError, match=told):
        Gate(**rule)
