import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from forgeline.config import load
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, difference, evaluate
from forgeline.evaluation.bootstrap import interval, paired_difference
from forgeline.evaluation.metrics import Bleu, Chrf, Perplexity, StopRate
from forgeline.evaluation.subjects import Local
from forgeline.records import Record, write_jsonl

REPLIES = ["the train leaves at 05:00 .", "goodbye", "it is a 4 star hotel in the east", ""]
REFERENCES = [
    ["The train leaves at 05:00.", "It leaves at 05:00."],
    ["Goodbye!"],
    ["It is a 4 star hotel in the east.", "A 4 star hotel.", "The hotel has 4 stars."],
    ["Anything else?"],
]
STREAMS = [[refs[n] if n < len(refs) else None for refs in REFERENCES] for n in range(3)]


def record(number: int) -> dict:
    user = {"role": "user", "content": f"act: Train-Inform\nleave: 0{number}:00"}
    answer = {"role": "assistant", "content": f"It leaves at 0{number}:00."}
    return {
        "id": str(number),
        "key": str(number),
        "messages": [user, answer],
        "references": [answer["content"], "Soon."],
    }


@pytest.fixture(scope="module")
def settings():
    overrides = ["evaluate.max_new_tokens=8", "evaluate.bootstrap_samples=200", "evaluate.max_prompts=3"]
    return load(overrides=overrides).evaluate


@pytest.fixture(scope="module")
def report(base, settings, tmp_path_factory):
    test = tmp_path_factory.mktemp("splits") / "test.jsonl"
    write_jsonl(test, map(record, range(5)))
    return evaluate(Local("base", base), test, settings, seed=3)


def test_bleu_and_chrf_are_sacrebleus():
    bleu = Bleu().compute(predictions=REPLIES, references=REFERENCES)
    chrf = Chrf().compute(predictions=REPLIES, references=REFERENCES)
    assert bleu["bleu"] == pytest.approx(BLEU().corpus_score(REPLIES, STREAMS).score, abs=1e-9)
    assert chrf["chrf"] == pytest.approx(CHRF().corpus_score(REPLIES, STREAMS).score, abs=1e-9)
    assert len(bleu["statistics"]) == len(REPLIES)
    assert "nrefs:var" in Bleu.signature() and "tok:13a" in Bleu.signature()


def test_perplexity_weighs_tokens_not_examples(base):
    (first, n), (second, m) = Local("base", base).losses([Record.model_validate(record(n)) for n in range(2)])
    found = Perplexity().compute(nats=[first, second], scored_tokens=[n, m])
    assert found["perplexity"] == pytest.approx(math.exp((first + second) / (n + m)))


def test_stop_rate_is_a_share():
    assert StopRate().compute(stopped=[True, False, True, True])["stop_rate"] == 0.75


def test_a_report_holds_values_intervals_and_every_reply(report, tmp_path):
    assert set(report.metrics) == {"bleu", "chrf", "perplexity", "stop_rate"}
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in report.metrics.values())
    assert [row.references[1] for row in report.rows] == ["Soon."] * 3
    report.save(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_a_model_differs_from_itself_by_nothing(report, settings):
    for estimate in difference(report, report, settings, seed=1).values():
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_unlike_test_sets_are_never_compared(report, settings):
    other = report.model_copy(update={"test_digest": "other", "model": "champion"})
    with pytest.raises(EvaluationError, match="different test prompts: evaluate champion again"):
        difference(report, other, settings, seed=1)


def test_perplexity_is_never_compared_across_vocabularies(report, settings):
    other = report.model_copy(update={"vocabulary": "other"})
    assert set(difference(report, other, settings, seed=1)) == {"bleu", "chrf", "stop_rate"}
    assert len(report.vocabulary) == 64


def test_an_empty_test_split_is_told(base, settings, tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [])
    with pytest.raises(EvaluationError, match=r"holds no test prompts: raise split.test"):
        evaluate(Local("base", base), tmp_path / "test.jsonl", settings, seed=1)


def test_a_missing_report_is_told(tmp_path):
    with pytest.raises(EvaluationError, match="evaluate the model again"):
        Report.read(tmp_path / "none.json")


def test_the_interval_of_a_mean_is_the_textbook_one():
    sample = np.random.default_rng(0).normal(5, 2, size=400)
    table = np.column_stack([sample, np.ones(400)])
    found = interval(StopRate(), table, samples=2000, confidence=0.95, seed=1)
    margin = 1.96 * sample.std() / math.sqrt(400)
    assert found.value == pytest.approx(sample.mean())
    assert (found.high - found.low) / 2 == pytest.approx(margin, rel=0.08)
    assert found == interval(StopRate(), table, samples=2000, confidence=0.95, seed=1)


def test_pairing_cancels_what_the_two_share():
    rng = np.random.default_rng(0)
    shared, gain = rng.normal(0, 10, 300), rng.normal(1, 0.1, 300)
    mine, theirs = (np.column_stack([values, np.ones(300)]) for values in (shared + gain, shared))
    found = paired_difference(StopRate(), mine, theirs, samples=500, confidence=0.95, seed=1, power=0.8)
    assert 0.9 < found.low < found.value < found.high < 1.1
