"""Which groups a row belongs to: those its reply mentions, and those its record names."""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

import numpy
import polars
import pyarrow
import xxhash
from numpy.typing import NDArray

from forgeline.config.schema import Assess
from forgeline.data.bias.exchange import any_of
from forgeline.data.bias.gender import PRONOUNS

COLUMNS = ["id", "messages", "references", "rejected", "label", "weight", "groups"]

Group = tuple[str, str]  # category and group, or field and value
Mask = NDArray[numpy.bool_]

# A capitalised neighbour makes a capitalised word part of a name (`Holy Trinity Church`), unless it only
# begins the sentence, or the word is a pronoun or a person's title (`Sir John`).
OPENERS = r"\b(?:The|An?|This|That|These|Those|It|I|You|We|They|My|Our|Your|Is|Are|Was|There|Yes|No|And|Or|But)\b"
TITLES = {"sir", "madam", "lady", "mr", "mrs", "ms", "mother", "father", "sister", "brother"}


class Mentions(NamedTuple):
    """Which texts mention each group, how often they do, and which do so only in proper names."""

    masks: dict[Group, Mask]
    words: dict[Group, int]
    only_names: dict[Group, int]


def listed(config: Assess) -> dict[Group, list[str]]:
    """Return the words of each group that texts may mention."""
    return {(category, group): words for category, by in config.groups.items() for group, words in by.items()}


def mentions(texts: polars.Series, config: Assess) -> Mentions:
    """Return which texts mention which groups; a word inside a proper name is no mention."""
    groups = listed(config)
    every = [word.lower() for words in groups.values() for word in words]
    places = numpy.flatnonzero(texts.str.to_lowercase().str.contains(any_of(every)).to_numpy())
    hits = texts.gather(places)
    lowered = hits.str.to_lowercase()
    spoken = hits.str.replace_all(OPENERS, "the").str.replace_all(_in_names(every), " ").str.to_lowercase()
    found = Mentions({}, {}, {})
    for group, words in groups.items():
        pattern = any_of([word.lower() for word in words])
        mask = numpy.zeros(len(texts), bool)
        counts = spoken.str.count_matches(pattern).to_numpy()
        mask[places] = counts > 0
        found.masks[group] = mask
        found.words[group] = int(counts.sum())
        found.only_names[group] = int(lowered.filter(polars.Series(counts == 0)).str.contains(pattern).sum())
    return found


class Rows:
    """A table's rows as the measures see them: texts, weights and the groups they belong to."""

    def __init__(self, rows: pyarrow.Table, config: Assess) -> None:
        self.config = config
        self.frame = polars.DataFrame(polars.from_arrow(rows.select(COLUMNS)))
        self.replies = self.frame["messages"].list.last().struct.field("content").fill_null("")
        self.weights = self.frame["weight"].fill_null(1.0).to_numpy()
        self.mentions = mentions(self.replies, config)

    @cached_property
    def prompts(self) -> polars.Series:
        """What was said before the reply, as one lower-case text a row."""
        turns = self.frame.select(
            polars.col("messages")
            .list.head(polars.col("messages").list.len().cast(polars.Int64) - 1)
            .list.eval(polars.element().struct.field("content"))
            .list.join("\n")
        )
        return turns.to_series().fill_null("").str.to_lowercase()

    def slices(self, field: str) -> polars.Series:
        """Return a field of the records' groups; null where a record has none."""
        return self.frame["groups"].str.json_path_match(f"$['{field}']")

    def one_of(self, category: str) -> dict[str, Mask]:
        """Return which rows mention each group of a category and no other group of it."""
        masks = {group: mask for (of, group), mask in self.mentions.masks.items() if of == category}
        alone = numpy.sum(list(masks.values()), axis=0) == 1
        return {group: mask & alone for group, mask in masks.items()}

    def values(self, name: str) -> polars.Series:
        """Return a row's value of a category (the group it mentions, `several` or none), of a field, or its label."""
        if name == "label":
            return self.frame["label"].cast(polars.String)
        if name not in self.config.groups:
            return self.slices(name)
        found = numpy.full(len(self.frame), None, dtype=object)
        for group, mask in self.one_of(name).items():
            found[mask] = group
        several = numpy.sum([mask for (of, _), mask in self.mentions.masks.items() if of == name], axis=0) > 1
        found[several] = "several"
        return polars.Series(name, found.tolist(), dtype=polars.String)


def places(ids: polars.Series) -> NDArray[numpy.uint64]:
    """Return each id's place among all numbers of 64 bits: a draw that depends on nothing but the id."""
    return numpy.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in ids.to_list()), numpy.uint64, len(ids))


def drawn(ids: polars.Series, share: float) -> Mask:
    """Return which ids belong to a sample of about a share of them."""
    return numpy.asarray(places(ids) < numpy.uint64(min(share * 2.0**64, 2.0**64 - 1025)))


def _in_names(words: list[str]) -> str:
    """Return the pattern of names with a group's word in them; of nothing if no word can be in one."""
    capital = r"[A-Z][\w'’-]*"
    proper = "|".join(re.escape(word.capitalize()) for word in words if word not in PRONOUNS)
    opening = "|".join(re.escape(word.capitalize()) for word in words if word not in TITLES | PRONOUNS)
    patterns = [f"(?:{capital} )+(?:{proper})"] * bool(proper) + [f"(?:{opening})(?: {capital})+"] * bool(opening)
    return rf"\b(?:{'|'.join(patterns)})\b" if patterns else r"\z."
