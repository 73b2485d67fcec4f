import math

import numpy as np
import pytest

from forgeline.config import load
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, difference, evaluate
from forgeline.evaluation.bootstrap import interval, paired_difference
from forgeline.evaluation.metrics import Bleu, Perplexity, StopRate
from forgeline.evaluation.subjects import Local
from forgeline.records import Record, write_jsonl


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


def test_the_signature_says_how_bleu_was_computed():
    assert "nrefs:var" in Bleu.signature() and "tok:13a" in Bleu.signature()


def test_perplexity_weighs_tokens_not_examples(base):
    (first, n), (second, m) = Local("base", base).losses([Record.model_validate(record(n)) for n in range(2)])
    found = Perplexity().compute(nats=[first, second], scored_tokens=[n, m])
    assert found["perplexity"] == pytest.approx(math.exp((first + second) / (n + m)))


def test_a_report_holds_values_intervals_and_every_reply(report, settings, tmp_path):
    assert list(report.metrics) == list(settings.metrics) and not report.not_measured
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in report.metrics.values())
    assert [row.references[1] for row in report.rows] == ["Soon."] * 3
    report.save(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_a_model_differs_from_itself_by_nothing(report, settings):
    for estimate in difference(report, report, settings, seed=1).values():
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)


def test_what_cannot_be_measured_is_told_and_the_rest_is(base, settings, tmp_path):
    disliked = {**record(0), "references": [], "label": False}
    write_jsonl(tmp_path / "test.jsonl", [record(1), disliked])
    chosen = settings.model_copy(update={"metrics": {"bleu": None, "length": None}})
    report = evaluate(Local("base", base), tmp_path / "test.jsonl", chosen, seed=1)
    assert list(report.metrics) == ["length"]
    assert report.not_measured == {"bleu": "bleu compares with references, and 1 of 2 prompts have none."}


def test_unlike_test_sets_are_never_compared(report, settings):
    other = report.model_copy(update={"test_digest": "other", "model": "champion"})
    with pytest.raises(EvaluationError, match="different test prompts: evaluate champion again"):
        difference(report, other, settings, seed=1)


def test_perplexity_is_never_compared_across_vocabularies(report, settings):
    other = report.model_copy(update={"vocabulary": "other"})
    assert {*settings.metrics} - {*difference(report, other, settings, seed=1)} == {"perplexity", "throughput"}
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
