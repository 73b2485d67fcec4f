"""What a run is charged with: right sums, across a kill, at no price, and with nobody asked."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.errors import TuningError
from forgeline.tuning import cost
from forgeline.tuning.cost import Spent, charged

PROJECT = Path(__file__).parents[2]
CODE = """
import sys, time
from pathlib import Path
from forgeline.config import load
from forgeline.tuning import cost
cost.SECONDS = 0.05
config = load(Path(sys.argv[1]))
with cost.charged(Path(sys.argv[2]), config.cost, config.train):
    time.sleep(60)
"""


@pytest.fixture
def config():
    return load(PROJECT, overrides=["cost.prices={laptop: 3600}", "cost.machine=laptop", "cost.currency=EUR"])


def test_a_run_is_charged_with_what_it_took(config, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.05)
    with charged(tmp_path, config.cost, config.train) as meter:
        held = bytearray(b"1") * 200_000_000
        meter.tokens = 1000
        busy = time.process_time() + 0.3
        while time.process_time() < busy:
            time.perf_counter()
        meter.see({"memory_gb": 0.001})
        assert len(held)
    spent = meter.spent
    assert 0.3 <= spent.seconds < 60 and spent.processor_seconds >= 0.3
    assert spent.money == pytest.approx(spent.seconds)  # one euro a second
    assert spent.peak_memory_gb > 0.2
    assert spent.kwh > 0 and spent.co2_kg > 0
    assert spent.energy_source.startswith("processor ")
    assert spent.metrics()["cost_tokens"] == 1000
    assert spent.tags() == {
        "forgeline.cost.machine": "laptop",
        "forgeline.cost.currency": "EUR",
        "forgeline.cost.energy_source": spent.energy_source,
    }
    assert Spent.model_validate_json((tmp_path / "spent.json").read_text()) == spent
    assert [path.name for path in tmp_path.iterdir()] == ["spent.json"]


def test_what_was_spent_before_a_kill_counts(config, tmp_path):
    command = [sys.executable, "-c", CODE, str(PROJECT), str(tmp_path)]
    killed = subprocess.Popen(command, start_new_session=True)
    kept = tmp_path / "spent.json"
    while not kept.exists() or json.loads(kept.read_text())["kwh"] == 0:
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = Spent.model_validate_json(kept.read_text())
    with pytest.raises(KeyboardInterrupt), charged(tmp_path, config.cost, config.train):
        raise KeyboardInterrupt
    with charged(tmp_path, config.cost, config.train) as meter:
        pass
    assert meter.spent.seconds > before.seconds > 0
    assert meter.spent.kwh >= before.kwh > 0
    assert meter.spent.money == pytest.approx(before.money + meter.spent.seconds - before.seconds, rel=1e-3)


def test_every_node_is_paid(config, tmp_path):
    two = config.train.model_copy(
        update={"distributed": config.train.distributed.model_copy(update={"nodes": 2, "rendezvous": "host:1"})}
    )
    with charged(tmp_path, config.cost, two) as meter:
        pass
    assert meter.spent.money == pytest.approx(2 * meter.spent.seconds)


def test_nobody_is_asked_and_nothing_is_left_running(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".codecarbon.config").write_text(
        "[codecarbon]\nemissions_endpoint=http://127.0.0.1:1\nelectricitymaps_api_token=x\noutput_methods=csv,api\n"
    )

    def refuse(*arguments, **options):
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with charged(tmp_path / "run", config.cost, config.train) as meter:
        pass
    assert meter.spent.seconds > 0
    assert {path.name for path in tmp_path.rglob("*")} == {".codecarbon.config", "run", "spent.json"}
    assert not any(thread.name == "cost" for thread in threading.enumerate())


def test_an_unknown_country_is_told(config, tmp_path):
    nowhere = config.cost.model_copy(update={"country": "XQX"})
    with (
        pytest.raises(TuningError, match="power from XQX is unknown; set country"),
        charged(tmp_path, nowhere, config.train),
    ):
        pass
