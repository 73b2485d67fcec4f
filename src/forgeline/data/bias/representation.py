"""Who is spoken of, and how often: shares of rows with Wilson intervals."""

from __future__ import annotations

from forgeline.config.schema import Assess
from forgeline.data.bias.intervals import Row, rounded, wilson
from forgeline.data.bias.tally import Tally


def representation(tally: Tally, config: Assess) -> list[Row]:
    """Return the share of rows that belong to each group.

    `words` counts mentions, `only_names` rows whose only mentions are parts of capitalised names and are
    not counted, `prompted` the share of the rows whose prompt has such a word too.
    """
    rows = []
    for category, group in tally.groups():
        share = tally.of((category, group), "share")
        low, high = wilson(share.total / share.weight * share.n, share.n, config.confidence)
        replies = int(tally.of((category, group), "characters").rows)
        row: Row = {"category": category, "group": group, "replies": replies}
        if category in config.groups:
            prompted = tally.of((category, group), "prompted")
            row["words"] = int(tally.of((category, group), "words").rows)
            row["only_names"] = int(tally.of((category, group), "only_names").rows)
            row["prompted"] = rounded(prompted.mean) if prompted.rows else None
        rows.append(row | {"share": rounded(share.mean), "low": rounded(low), "high": rounded(high)})
    return rows


def sentences(rows: list[Row]) -> list[str]:
    """Return a sentence for each category."""
    said = []
    for category in dict.fromkeys(row["category"] for row in rows):
        own = [row for row in rows if row["category"] == category]
        counts = ", ".join(
            f"{row['group']} {row['replies']:,} ({row['share']:.2%}, {row['low']:.2%} to {row['high']:.2%})"
            for row in own
        )
        what = "replies that mention each group" if "words" in own[0] else "rows of each value"
        said.append(f"{category.capitalize()}, {what}: {counts}.")
    return said
