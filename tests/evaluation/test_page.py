"""The evaluation's page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from forgeline import cli
from forgeline.config import load
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, page
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import Bleu, StopRate
from forgeline.evaluation.report import Row
from forgeline.models import Reply
from forgeline.page import markdown
from forgeline.page.blocks import Example, Examples, Section
from forgeline.page.marks import compare
from forgeline.records import write_jsonl

PROJECT = Path(__file__).parents[2]
EVIL = "<script>alert('x')</script>"
REFERENCES = [[f"The train leaves at 0{n % 10}:00.", f"It leaves at 0{n % 10}:00."] for n in range(40)]


@pytest.fixture(scope="module")
def settings():
    return load(PROJECT, overrides=["evaluate.bootstrap_samples=100", "evaluate.min_examples=5"]).evaluate


def report(name: str, replies: list[str], digest: str = "prompts") -> Report:
    """Return a report with the real statistics of BLEU and stop rate."""
    rows = [
        Row(
            id=str(n), prompt=f"leave: 0{n % 10}:00 {EVIL}", references=REFERENCES[n], reply=reply, tokens=5,
            stopped=n != 3, groups={"act": ["Train-Inform", "Taxi-Inform", "Rare"][n % 2 if n else 2]},
        )
        for n, reply in enumerate(replies)
    ]  # fmt: skip
    tables = {
        "bleu": Bleu().statistics(predictions=replies, references=REFERENCES[: len(rows)]),
        "stop_rate": StopRate().statistics(stopped=[row.stopped for row in rows]),
    }
    metrics = {"bleu": Bleu(), "stop_rate": StopRate()}
    return Report(
        model=name, at="2026-11-01T00:00:00+00:00", test_digest=digest, vocabulary="v", signature="s",
        settings={"bleu": {}, "stop_rate": {}}, not_measured={"perplexity": "nobody knows"}, seconds={"generate": 1.0},
        metrics={each: interval(metrics[each], np.array(table), 100, 0.95, 1) for each, table in tables.items()},
        rows=rows, statistics={each: table.tolist() for each, table in tables.items()},
    )  # fmt: skip


GOOD = [refs[0] if n != 36 else "" for n, refs in enumerate(REFERENCES)]
POOR = [f"Goodbye {EVIL}" if n % 4 else refs[0] for n, refs in enumerate(REFERENCES)]


def test_it_shows_scores_groups_lengths_and_the_words_that_differ(settings, tmp_path):
    path = page.write(report("candidate", GOOD), [report("base", POOR)], tmp_path / "new/report.html", settings, 1)
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        *("At a glance", "Scores", "Differences", "By act", "By length", "Length of replies"),
        *("Worst and best", "Beside base", "How it was measured"),
    ]
    assert "Train-Inform (19)" in text and "Rare (" not in text and "1 smaller groups are not shown" in text
    assert "what people wrote" in text and "perplexity: nobody knows" in text
    assert "candidate scores higher" in text and "base scores higher" in text
    assert '<ins><span class="heard">[added: </span>The train leaves' in text  # told to those who cannot see it
    assert '<del><span class="heard">[missing: </span>Goodbye' in text
    assert "(empty)" in text
    assert [*path.parent.iterdir()] == [path]


def test_it_needs_nothing_else_and_data_cannot_become_markup(settings, tmp_path):
    name = f"candidate {EVIL}"
    text = page.write(report(name, GOOD), [report("base", POOR)], tmp_path / "r.html", settings, 1).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"https?://|src=|url\(", text)


def test_one_model_alone_has_a_page_too(settings, tmp_path):
    text = page.write(report("candidate", GOOD), [], tmp_path / "r.html", settings, 1).read_text()
    assert "By act" in text and "Differences" not in text


def test_nothing_measured_is_a_page_without_charts(settings, tmp_path):
    empty = report("candidate", GOOD).model_copy(update={"rows": [], "metrics": {}, "settings": {}, "statistics": {}})
    assert "<svg" not in page.write(empty, [empty], tmp_path / "r.html", settings, 1).read_text()


def test_reports_of_other_prompts_are_never_on_one_page(settings, tmp_path):
    with pytest.raises(EvaluationError, match="candidate and base were scored on different test prompts"):
        page.write(report("candidate", GOOD), [report("base", POOR, "other")], tmp_path / "r.html", settings, 1)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("text", "other", "parts"),
    [
        ("It leaves at 05:00.", "It leaves at 06:00!", "It leaves at [- 06:00!-]{+ 05:00.+}"),
        ("Привет, мир", "Привет", "Привет{+, мир+}"),
        ("", "Goodbye now", "[-Goodbye now-]"),
        ("Hello", "Goodbye", "[-Goodbye-]{+ Hello+}"),
        ("same\nlines", "same\nlines", "same\nlines"),
    ],
)
def test_words_are_compared_and_markdown_shows_it(text, other, parts):
    rendered = markdown.render("t", [Section("s", [Examples("e", [Example("h", [("reply", compare(text, other))])])])])
    assert f"reply: {parts}\n" in rendered.replace("at[-", "at [-")


class Parrot:
    """A subject that says its name, and knows no losses."""

    vocabulary = ""

    def __init__(self, name):
        self.name = name

    def replies(self, prompts, max_new_tokens, advance):
        return [Reply(f"{self.name} says hello", 3, True, 0.1, 0.1) for _ in prompts]

    def losses(self, records):
        return None


def test_the_command_writes_the_page_wherever_it_is_asked_to(tmp_path, monkeypatch, capsys):
    turns = [{"role": role, "content": "b says hello"} for role in ("user", "assistant")]
    write_jsonl(tmp_path / "test.jsonl", [{"id": str(n), "key": str(n), "messages": turns} for n in range(6)])
    data = SimpleNamespace(paths={"test": tmp_path / "test.jsonl"})
    monkeypatch.setattr("forgeline.data.versions.current", lambda root: data)
    monkeypatch.setattr("forgeline.serving.subjects.subject", lambda config, name: Parrot(name))
    monkeypatch.chdir(PROJECT)
    out = tmp_path / "page.html"
    words = ["evaluate", "a", "--against", "b", "--html", str(out), "--set", "evaluate.bootstrap_samples=100", "--json"]
    monkeypatch.setattr(sys, "argv", ["forgeline", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0, capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    assert "<h1>Evaluation of a</h1>" in text and "<h2>Beside b</h2>" in text
    assert "perplexity: a does not tell" in text
