"""Approaches scored like any subject, and the rule that chooses one of them."""

import numpy as np
import pytest

from forgeline.config import load
from forgeline.config.schema import Prompt, Recommend
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, evaluate
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.approaches import Outcome, Taken, recommend, taken
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import StopRate
from forgeline.evaluation.subjects import Local
from forgeline.models import encode_prompt, load_base
from forgeline.prompting import Approach, Example, Prompter, Store
from forgeline.records import Record, write_jsonl

SETTINGS = ["evaluate.max_new_tokens=6", "evaluate.bootstrap_samples=200", "evaluate.max_prompts=4"]
FIXED = {"prompt_version": "prompts:/x/1", "retriever": "bm25", "max_prompt_tokens": None}


def record(number):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"act: Train-Inform\nleave: 0{number}:00"},
        {"role": "assistant", "content": f"It leaves at 0{number}:00."},
    ]
    return {"id": str(number), "key": str(number), "messages": turns}


@pytest.fixture(scope="module")
def settings():
    return load(overrides=SETTINGS).evaluate


@pytest.fixture(scope="module")
def local(tiny):
    return Local("x", load_base(tiny.train, tiny.root), 4)


@pytest.fixture(scope="module")
def few_shot(local, tmp_path_factory):
    shown = [Example("1", "a", "act: Train-Inform\nleave: 09:00", "At nine.")]
    store = Store(Store.build(tmp_path_factory.mktemp("store") / "store.db", shown, [], embedded=False))
    follows = Approach(name="few_shot", model="base", prompt=Prompt(), examples=1, facts=0, **FIXED)
    return Approached(local, Prompter(follows, store))


@pytest.fixture(scope="module")
def test_split(tmp_path_factory):
    path = tmp_path_factory.mktemp("splits") / "test.jsonl"
    write_jsonl(path, map(record, range(4)))
    return path


def test_the_plain_approach_is_the_model_itself(local, settings, test_split):
    follows = Approach(name="plain", model="base", prompt=Prompt(), examples=0, facts=0, **FIXED)
    approached = evaluate(Approached(local, Prompter(follows, None)), test_split, settings, seed=3)
    alone = evaluate(local, test_split, settings, seed=3)
    assert [row.reply for row in approached.rows] == [row.reply for row in alone.rows]
    timed = {"latency", "latency_p95", "throughput"}
    assert all(approached.metrics[name] == alone.metrics[name] for name in alone.metrics.keys() - timed)


def test_the_model_is_asked_and_scored_on_what_the_approach_writes(few_shot, local):
    records = [Record.model_validate(record(number)) for number in range(2)]
    written = [
        Record.model_validate(
            {**record(number), "messages": [*few_shot.rewritten(one.prompt), record(number)["messages"][-1]]}
        )
        for number, one in enumerate(records)
    ]
    assert [turn["content"] for turn in written[0].prompt][1:3] == ["act: Train-Inform\nleave: 09:00", "At nine."]
    assert few_shot.losses(records) == local.losses(written) != local.losses(records)
    asked = [one.prompt for one in records]
    assert [reply.text for reply in few_shot.replies(asked, 6)] == [
        reply.text for reply in local.replies([one.prompt for one in written], 6)
    ]


def test_tokens_and_seconds_of_a_reply_are_those_of_the_written_prompt(few_shot, local, settings, test_split):
    report = evaluate(few_shot, test_split, settings, seed=3)
    prompts = [Record.model_validate(record(number)).prompt for number in range(4)]
    found = taken(few_shot, report, prompts, timed=2, max_new_tokens=6)
    counts = [len(encode_prompt(local.language_model.tokenizer, few_shot.rewritten(prompt))) for prompt in prompts]
    assert found.prompt_tokens == np.mean(counts)
    assert found.reply_tokens == np.mean([row.tokens for row in report.rows])
    assert found.timed == 2 and 0 < found.latency_p50 <= found.latency_p95


