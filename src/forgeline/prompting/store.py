"""One SQLite file of training examples and facts, searched by words (FTS5) and by embeddings.

At some thousand texts a matrix product finds the nearest in less than a millisecond: no index is needed.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from forgeline.config.schema import Retriever
from forgeline.errors import ModelError
from forgeline.models.embed import ENCODER, SIZE, embed

Kind = Literal["example", "fact"]
SCHEMA = """
    create table about(name text primary key, value text);
    create table entries(id integer primary key, kind text, text text, entry text, vector blob);
    create virtual table example_words using fts5(text, content='entries', content_rowid='id');
    create virtual table fact_words using fts5(text, content='entries', content_rowid='id');
"""
INDEX: dict[Kind, str] = {
    "example": "insert into example_words(rowid, text) select id, text from entries where kind = 'example'",
    "fact": "insert into fact_words(rowid, text) select id, text from entries where kind = 'fact'",
}
SEARCH: dict[Kind, str] = {
    "example": "select rowid from example_words where example_words match ? order by rank, rowid limit ?",
    "fact": "select rowid from fact_words where fact_words match ? order by rank, rowid limit ?",
}
VECTORS = "select id, vector from entries where kind = ? and vector is not null order by id"
DEPTH = 50  # how far down each ranking is read when two are fused
RANK = 60  # what reciprocal rank fusion adds to a rank, as in its paper


class Example(NamedTuple):
    """A question of the training split and how a person answered it; `id` and `key` are its record's."""

    id: str
    key: str
    question: str
    answer: str


class Store:
    """A store as it was built; it is only read, by one thread at a time.

    Raises:
        ModelError: if its embeddings are not those of this version's encoder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Immutable: nothing is written beside it, so it may lie in a folder that is read-only.
        address = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        self._file = sqlite3.connect(address, uri=True, check_same_thread=False)
        encoder = self._file.execute("select value from about where name = 'encoder'").fetchone()
        if encoder and encoder[0] != ENCODER:
            raise ModelError(
                f"{path} holds embeddings by {encoder[0]}, this Forgeline makes them by {ENCODER}: "
                "compare the approaches again."
            )

    @staticmethod
    def build(path: Path, examples: Sequence[Example], facts: Sequence[str], *, embedded: bool) -> Path:
        """Write a store, whole or not at all, and return its path; `embedded` makes it searchable by embeddings."""
        texts = [example.question for example in examples] + list(facts)
        vectors = embed(texts) if embedded else None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        partial.unlink(missing_ok=True)
        file = sqlite3.connect(partial)
        file.executescript(SCHEMA)
        if vectors is not None:
            file.execute("insert into about values ('encoder', ?)", (ENCODER,))
        entries = [("example", json.dumps(example, ensure_ascii=False)) for example in examples]
        entries += [("fact", json.dumps(fact, ensure_ascii=False)) for fact in facts]
        file.executemany(
            "insert into entries values (?, ?, ?, ?, ?)",
            (
                (number, kind, text, entry, None if vectors is None else vectors[number].tobytes())
                for number, (text, (kind, entry)) in enumerate(zip(texts, entries, strict=True))
            ),
        )
        for statement in INDEX.values():
            file.execute(statement)
        file.commit()
        file.close()
        os.replace(partial, path)
        return path

    def examples(self, question: str, count: int, retriever: Retriever) -> list[Example]:
        """Return the training examples whose questions fit best, best first; of bm25 only those that share a word."""
        return [Example(*json.loads(entry)) for entry in self._entries("example", question, count, retriever)]

    def facts(self, question: str, count: int, retriever: Retriever) -> list[str]:
        """Return the facts that fit best, best first."""
        return [json.loads(entry) for entry in self._entries("fact", question, count, retriever)]

    def example_ids(self) -> list[str]:
        """Return the ids of the records that the store holds."""
        found = self._file.execute("select entry from entries where kind = 'example' order by id")
        return [Example(*json.loads(entry)).id for (entry,) in found]

    def _entries(self, kind: Kind, question: str, count: int, retriever: Retriever) -> list[str]:
        match retriever:
            case "bm25":
                ranked = self._by_words(kind, question, count)
            case "embeddings":
                ranked = self._by_embeddings(kind, question, count)
            case "hybrid":
                ranked = fused([self._by_words(kind, question, DEPTH), self._by_embeddings(kind, question, DEPTH)])
        read = "select entry from entries where id = ?"
        return [self._file.execute(read, (number,)).fetchone()[0] for number in ranked[:count]]

    def _by_words(self, kind: Kind, question: str, count: int) -> list[int]:
        words = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", question.lower())))
        return [number for (number,) in self._file.execute(SEARCH[kind], (words, count))] if words else []

    def _by_embeddings(self, kind: Kind, question: str, count: int) -> list[int]:
        numbers, vectors = self._vectors[kind]
        nearest = np.argsort(-(vectors @ embed([question])[0]), kind="stable")[:count]
        return [numbers[place] for place in nearest]

    @cached_property
    def _vectors(self) -> dict[Kind, tuple[list[int], NDArray[np.float32]]]:
        kinds: tuple[Kind, ...] = ("example", "fact")
        found = {kind: self._file.execute(VECTORS, (kind,)).fetchall() for kind in kinds}
        return {
            kind: (
                [number for number, _ in rows],
                np.frombuffer(b"".join(vector for _, vector in rows), dtype=np.float32).reshape(-1, SIZE),
            )
            for kind, rows in found.items()
        }


def fused(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return what stands in any ranking, by reciprocal rank fusion (Cormack et al., 2009); equals by number."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (RANK + rank)
    return sorted(scores, key=lambda number: (-scores[number], number))
