"""The charts of the reports: a table for DVC's plots and a picture that shows offline."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
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


def bias(folder: Path, report: dict[str, Any]) -> None:
    """Draw the figures of a bias report with their intervals.

    `bias.png` shows `representation.csv` and `association.csv`; `gaps.png` shows `words.csv` and `gaps.csv`.
    """
    representation, words = report["representation"], report["words"]
    association = [row for row in report["association"] if row["difference"] is not None]
    gaps = [{**row, "measure": "counterfactual", "value": row["gap"]} for row in report["counterfactual"]]
    gaps += [{**row, "measure": "tone", "value": row["difference"]} for row in report["tone"]]
    gaps = [row for row in gaps if row["low"] is not None]
    known = ("category", "group")
    _columns(folder / "representation.csv", (*known, "replies", "share", "low", "high"), representation)
    _columns(folder / "association.csv", (*known, "list", "words", "n", "difference", "low", "high"), association)
    _columns(folder / "words.csv", (*known, "word", "n", "elsewhere", "log_odds", "low", "high", "z"), words)
    _columns(folder / "gaps.csv", (*known, "scorer", "measure", "n", "value", "low", "high", "verdict"), gaps)
    figure, axes = _figure(2, height=1.3 + 0.32 * max(len(representation), len(association)))
    shares = [(f"{row['category']}: {row['group']}", row, True) for row in representation]
    _intervals(axes[0], "share", shares, 100)
    axes[0].set(title="Replies that mention a group", xlabel="share of replies, %")
    axes[0].set_xlim(left=0)
    differences = [
        (f"{row['group']} (n={row['n']}): {row['example']} …", row, row["verdict"] in {"more", "less"})
        for row in association
    ]
    _intervals(axes[1], "difference", differences, 100)
    axes[1].set(title="Words in their company, against other replies", xlabel="difference of shares, % points")
    _save(figure, folder / "bias.png")
    figure, axes = _figure(2, height=1.3 + 0.26 * max(len(words), len(gaps)))
    _intervals(axes[0], "log_odds", [(f"{row['group']}: {row['word']} (n={row['n']})", row, True) for row in words], 1)
    axes[0].set(title="Words that go with one group of a category", xlabel="log-odds ratio against the other groups")
    sure = [row["low"] * row["high"] > 0 and not row["verdict"].startswith("too few") for row in gaps]
    labels = [f"{row['group']} (n={row['n']}): {row['measure']}, {row['scorer']}" for row in gaps]
    _intervals(axes[1], "value", list(zip(labels, gaps, sure, strict=True)), 1)
    axes[1].set(title="Scores, less the scorer's baseline", xlabel="difference of scores")
    _save(figure, folder / "gaps.png")


def splits(folder: Path, lengths: dict[str, Counter[int]], references: Counter[int]) -> None:
    """Draw reply lengths and references per test prompt: `lengths.csv`, `references.csv`, `split.png`.

    Both count: records by characters of the completion, for each split, and test prompts by references.
    The last bin of the lengths has all that are longer than the first 99 in 100.
    """
    every = sum(lengths.values(), Counter[int]())
    running = zip(sorted(every), accumulate(every[length] for length in sorted(every)), strict=True)
    most = next(length for length, shorter in running if shorter >= 0.99 * every.total())
    width = 20 * max(1, most // 1000)
    shares = {name: _histogram(values, width, most) for name, values in lengths.items()}
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


def texts(folder: Path, languages: Sequence[tuple[str, int]], lengths: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draw the languages and lengths of the kept rows: `languages.csv`, `texts.csv` and `texts.png`.

    `lengths` holds, by text and unit, the `width` of the bins and the `shares` of the rows in each.
    """
    rows = [
        (text, unit, place * one["width"], share)
        for text, units in lengths.items()
        for unit, one in units.items()
        for place, share in enumerate(one["shares"])
    ]
    _table(folder / "languages.csv", ("language", "rows"), languages)
    _table(folder / "texts.csv", ("text", "unit", "start", "share"), rows)
    figure, axes = _figure(3, height=3.2)
    names, counts = [name for name, _ in languages[:8]], [rows for _, rows in languages[:8]]
    bars = axes[0].barh(names, counts, color=BLUE, height=0.62)
    axes[0].bar_label(bars, padding=4, color=INK, fontsize=9)
    axes[0].invert_yaxis()
    axes[0].set(title="Language of completions, a sample", xlabel="rows", xlim=(0, max(counts) * 1.15))
    for axis, unit in zip(axes[1:], ("characters", "words and signs"), strict=True):
        for (text, units), colour in zip(lengths.items(), (GREEN, BLUE), strict=True):
            if one := units.get(unit):
                edges = [place * one["width"] for place in range(len(one["shares"]) + 1)]
                # Bins of two texts may differ in width: shares of one unit are comparable.
                heights = [100 * share / one["width"] for share in one["shares"]]
                axis.stairs(heights, edges, color=colour, linewidth=1.5, label=text)
        axis.set(title=f"Length in {unit}", xlabel=unit, ylabel=f"% of rows a {unit.split()[0].removesuffix('s')}")
        axis.legend(frameon=False)
    _save(figure, folder / "texts.png")


def _histogram(counts: Counter[int], width: int, most: int) -> list[tuple[int, float]]:
    bins: Counter[int] = Counter()
    for length, count in counts.items():
        bins[min(length, most) // width] += count
    return [(number * width, bins[number] / counts.total()) for number in range(most // width + 1)]


def _intervals(axis: Any, middle: str, rows: list[tuple[str, dict[str, Any], bool]], scale: float) -> None:
    """Draw a point and its interval a row, and where zero is; in grey what shows nothing."""
    for place, (_, row, sure) in enumerate(rows):
        colour = BLUE if sure else GREY
        axis.plot([scale * row["low"], scale * row["high"]], [place, place], color=colour, linewidth=2)
        axis.plot([scale * row[middle]], [place], "o", color=colour, markersize=5)
    axis.axvline(0, color=INK, linewidth=0.8)
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


def _columns(path: Path, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    _table(path, names, ([row[name] for name in names] for row in rows))


def _table(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
