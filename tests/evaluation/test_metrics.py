import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF, TER

from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import (
    METRICS,
    Bleu,
    Chrf,
    Distinct1,
    Distinct2,
    ExactMatch,
    Judge,
    Latency,
    LatencyP95,
    Length,
    Mean,
    Similarity,
    SlotErrorRate,
    StopRate,
    Ter,
    Throughput,
    create,
    with_ones,
)

REPLIES = [
    "the train leaves at 05:00 .",
    "Goodbye!",
    "it is a 4 star hotel in the east, and the east is nice.",
    "",
    "火车在 05:00 出发。",
    "I have booked a table for 2 at the gonville hotel, your reference is 7GAWK763.",
]
REFERENCES = [
    ["The train leaves at 05:00.", "It leaves at 05:00."],
    ["Goodbye!"],
    ["It is a 4 star hotel in the east.", "A 4 star hotel.", "The hotel has 4 stars."],
    ["Anything else?", ""],
    ["The train leaves at 05:00."],
    ["Booked! Reference number: 7GAWK763.", "Your table for 2 is booked at the gonville hotel."],
]
STREAMS = [[refs[n] if n < len(refs) else None for refs in REFERENCES] for n in range(3)]
PROMPT = "act: Train-Inform\nleave: 05:00\narrive"


def value(metric, **columns):
    """Return what a metric computes, under whichever name."""
    [(_, found)] = [item for item in metric.compute(**columns).items() if item[0] != "statistics"]
    return found


@pytest.mark.parametrize(("metric", "scorer"), [(Bleu(), BLEU()), (Chrf(), CHRF()), (Ter(), TER())])
def test_bleu_chrf_and_ter_are_sacrebleus(metric, scorer):
    found = metric.compute(predictions=REPLIES, references=REFERENCES)
    assert found[metric.name] == pytest.approx(scorer.corpus_score(REPLIES, STREAMS).score, abs=1e-9)
    assert len(found["statistics"]) == len(REPLIES)


