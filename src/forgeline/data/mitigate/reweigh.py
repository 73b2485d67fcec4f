"""Reweighing (Kamiran and Calders, 2012): weights under which a row's group says nothing of its label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import polars
import pyarrow

from forgeline.config.schema import Assess, Reweigh
from forgeline.data.bias.groups import Rows
from forgeline.data.mitigate.contract import Tables

Counts = dict[tuple[str, str], float]


def reweigh(tables: Tables, settings: Reweigh, config: Assess) -> Tables:
    """Return the tables with each weight times P(group) P(label) / P(group, label), by weighted counts.

    Then group and label are independent in weighted counts, and the weights' sum stays, if every group has
    rows of every label. Rows without group or label keep their weight.
    """
    counts = joint(tables, settings, config)
    total = sum(counts.values())
    groups, labels = _margins(counts)
    factor = {(one, other): groups[one] * labels[other] / total / count for (one, other), count in counts.items()}

    def reweighed() -> Iterator[pyarrow.Table]:
        for rows in tables():
            seen = Rows(rows, config)
            pairs = zip(seen.values(settings.group).to_list(), seen.values(settings.label).to_list(), strict=True)
            weights = [
                weight * factor.get((str(group), str(label)), 1.0)
                if group is not None and label is not None
                else weight
                for (group, label), weight in zip(pairs, seen.weights.tolist(), strict=True)
            ]
            place = rows.schema.get_field_index("weight")
            yield rows.set_column(place, rows.schema.field(place), pyarrow.array(weights, pyarrow.float64()))

    return reweighed


def joint(tables: Tables, settings: Reweigh, config: Assess) -> Counts:
    """Return the sum of the weights of each group and label."""
    counts: Counts = defaultdict(float)
    for rows in tables():
        seen = Rows(rows, config)
        frame = polars.DataFrame(
            {"group": seen.values(settings.group), "label": seen.values(settings.label), "weight": seen.weights}
        )
        for group, label, weight in frame.drop_nulls().group_by("group", "label").agg(polars.sum("weight")).iter_rows():
            counts[group, label] += weight
    return dict(sorted(counts.items()))


def dependence(counts: Counts) -> float:
    """Return the largest difference between a label's share in a group and in all rows; 0 if independent."""
    total = sum(counts.values())
    groups, labels = _margins(counts)
    return max(
        (
            abs(counts.get((group, label), 0.0) / size - share / total)
            for group, size in groups.items()
            for label, share in labels.items()
        ),
        default=0.0,
    )


def _margins(counts: Counts) -> tuple[dict[str, float], dict[str, float]]:
    groups: dict[str, float] = defaultdict(float)
    labels: dict[str, float] = defaultdict(float)
    for (group, label), count in counts.items():
        groups[group] += count
        labels[label] += count
    return groups, labels
