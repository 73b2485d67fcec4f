import pytest

from forgeline.config.schema import Gate, Policy
from forgeline.evaluation.bootstrap import Estimate
from forgeline.registry.gates import Evidence, judge, passed


def estimate(value, low, high):
    return Estimate(value=value, low=low, high=high, n=400, confidence=0.95)


EVIDENCE = Evidence(
    values={"bleu": estimate(36, 33, 39), "test_leakage": 0, "data_card": 1.0},
    differences={"base": {"bleu": estimate(34, 31, 37)}, "champion": {"bleu": estimate(-0.2, -1.5, 1.1)}},
    champion=3,
)


@pytest.mark.parametrize(
    ("gate", "outcome", "reason"),
    [
        ({"evidence": "bleu", "min": 35}, "pass", "bleu is 36.00 [33.00, 39.00]; must be at least 35"),
        ({"evidence": "bleu", "min": 37}, "fail", "must be at least 37"),
        ({"evidence": "bleu", "min": 30, "confident": True}, "pass", "all of it must be at least 30"),
        ({"evidence": "bleu", "min": 35, "confident": True}, "unknown", "all of it must be at least 35"),
        ({"evidence": "bleu", "min": 40, "confident": True}, "fail", "all of it must be at least 40"),
        ({"evidence": "bleu", "against": "base", "min": 0, "confident": True}, "pass", "bleu against base"),
        ({"evidence": "bleu", "against": "champion", "min": -0.5}, "pass", "bleu against champion"),
        ({"evidence": "bleu", "against": "champion", "min": -0.5, "confident": True}, "unknown", "champion"),
        ({"evidence": "test_leakage", "max": 0}, "pass", "test_leakage is 0; must be at most 0"),
        ({"evidence": "data_card", "min": 1, "max": 1}, "pass", "at least 1 and at most 1"),
        ({"evidence": "perplexity", "max": 8}, "unknown", "no evidence of perplexity"),
        ({"evidence": "test_leakage", "max": 0, "confident": True}, "unknown", "has no confidence interval"),
    ],
)
def test_a_gate_says_what_and_why(gate, outcome, reason):
    [verdict] = judge(Policy(gates={"g": Gate(**gate)}), EVIDENCE)
    assert verdict.outcome == outcome
    assert reason in verdict.reason


def test_models_of_other_tokens_have_no_common_perplexity():
    known = EVIDENCE.model_copy(update={"values": {"perplexity": estimate(4, 3, 5)}})
    [verdict] = judge(Policy(gates={"g": Gate(evidence="perplexity", against="base", max=0)}), known)
    assert verdict.outcome == "unknown"
    assert verdict.reason == "no evidence of perplexity against base: their tokens are not the same"


def test_without_a_champion_there_is_nothing_to_lose_to():
    gates = Policy(gates={"g": Gate(evidence="bleu", against="champion", min=-0.5)})
    [verdict] = judge(gates, EVIDENCE.model_copy(update={"champion": None, "differences": {}}))
    assert (verdict.outcome, verdict.reason) == ("pass", "there is no champion yet")


def test_a_champion_that_was_not_compared_blocks():
    gates = Policy(gates={"g": Gate(evidence="bleu", against="champion", min=-0.5)})
    verdicts = judge(gates, EVIDENCE.model_copy(update={"differences": {}}))
    assert verdicts[0].outcome == "unknown" and not passed(verdicts)
