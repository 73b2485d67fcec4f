"""One pass over the rows: the sums, group by group, from which shares and means are computed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Assess
from forgeline.data.bias.exchange import any_of
from forgeline.data.bias.groups import Group, Mask, Rows, listed, mentions
from forgeline.data.bias.intervals import Moments, moments

EVERYONE: Group = ("", "")
Sums = dict[tuple[Group, str], NDArray[numpy.float64]]


class Tally:
    """Sums by group and feature; (category, "") stands for all rows of a category, EVERYONE for all rows."""

    def __init__(self, parts: Iterable[Sums]) -> None:
        self.sums: Sums = {}
        for part in parts:
            for key, value in part.items():
                self.sums[key] = self.sums[key] + value if key in self.sums else value

    def of(self, group: Group, feature: str) -> Moments:
        """Return a feature's sums over the rows of a group."""
        return Moments(*self.sums.get((group, feature), numpy.zeros(5)).tolist())

    def rest(self, group: Group, feature: str, among: Group) -> Moments:
        """Return a feature's sums over the rows of a wider group that are not in a group."""
        nothing = numpy.zeros(5)
        both = self.sums.get((among, feature), nothing) - self.sums.get((group, feature), nothing)
        return Moments(*both.tolist())

    def groups(self) -> list[Group]:
        """Return all groups and values of slices, in the order of their categories."""
        return [group for group, feature in self.sums if feature == "share" and all(group)]


def tally(table: pyarrow.Table, config: Assess) -> Sums:
    """Return the sums of a table.

    Features: `share` (belongs to the group, of all rows), `characters` and `references` (of its rows),
    `list/side` (its replies with such words), `liked` (of its labelled rows), `chosen` (of the pairs
    in which only one reply mentions it), `prompted` (its mentions that repeat the prompt), `words` and
    `only_names` (counts).
    """
    rows = Rows(table, config)
    sums: Sums = {}
    features = _features(rows)
    every = numpy.ones(len(rows.frame), bool)
    _add(sums, EVERYONE, every, features, rows)
    for category in config.groups:
        masks = {group: mask for group, mask in rows.mentions.masks.items() if group[0] == category}
        _add(sums, (category, ""), numpy.any(list(masks.values()), axis=0), features, rows)
        for group, mask in masks.items():
            _add(sums, group, mask, features, rows)
            sums[group, "words"] = numpy.array([rows.mentions.words[group], 0, 0, 0, 0], numpy.float64)
            sums[group, "only_names"] = numpy.array([rows.mentions.only_names[group], 0, 0, 0, 0], numpy.float64)
            sums[group, "prompted"] = _prompted(rows, mask, listed(config)[group])
    for field in config.slices:
        values = rows.slices(field)
        _add(sums, (field, ""), values.is_not_null().to_numpy(), features, rows)
        for value in sorted(values.drop_nulls().unique()):
            _add(sums, (field, value), (values == value).fill_null(False).to_numpy(), features, rows)
    _prefer(sums, rows)
    return sums


def _features(rows: Rows) -> dict[str, tuple[NDArray[numpy.float64], Mask]]:
    """Return the values of each feature and the rows that have it."""
    every = numpy.ones(len(rows.frame), bool)
    lowered = rows.replies.str.to_lowercase()
    label = rows.frame["label"]
    features = {
        "characters": (rows.replies.str.len_chars(), every),
        "references": (rows.frame["references"].list.len().fill_null(0), every),
        "liked": (label.fill_null(False), label.is_not_null().to_numpy()),
    }
    for name, pair in rows.config.associations.items():
        for side in ("first", "second"):
            features[f"{name}/{side}"] = (
                lowered.str.contains(any_of([word.lower() for word in getattr(pair, side)])),
                every,
            )
    return {name: (values.cast(polars.Float64).to_numpy(), mask) for name, (values, mask) in features.items()}


def _add(
    sums: Sums, group: Group, mask: Mask, features: dict[str, tuple[NDArray[numpy.float64], Mask]], rows: Rows
) -> None:
    sums[group, "share"] = moments(mask.astype(numpy.float64), rows.weights)
    for name, (values, have) in features.items():
        chosen = mask & have
        if chosen.any():
            sums[group, name] = moments(values[chosen], rows.weights[chosen])


def _prompted(rows: Rows, mask: Mask, words: list[str]) -> NDArray[numpy.float64]:
    if not mask.any():
        return numpy.zeros(5)
    said = rows.prompts.filter(polars.Series(mask)).str.contains(any_of([word.lower() for word in words]))
    return moments(said.to_numpy().astype(numpy.float64), rows.weights[mask])


def _prefer(sums: Sums, rows: Rows) -> None:
    """Add, of the pairs in which only one reply mentions a group, how many have it in the reply that people liked."""
    pairs = rows.frame["rejected"].is_not_null()
    if not pairs.any():
        return
    places = numpy.flatnonzero(pairs.to_numpy())
    rejected = mentions(rows.frame["rejected"].gather(places), rows.config)
    for group, mask in rows.mentions.masks.items():
        chosen = mask[places]
        differ = chosen != rejected.masks[group]
        sums[group, "chosen"] = moments(chosen[differ].astype(numpy.float64), rows.weights[places][differ])