@pytest.mark.parametrize(("name", "kind"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")])
def test_rouge_is_rouge_scores_by_the_closest_reference(name, kind):
    scorer = RougeScorer([kind])
    alone = [scorer.score_multi(*pair)[kind].fmeasure for pair in zip(REFERENCES, REPLIES, strict=True)]
    assert value(METRICS[name](), predictions=REPLIES, references=REFERENCES) == np.mean(alone)


def test_an_exact_match_overlooks_case_and_spaces_only():
    replies = [" goodbye!\n", "Goodbye", "IT leaves   at 05:00."]
    assert value(ExactMatch(), predictions=replies, references=[["Goodbye!"], ["Goodbye!"], REFERENCES[0]]) == 2 / 3


def test_slots_that_are_missing_or_said_again_are_errors():
    metric = SlotErrorRate(ignore=["act"])
    prompt = "act: Hotel-Inform\nname: the Gonville  Hotel\nstars: 2\nstay: 2\nleave: 12:30\nphone"
    replies = [
        "Gonville hotel: 2 stars, 2 nights, until 12:30.",
        "At 12:30, the gonville hotel, 2 stars. By 12:30!",
        "",
    ]
    found = metric.compute(predictions=[*replies, "Bye 2"], prompts=[*[prompt] * 3, "act: general-bye"])
    assert found["statistics"] == [[0, 4], [2, 4], [4, 4], [0, 0]]  # the second lacks a 2 and says 12:30 again
    assert found["slot_error_rate"] == 6 / 12
    with pytest.raises(EvaluationError, match="no prompt has one"):
        metric.compute(predictions=["Bye"], prompts=["act: general-bye"])


def test_distinct_parts_add_up_to_the_distinct_ones():
    replies = ["No problem.", "no problem at all.", ""]
    words = ["no", "problem", ".", "no", "problem", "at", "all", "."]
    pairs = {("no", "problem"), ("problem", "."), ("problem", "at"), ("at", "all"), ("all", ".")}
    assert value(Distinct1(), predictions=replies) == pytest.approx(len({*words}) / 8)
    assert value(Distinct2(), predictions=replies) == pytest.approx(len(pairs) / 8)


def test_similarity_is_that_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    from forgeline.models.embed import MINILM
    from forgeline.sources import resolve

    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):  # which tell it what to do
        [path] = resolve(MINILM[0].replace("model/config.json", f"model/{name}"), None)
    folder = next(parent for parent in path.parents if parent.name == "model")
    theirs = SentenceTransformer(str(folder), device="cpu")
    best = [
        float(
            (theirs.encode([reply], normalize_embeddings=True) @ theirs.encode(refs, normalize_embeddings=True).T).max()
        )
        for reply, refs in zip(REPLIES, REFERENCES, strict=True)
    ]
    found = Similarity().compute(predictions=REPLIES, references=REFERENCES)
    assert [cosine for cosine, _ in found["statistics"]] == pytest.approx([*best[:3], 0, *best[4:]], abs=1e-5)


def test_speed_is_summed_up_by_its_mean_quantile_and_rate():
    waited = np.random.default_rng(0).exponential(size=60).tolist()
    draws = np.random.default_rng(1).integers(4, size=(50, 60)).astype(float)
    metric = LatencyP95()
    found = metric.compute(waited=waited)
    assert found["latency_p95"] == np.quantile(waited, 0.95, method="inverted_cdf")
    expected = [np.quantile(np.repeat(waited, draw.astype(int)), 0.95, method="inverted_cdf") for draw in draws]
    assert metric.values(np.array(found["statistics"]), draws).tolist() == expected
    sure = interval(metric, np.array(found["statistics"]), samples=200, confidence=0.95, seed=1)
    assert sure.low <= sure.value <= sure.high
    assert value(Latency(), waited=waited) == pytest.approx(np.mean(waited))
    assert value(Throughput(), tokens=[10.0, 20.0], seconds=[1.0, 4.0]) == 6
    assert value(Length(), predictions=["It leaves at 05:00.", "Bye"]) == 2.5
    assert value(StopRate(), stopped=[True, False, True, True]) == 0.75


class Capitals(Mean):
    """The share of replies that begin with a capital, at most `most` letters. Statistics: does, 1."""

    columns = ("predictions",)
    source = "this test"

    def __init__(self, most: int = 80) -> None:
        super().__init__()
        self.most = most

    def statistics(self, predictions):
        return with_ones(text[:1].isupper() and len(text) <= self.most for text in predictions)


def test_a_metric_of_ones_own_is_a_class_and_a_line():
    chosen = create({"bleu": None, "capitals": {"class": f"{__name__}:Capitals", "most": 60}})
    assert list(chosen) == ["bleu", "capitals"]
    assert value(chosen["capitals"], predictions=REPLIES) == 1 / 6


def test_all_that_is_wrong_with_the_chosen_metrics_is_told_at_once():
    wrong = {
        "bleu": {"smooth": "exp"},
        "blue": None,
        "mine": {"class": "nowhere:Metric"},
        "yours": {"class": "json:JSONDecoder"},
        "slot_error_rate": {"ignore": "act"},
        "judge": {"url": "localhost:8000", "model": "m"},
    }
    with pytest.raises(EvaluationError) as told:
        create(wrong)
    lines = str(told.value).splitlines()
    assert [line.split(":")[1] for line in lines] == [f" metrics.{name}" for name in wrong]
    assert "no such metric; legal: bleu, chrf, ter" in lines[1]
    assert "json:JSONDecoder is no CorpusMetric" in lines[3]
    assert "ignore: input should be a valid list" in lines[4]
    assert "url: string should match pattern" in lines[5] and "rubric: missing required argument" in lines[5]


@pytest.mark.parametrize("name", sorted({*METRICS} - {"judge", "perplexity"}))
@pytest.mark.parametrize("replies", [["", ""], ["火车在五点出发。", "القطار يغادر"], ["?!", " \n"]])
def test_empty_and_foreign_replies_have_a_value(name, replies):
    metric = METRICS[name]()
    columns = {
        "predictions": replies,
        "references": [["It leaves at 05:00.", ""], ["Goodbye!"]],
        "prompts": [PROMPT, "act: general-bye"],
        "stopped": [True, True],
        "tokens": [0.0, 0.0],
        "waited": [0.5, 0.5],
        "seconds": [0.25, 0.25],
    }
    found = metric.compute(**{column: columns[column] for column in metric.columns})
    estimate = interval(metric, np.array(found.pop("statistics")), samples=100, confidence=0.95, seed=1)
    assert np.isfinite([*found.values(), estimate.low, estimate.high]).all()


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "rouge_l", "exact_match", "similarity"])
def test_a_prompt_without_references_is_told(name):
    with pytest.raises(EvaluationError, match="compares with references, and 1 of 2 prompts have none"):
        METRICS[name]().compute(predictions=["a", "b"], references=[["a"], []])


