"""The training report holds the curves, the ending, the cost and the settings, and needs nothing but itself."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.page.blocks import Curves, Series
from forgeline.page.draw import BUCKETS, curves
from forgeline.tuning import curve, report
from forgeline.tuning.cost import Spent
from forgeline.tuning.result import TunedModel

PROJECT = Path(__file__).parents[2]
SPENT = Spent(
    machine="laptop <b>",
    currency="EUR",
    energy_source="processor estimated, memory estimated",
    seconds=75,
    processor_seconds=140,
    tokens=9000,
    kwh=0.0042,
    co2_kg=0.001,
    peak_memory_gb=2.5,
    money=0.25,
)


def tuned(steps: int) -> TunedModel:
    numbers = {"tokens": 9000, "seconds": 60.0, "train_loss": 1.5, "validation_loss": 1.25}
    return TunedModel(path="tuned", examples=40, steps=steps, **numbers)


def keep(folder: Path, steps: int, validation: dict[int, float]) -> None:
    """Write a curve as the training loop does."""
    with (folder / curve.FILE).open("w") as file:
        for step in range(1, steps + 1):
            point = {"step": step, "loss": 5 / step, "learning_rate": 1e-3, "grad_norm": 1.0}
            point |= {"tokens_per_second": 400.0, "memory_gb": 2.0}
            file.write(json.dumps(point) + "\n")
            if step in validation:
                file.write(json.dumps({"step": step, "validation_loss": validation[step]}) + "\n")


@pytest.fixture
def settings():
    overrides = ["train.batch_size=4", "train.epochs=2", "train.validate_steps=2", "train.patience=2"]
    return load(PROJECT, overrides=overrides).train


class Outside(HTMLParser):
    """Collects whatever a page would fetch or run, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "wbr"}:
            self.open.append(tag)
        links = [value for name, value in attributes if name in {"src", "href"} and not value.startswith("#")]
        self.fetched += links + [tag] * (tag in {"script", "link", "img", "iframe"})

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_the_run_and_needs_nothing_else(settings, tmp_path):
    keep(tmp_path, 20, {10: 1.5, 20: 1.25})
    path = report.write(tmp_path, tuned(20), settings, SPENT)
    page = path.read_text()
    read = Outside()
    read.feed(page)
    assert path == tmp_path / "report.html" and not read.fetched and not read.open
    for chart in ("Loss", "Learning rate", "Gradient norm", "Throughput", "Memory"):
        assert f"<h4>{chart}</h4>" in page
    assert len(re.findall("<polyline", page)) == 6  # validation is the second line of the loss
    assert "Finished: all 20 steps of 2 epochs over 40 examples." in page
    assert "1 min 15 s" in page and "0.2500 EUR" in page and "0.0042 kWh" in page
    assert "train.lora.rank" in page and "laptop &lt;b&gt;" in page
    assert not list(tmp_path.glob("*.part"))


def test_a_run_that_stopped_early_says_why(settings, tmp_path):
    keep(tmp_path, 8, {2: 1.5, 4: 1.25, 6: 1.3, 8: 1.4})
    told = report.ending(tuned(4), settings, curve.read(tmp_path))
    assert "early at step 8 of 20 (2 epochs over 40 examples), because 2 validations" in told
    assert "below the 1.2500 of step 4" in told


def test_a_run_without_a_curve_or_a_price_still_has_its_page(settings, tmp_path):
    page = report.write(tmp_path, tuned(20), settings, None).read_text()
    assert "No curve was kept" in page and "What it cost" not in page


def test_a_resumed_curve_holds_what_was_logged_last(tmp_path):
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 9.0}', '{"step": 3, "lo', '{"step": 2, "loss": 2.0}']
    (tmp_path / curve.FILE).write_text("\n".join([*lines, '{"step": 2, "validation_loss": 2.5}\n']))
    assert curve.read(tmp_path) == {1: {"loss": 3.0}, 2: {"loss": 2.0, "validation_loss": 2.5}}


def test_a_long_curve_is_thinned_but_keeps_its_peaks():
    points = [(step, 100.0 if step == 7001 else math.sin(step)) for step in range(1, 20001)]
    drawn = curves(Curves("Loss", "nats", [Series("training", "plain", points)]))
    [line] = re.findall(r'<polyline class="plain" points="([^"]*)"', drawn)
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert len(heights) <= 2 * BUCKETS
    assert sum(height < 10 for height in heights) == 1  # the peak of 100, near the top
