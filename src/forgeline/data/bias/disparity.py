"""What groups are given: length, references, labels, preferences, and how many rows the rules remove."""

from __future__ import annotations

from functools import partial

import numpy
import pyarrow

from forgeline.config.schema import Assess
from forgeline.data.bias.groups import Group, Mask, Rows
from forgeline.data.bias.intervals import SMALL, Moments, Row, compare_means, compare_shares, moments, rounded, wilson
from forgeline.data.bias.tally import EVERYONE, Sums, Tally

FATES = {"failed": "rows were removed by a rule", "copies": "rows were copies of others"}
LENGTHS = {"characters": "characters a reply", "references": "references a reply"}


def disparities(tally: Tally, config: Assess) -> list[Row]:
    """Return each group's mean length and number of references against the others of its category (Welch)."""
    rows = []
    for group in tally.groups():
        for measure in LENGTHS:
            one, other = tally.of(group, measure), tally.rest(group, measure, (group[0], ""))
            if one.squares or other.squares:
                compared = compare_means(one, other, config.confidence)
                rows.append(_named(group) | {"measure": measure, "n": int(one.rows), **compared})
    return rows


def labels(tally: Tally, config: Assess) -> list[Row]:
    """Return the share of labelled replies that people liked, of all and by group (Newcombe)."""
    every = tally.of(EVERYONE, "liked")
    if not every.rows:
        return []
    low, high = wilson(every.mean * every.n, every.n, config.confidence)
    whole = {"n": int(every.rows), "share": rounded(every.mean), "low": rounded(low), "high": rounded(high)}
    rows: list[Row] = [{"category": "all", "group": "all", **whole, "rest": None, "difference": None, "verdict": "all"}]
    for group in tally.groups():
        one, other = tally.of(group, "liked"), tally.rest(group, "liked", (group[0], ""))
        rows.append(_named(group) | {"n": int(one.rows), **compare_shares(one, other, config.confidence)})
    return rows


def preferences(tally: Tally, config: Assess) -> list[Row]:
    """Return, of pairs in which one reply mentions a group, the share where people liked that one (Wilson)."""
    rows = []
    for group in tally.groups():
        pairs = tally.of(group, "chosen")
        if pairs.rows:
            low, high = wilson(pairs.mean * pairs.n, pairs.n, config.confidence)
            verdict = (
                "no preference shown" if low <= 0.5 <= high else f"{'liked' if low > 0.5 else 'rejected'} more often"
            )
            verdict = "too few to conclude from" if pairs.rows < SMALL else verdict
            figures = {"share": rounded(pairs.mean), "low": rounded(low), "high": rounded(high)}
            rows.append(_named(group) | {"n": int(pairs.rows), **figures, "verdict": verdict})
    return rows


def removed(table: pyarrow.Table, config: Assess, rules: frozenset[str]) -> Sums:
    """Return, of a part of quarantined rows, how many of each group the rules removed, and how many were copies."""
    rows = Rows(table, config)
    rule = table["rule"].to_pylist()
    failed = numpy.array([name in rules for name in rule], bool)
    copies = table["duplicate_of"].is_valid().to_numpy()
    sums: Sums = {}
    add = partial(_add_removed, sums, failed, copies)
    for category in config.groups:
        masks = {group: mask for group, mask in rows.mentions.masks.items() if group[0] == category}
        add((category, ""), numpy.any(list(masks.values()), axis=0))
        for group, mask in masks.items():
            add(group, mask)
    for field in config.slices:
        values = rows.slices(field)
        add((field, ""), values.is_not_null().to_numpy())
        for value in sorted(values.drop_nulls().unique()):
            add((field, value), (values == value).fill_null(False).to_numpy())
    return sums


def fates(kept: Tally, gone: Tally, config: Assess) -> list[Row]:
    """Return the share of each group's rows that the rules removed, or that were copies, against the others'."""
    rows = []
    for group in kept.groups():
        among = (group[0], "")
        for fate in FATES:
            one, other = (
                _share_of_raw(stayed.rows, {name: left(name).rows for name in FATES}, fate)
                for stayed, left in (
                    (kept.of(group, "characters"), partial(gone.of, group)),
                    (kept.rest(group, "characters", among), partial(gone.rest, group, among=among)),
                )
            )
            row = _named(group) | {"fate": fate, "n": int(one.rows)}
            rows.append(row | compare_shares(one, other, config.confidence))
    return rows


def sentences(
    lengths: list[Row], liked: list[Row], preferred: list[Row], lost: list[Row], confidence: float
) -> list[str]:
    """Return a sentence for each figure whose interval is known."""
    said = [
        f"{_who(row)}: {row['mean']:.1f} {LENGTHS[row['measure']]} against {row['rest']:.1f} for the others of "
        f"{row['category']}, {row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f} at {confidence:.0%}): "
        f"{row['verdict']}."
        for row in lengths
        if row["low"] is not None
    ]
    said += [_share(row, "labelled replies were liked", confidence) for row in liked if row["low"] is not None]
    said += [
        f"{_who(row)}: in {row['share']:.1%} of pairs in which one reply mentions it, that one was liked "
        f"({row['low']:.1%} to {row['high']:.1%} at {confidence:.0%}): {row['verdict']}."
        for row in preferred
    ]
    return said + [
        _share(row, FATES[row["fate"]], confidence) for row in lost if row["low"] is not None and row["share"]
    ]


def _add_removed(sums: Sums, failed: Mask, copies: Mask, group: Group, mask: Mask) -> None:
    for name, fate in (("failed", failed), ("copies", copies)):
        own = (mask & fate).astype(numpy.float64)
        sums[group, name] = moments(own[own > 0], own[own > 0])


def _share_of_raw(kept: float, gone: dict[str, float], fate: str) -> Moments:
    """Return the share of rows of a fate among those, the kept ones and those of other fates."""
    rows = kept + sum(gone.values())
    return Moments(rows, rows, rows, gone[fate], gone[fate])


def _named(group: Group) -> Row:
    return {"category": group[0], "group": group[1]}


def _who(row: Row) -> str:
    return f"{row['group'].capitalize()} (n={row['n']:,})"


def _share(row: Row, what: str, confidence: float) -> str:
    if row["difference"] is None:
        return f"All (n={row['n']:,}): {row['share']:.1%} of {what} ({row['low']:.1%} to {row['high']:.1%})."
    return (
        f"{_who(row)}: {row['share']:.1%} of {what} against {row['rest']:.1%} for the others of {row['category']}, "
        f"{100 * row['difference']:+.1f} points ({100 * row['low']:+.1f} to {100 * row['high']:+.1f} at "
        f"{confidence:.0%}): {row['verdict']}."
    )