def test_what_is_no_number_is_told():
    with pytest.raises(EvaluationError, match="perplexity is no number for 1 of 2 examples"):
        METRICS["perplexity"]().compute(nats=[1.0, float("nan")], scored_tokens=[2.0, 2.0])
    with pytest.raises(EvaluationError, match="no reply took a measurable time"):
        Throughput().compute(tokens=[3.0], seconds=[0.0])


@pytest.fixture
def judge():
    """A chat-completions server: it answers what `says` returns for a question, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append({**asked, "path": self.path, "key": self.headers["authorization"]})
            text = server.says(asked["messages"][0]["content"])
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"], "usage": usage}
            answer = json.dumps({**body, "choices": [choice]}).encode()
            self.send_response(200 if text else 400)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.says = [], lambda question: "3"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


COLUMNS = {"predictions": REPLIES[:3], "references": REFERENCES[:3], "prompts": [PROMPT, "Bye {now}", "A hotel?"]}


def test_a_judge_grades_every_reply_by_the_rubric(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge.says = lambda question: "5\n" if "Goodbye!" in question else " 2"
    options = {"url": f"http://127.0.0.1:{judge.server_port}/v1", "model": "large", "rubric": "Is it {polite}?"}
    metric = create({"judge": {**options, "key": "JUDGE_KEY"}})["judge"]
    found = metric.compute(**COLUMNS)
    assert found == {"judge": 3, "statistics": [[2, 1], [5, 1], [2, 1]]}
    assert {(asked["path"], asked["model"], asked["key"]) for asked in judge.asked} == {
        ("/v1/chat/completions", "large", "Bearer secret")
    }
    [bye] = [asked["messages"][0]["content"] for asked in judge.asked if "{now}" in asked["messages"][0]["content"]]
    assert "Is it {polite}?" in bye and "[The reply to grade]\nGoodbye!" in bye


def test_a_judge_that_fails_gives_no_number(judge, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    options = {"url": f"http://127.0.0.1:{judge.server_port}/v1", "model": "large", "rubric": "Is it polite?"}
    judge.says = lambda question: "4 out of 5" if "Goodbye!" in question else "4"
    with pytest.raises(EvaluationError, match=r"no digit from 1 to 5 for 1 of 3 replies, first '4 out of 5'"):
        Judge(**options).compute(**COLUMNS)
    judge.says = lambda question: "" if "Goodbye!" in question else "4"
    with pytest.raises(EvaluationError, match="did not grade every reply"):
        Judge(**options).compute(**COLUMNS)
    with pytest.raises(EvaluationError, match="JUDGE_KEY, which is not set"):
        Judge(**options, key="JUDGE_KEY").compute(**COLUMNS)
