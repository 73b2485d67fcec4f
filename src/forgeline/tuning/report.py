"""The training report: one page with the curves, how it ended, what it cost and the settings."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgeline.config.schema import Train
from forgeline.page import html
from forgeline.page.blocks import (
    Block,
    Cell,
    Chart,
    Code,
    Curves,
    Figures,
    Number,
    Prose,
    Section,
    Series,
    Table,
    Tone,
    count,
)
from forgeline.tuning import curve
from forgeline.tuning.result import TunedModel

if TYPE_CHECKING:
    from forgeline.tuning.cost import Spent

TITLE = "Training report"
Curve = Mapping[int, Mapping[str, float]]


def write(folder: Path, tuned: TunedModel, config: Train, spent: Spent | None) -> Path:
    """Write `report.html` into a finished run's folder, from its `curve.jsonl`, and return its path."""
    points = curve.by_step(folder)
    sections = [
        Section("At a glance", [Prose(ending(tuned, config, points)), _figures(tuned)]),
        Section("Curves", [_curves(points)] if points else [Prose("No curve was kept of this run.")]),
        *([_cost(spent, tuned)] if spent else []),
        Section("Settings", [Prose("All of `configs/train.yaml` as the run had it."), _settings(config)]),
    ]
    path = folder / "report.html"
    partial = path.with_suffix(".part")
    partial.write_text(html.render(TITLE, sections), encoding="utf-8")
    os.replace(partial, path)
    return path


def ending(tuned: TunedModel, config: Train, points: Curve) -> str:
    """Return in a sentence whether the run took all its steps, or stopped early and why."""
    planned = math.ceil(tuned.examples / config.batch_size) * config.epochs
    losses = [(step, metrics["validation_loss"]) for step, metrics in points.items() if "validation_loss" in metrics]
    last = max(points, default=tuned.steps)
    whole = f"{config.epochs} epoch{'s' * (config.epochs > 1)} over {count(tuned.examples)} examples"
    if config.patience is None or last >= planned or not losses:
        return f"Finished: all {count(planned)} steps of {whole}."
    best_step, best = min(losses, key=lambda point: point[1])
    return (
        f"Stopped early at step {count(last)} of {count(planned)} ({whole}), because {config.patience} validations in "
        f"a row brought no loss below the {best:.4f} of step {count(best_step)}; the weights of that step were kept."
    )


def _figures(tuned: TunedModel) -> Figures:
    return Figures(
        [
            ("validation loss, nats a token", f"{tuned.validation_loss:.4f}"),
            ("last training loss, nats a token", f"{tuned.train_loss:.4f}"),
            ("steps", count(tuned.steps)),
            ("tokens", count(tuned.tokens)),
            ("tokens a second", f"{tuned.tokens_per_second:,.0f}"),
        ]
    )


def _curves(points: Curve) -> Block:
    def series(metric: str, name: str, tone: Tone = "plain") -> Series:
        values = ((step, metrics.get(metric, math.nan)) for step, metrics in points.items())
        return Series(name, tone, [(step, value) for step, value in values if math.isfinite(value)])

    charts = [
        Curves(
            "Loss",
            "nats a token, by step",
            [series("loss", "training"), series("validation_loss", "validation", "lost")],
            from_nought=False,
        ),
        Curves("Learning rate", "by step", [series("learning_rate", "learning rate")]),
        Curves("Gradient norm", "before clipping, by step", [series("grad_norm", "gradient norm")]),
        Curves("Throughput", "real tokens a second, by step", [series("tokens_per_second", "tokens a second")]),
        Curves("Memory", "GB, by step", [series("memory_gb", "memory")]),
    ]
    caption = "Measured after each optimiser step. Long curves show the least and the greatest value of each stretch."
    return Chart("", caption, [chart for chart in charts if any(one.points for one in chart.series)])


def _cost(spent: Spent, tuned: TunedModel) -> Section:
    each = spent.money / tuned.tokens * 1_000_000
    rows: list[tuple[Cell, ...]] = [
        (
            "time",
            Number(_duration(spent.seconds)),
            "loading, training, validation; all starts together",
        ),
        ("of it training steps", Number(_duration(tuned.seconds)), "those that the model came from"),
        ("processor time", Number(_duration(spent.processor_seconds)), "of all cores together"),
        ("energy", Number(f"{spent.kwh:.4g} kWh"), spent.energy_source),
        ("carbon dioxide", Number(f"{spent.co2_kg * 1000:.3g} g"), "equivalents, by the country's power"),
        ("peak memory", Number(f"{spent.peak_memory_gb:.2f} GB"), "of the process, or of the tensors on a GPU"),
        ("money", Number(f"{spent.money:.4f} {spent.currency}"), f"{spent.machine}, by the hour"),
        (
            "a million tokens",
            Number(f"{each:.4f} {spent.currency}"),
            f"{count(tuned.tokens)} were trained",
        ),
    ]
    words = "Evaluation is not charged. `forgeline runs` sets the runs side by side."
    return Section("What it cost", [Prose(words), Table(("what", "how much", "of what"), rows)])


def _settings(config: Train) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (Code(key), Code(value)) for key, value in _flat(config.model_dump(mode="json"), "train.")
    ]
    return Table(("key", "value"), rows)


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    pairs = []
    for key, value in values.items():
        pairs += (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", _written(value))]
        )
    return pairs


def _written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest:02} s" if minutes else f"{seconds:.1f} s"