def scored(name, values, tokens=100.0, seconds=1.0):
    """An outcome and a report whose stop_rate has these values, one a test prompt."""
    table = np.column_stack([values, np.ones(len(values))])
    metrics = {"stop_rate": interval(StopRate(), table, 200, 0.95, 1)}
    report = Report(
        model=name,
        at="2026-01-01",
        test_digest="same",
        vocabulary="same",
        signature="",
        settings={"stop_rate": {}},
        metrics=metrics,
        not_measured={},
        seconds={},
        rows=[],
        statistics={"stop_rate": table.tolist()},
    )
    follows = Approach(name=name, model="base", prompt=Prompt(), examples=0, facts=0, **FIXED)
    costs = Taken(
        prompt_tokens=tokens, reply_tokens=0, timed=1, seconds=seconds, latency_p50=seconds, latency_p95=seconds
    )
    outcome = Outcome(approach=follows, key=name, report="", metrics=metrics, asked=[], taken=costs, tuning_seconds=0)
    return outcome, report


def chosen(settings, *found, **rule):
    outcomes, reports = zip(*found, strict=True)
    named = {report.model: report for report in reports}
    return recommend(outcomes, named, Recommend(metric="stop_rate", **rule), settings, seed=1)


GOOD, BAD = np.ones(200), np.zeros(200)


def test_the_best_is_recommended_where_no_other_is_as_good(settings):
    found = chosen(settings, scored("dear", GOOD, tokens=900), scored("cheap", BAD, tokens=10), within=0.1)
    assert found.approach == "dear"
    assert found.reason.startswith("dear is recommended: it scores best (stop_rate 1.00 [0.98, 1.00])")
    assert found.differences["cheap"].high == -1


def test_of_equals_the_cheapest_is_recommended(settings):
    found = chosen(settings, scored("dear", GOOD, tokens=900), scored("cheap", GOOD, tokens=10))
    assert found.approach == "cheap"
    slower = chosen(settings, scored("slow", GOOD, seconds=3), scored("fast", GOOD, seconds=2), prefer="latency")
    assert slower.approach == "fast"


def test_a_cheaper_one_must_surely_be_within_the_margin(settings):
    """Two of 200 replies worse: within 5 points for sure, within half a point not."""
    nearly = np.concatenate([GOOD[:198], BAD[:2]])
    pair = scored("dear", GOOD, tokens=900), scored("cheap", nearly, tokens=10)
    near = chosen(settings, *pair, within=0.05)
    assert near.approach == "cheap"
    assert "dear scores best" in near.reason and "takes 10 tokens a reply, dear 900" in near.reason
    assert chosen(settings, *pair, within=0.005).approach == "dear"


def test_noise_does_not_make_a_cheaper_one_as_good(settings):
    """On 8 prompts the interval of the difference is wide: not to know is not to be as good."""
    pair = scored("dear", GOOD[:8], tokens=900), scored("cheap", np.r_[GOOD[:7], 0], tokens=10)
    assert chosen(settings, *pair, within=0.2).approach == "dear"


def test_what_is_too_slow_is_not_recommended(settings):
    pair = scored("good", GOOD, seconds=4.0), scored("quick", BAD, seconds=0.5)
    found = chosen(settings, *pair, latency_p95_max=2)
    assert found.approach == "quick"
    assert "good is too slow (p95 4.00 s, allowed 2)" in found.reason
    assert chosen(settings, *pair, latency_p95_max=0.1).approach is None


def test_unlike_test_sets_are_not_compared(settings):
    outcome, report = scored("other", BAD)
    with pytest.raises(EvaluationError, match="different test prompts"):
        chosen(settings, scored("good", GOOD), (outcome, report.model_copy(update={"test_digest": "other"})))


def test_a_metric_that_was_not_measured_is_told(settings):
    outcome, report = scored("other", BAD)
    with pytest.raises(EvaluationError, match="stop_rate was not measured of other"):
        chosen(settings, scored("good", GOOD), (outcome.model_copy(update={"metrics": {}}), report))
