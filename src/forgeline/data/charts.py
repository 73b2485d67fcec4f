"""The charts of the reports: a table for DVC's plots and a picture that shows offline."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

INK, BLUE, ORANGE, GREEN, GREY = "#22303c", "#2f6fa7", "#d9822b", "#3a8f5c", "#b8c2cc"


def fate(folder: Path, counts: dict[str, int]) -> None:
    """Draw where the raw rows went: `fate.csv` and `fate.png`."""
    _table(folder / "fate.csv", ("fate", "rows"), counts.items())
    figure, axes = _figure(1, height=0.5 + 0.42 * len(counts))
    names, values = list(counts), list(counts.values())
    bars = axes[0].barh(names, values, color=[GREEN, BLUE] + [ORANGE] * (len(counts) - 2), height=0.62)
    axes[0].bar_label(bars, labels=[f"{value:,}" for value in values], padding=4, color=INK, fontsize=9)
    axes[0].invert_yaxis()
    axes[0].set(title="What became of the raw rows", xlabel="rows", xlim=(0, max(values) * 1.12))
    _save(figure, folder / "fate.png")


def bias(folder: Path, representation: list[dict[str, Any]], association: list[dict[str, Any]]) -> None:
    """Draw shares and differences with their intervals: `representation.csv`, `association.csv`, `bias.png`."""
    _dicts(folder / "representation.csv", representation)
    _dicts(folder / "association.csv", association)
    figure, axes = _figure(2, height=1.3 + 0.32 * max(len(representation), len(association)))
    shares = [(f"{row['category']}: {row['group']}", row, True) for row in representation]
    _intervals(axes[0], "share", shares)
    axes[0].set(title="Replies that mention a group", xlabel="share of replies, %")
    axes[0].set_xlim(left=0)
    differences = [
        (f"{row['group']} (n={row['n']}): {row['example']} …", row, row["verdict"].endswith("elsewhere"))
        for row in association
        if row["difference"] is not None
    ]
    _intervals(axes[1], "difference", differences)
    axes[1].axvline(0, color=INK, linewidth=0.8)
    axes[1].set(title="Words in their company, against other replies", xlabel="difference of shares, % points")
    _save(figure, folder / "bias.png")


def splits(folder: Path, lengths: dict[str, list[int]], references: Counter[int]) -> None:
    """Draw reply lengths and references per test prompt: `lengths.csv`, `references.csv`, `split.png`."""
    width = 20
    shares = {
        name: [(start, share) for start, share in _histogram(values, width, max(map(max, lengths.values())))]
        for name, values in lengths.items()
    }
    rows = [(name, start, round(share, 5)) for name, bins in shares.items() for start, share in bins]
    _table(folder / "lengths.csv", ("split", "characters", "share"), rows)
    _table(folder / "references.csv", ("references", "prompts"), sorted(references.items()))
    figure, axes = _figure(2, height=3.2)
    for (name, bins), colour in zip(shares.items(), (BLUE, GREEN, ORANGE), strict=True):
        axes[0].step(
            [start for start, _ in bins], [100 * share for _, share in bins], where="post", label=name, color=colour
        )
    axes[0].set(title="Length of replies", xlabel="characters", ylabel="share of rows, %")
    axes[0].legend(frameon=False)
    bars = axes[1].bar(
        [str(count) for count in sorted(references)], [references[count] for count in sorted(references)], color=ORANGE
    )
    axes[1].bar_label(bars, padding=2, color=INK, fontsize=9)
    axes[1].set(title="Accepted replies per test prompt", xlabel="references", ylabel="prompts")
    _save(figure, folder / "split.png")


def _histogram(values: Sequence[int], width: int, most: int) -> list[tuple[int, float]]:
    counts = Counter(value // width for value in values)
    return [(number * width, counts[number] / len(values)) for number in range(most // width + 1)]


def _intervals(axis: Any, middle: str, rows: list[tuple[str, dict[str, Any], bool]]) -> None:
    """Draw a point and its interval a row; in grey what shows nothing."""
    for place, (_, row, sure) in enumerate(rows):
        colour = BLUE if sure else GREY
        axis.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=2)
        axis.plot([100 * row[middle]], [place], "o", color=colour, markersize=5)
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axis.invert_yaxis()


def _figure(columns: int, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcdefaults()
    pyplot.rcParams.update(
        {"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    )
    pyplot.rcParams.update({"axes.edgecolor": GREY, "text.color": INK, "axes.labelcolor": INK})
    pyplot.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130})
    figure, axes = pyplot.subplots(1, columns, figsize=(5.2 * columns + (columns == 1) * 2, height), squeeze=False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    # No version stamp: the same data give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def _dicts(path: Path, rows: list[dict[str, Any]]) -> None:
    _table(path, tuple(rows[0]), (row.values() for row in rows))


def _table(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
