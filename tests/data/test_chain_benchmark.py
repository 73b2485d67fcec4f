"""The benchmark's corpus says the truth about itself, and its scorer counts by it."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from forgeline.errors import SourceError

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is no part of the package
from benchmarks.data_chain import corpus
from benchmarks.data_chain.scoring import Outcome, score

ROWS = 3000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    try:
        corpus.write(folder / "corpus.jsonl", ROWS, 17, folder / "truth.jsonl")
    except SourceError as fault:
        pytest.skip(f"the corpus's sentences cannot be downloaded: {fault}")
    return folder / "corpus.jsonl", folder / "truth.jsonl"


def test_every_kind_is_planted_and_is_what_it_says(written: tuple[Path, Path]) -> None:
    texts = {row["id"]: row["text"] for row in corpus.read(written[0])}
    truth = list(corpus.read(written[1]))
    assert len(texts) == ROWS
    counts = Counter(row["kind"] for row in truth)
    assert all(0.6 * share < counts[kind] / ROWS < 1.4 * share for kind, share in corpus.SHARES.items())
    for row in truth:
        text, source = texts[row["id"]], texts.get(row["source"], "")
        if row["kind"] == "exact":
            assert text == source
        elif row["kind"] == "normalised":
            assert text != source
        elif row["kind"] == "near":
            assert 0.03 <= row["edited"] <= 0.1
            assert text != source
        elif row["kind"] == "half":
            shared = len(text) - len(text.removeprefix(source[: len(source) // 2]))
            assert shared == len(source) // 2
        elif row["kind"] == "pii":
            [(kind, start, end)] = row["spans"]
            assert ("@" in text[start:end]) == (kind == "email")


def test_the_same_seed_gives_the_same_bytes(written: tuple[Path, Path], tmp_path: Path) -> None:
    corpus.write(tmp_path / "again.jsonl", ROWS, 17)
    assert (tmp_path / "again.jsonl").read_bytes() == written[0].read_bytes()


def test_a_perfect_and_an_idle_chain_score_one_and_nought(written: tuple[Path, Path]) -> None:
    texts = {row["id"]: row["text"] for row in corpus.read(written[0])}
    idle = score(*written, Outcome(texts, {}))
    assert all(idle[f"{kind}_recall"] == 0 for kind in ("exact", "normalised", "near", "garbage", "pii"))

    perfect, dropped = dict(texts), {}
    for row in corpus.read(written[1]):
        kind = row["kind"]
        if kind in {"exact", "normalised", "near", "garbage"}:
            dropped[row["id"]] = {"garbage": "filter", "normalised": "exact"}.get(kind, kind)
            del perfect[row["id"]]
        for _, start, end in row["spans"]:
            perfect[row["id"]] = texts[row["id"]][:start] + "[MASKED]" + texts[row["id"]][end:]
    assert set(score(*written, Outcome(perfect, dropped)).values()) == {1.0}


def test_a_wrong_removal_costs_precision(written: tuple[Path, Path]) -> None:
    texts = {row["id"]: row["text"] for row in corpus.read(written[0])}
    groups = defaultdict(list)
    for row in corpus.read(written[1]):
        if row["kind"] == "near":
            groups[row["source"]].append(row["id"])
    source, copies = next(iter(groups.items()))
    dropped = dict.fromkeys([source, *copies], "near")  # the last of them should have stayed
    kept = {name: text for name, text in texts.items() if name not in dropped}
    assert score(*written, Outcome(kept, dropped))["near_precision"] == len(copies) / (len(copies) + 1)
