"""What a new user waits for: `make demo` in a fresh clone, then again with nothing changed.

Command: python benchmarks/first_run.py
Clones the committed tree into an empty folder with ZenML and download stores of its own, and prints
installation, first run, second run, peak memory of all processes together, and the share of the
first run that is orchestration: its wall time less what its steps say they spent on data, training,
generating and serving. Imports and database set-up count as orchestration. Needs psutil.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil

PROJECT = Path(__file__).parent.parent
LIMITS = {"first run, with installation": 720.0, "second run": 20.0, "peak memory": 8.0, "orchestration": 10.0}


class Memory(threading.Thread):
    """Samples the resident memory of a process and all below it, in GB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0.0, threading.Event()

    def run(self) -> None:
        """Sample until told to stop."""
        while not self.done.wait(0.5):
            total = 0
            for process in [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total / 1e9)


def timed(folder: Path, environment: dict[str, str], *command: str) -> float:
    """Run a command to its end and return its seconds; its output goes to the terminal."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return time.perf_counter() - started


def work_seconds(folder: Path) -> dict[str, float]:
    """Return what the first run spent on its work, by kind, from what each piece of work recorded."""
    evaluations = folder / ".forgeline/evaluations"
    reports = [
        json.loads(path.read_text())["seconds"]
        for name in ("base", "candidate")
        for path in evaluations.glob(f"{name}-*.json")
    ]
    [tuned] = (folder / ".forgeline/tuning").glob("*/result.json")
    code = (
        "from zenml.client import Client\n"
        "for run in Client().list_pipeline_runs(sort_by='asc:created'):\n"
        "    for name, step in run.steps.items():\n"
        "        if step.status == 'completed':\n"
        "            print(name, (step.end_time - step.start_time).total_seconds())\n"
    )
    command = [folder / ".venv/bin/python", "-c", code]
    listed = subprocess.check_output(command, cwd=folder, env=ENVIRONMENT, text=True)
    pairs = [line.split() for line in listed.splitlines() if len(line.split()) == 2]
    steps: dict[str, float] = {}
    for name, seconds in pairs:
        steps.setdefault(name, float(seconds))
    return {
        "data": steps["prepare_data"],
        "training": json.loads(tuned.read_text())["seconds"],
        "generating and scoring": sum(sum(seconds.values()) for seconds in reports),
        "probing": steps["probe_candidate"],
        "serving": steps["check_parity"] + steps["deploy_local"],
    }


ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON", "ZENML"))}


def main() -> None:
    """Measure, print, and clean up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "forgeline"
        ENVIRONMENT["ZENML_CONFIG_PATH"] = f"{name}/zenml"
        ENVIRONMENT["FORGELINE_CACHE"] = f"{name}/cache"
        subprocess.run(["git", "clone", "--quiet", PROJECT, folder], check=True)
        memory = Memory(os.getpid())
        memory.start()
        try:
            install = timed(folder, ENVIRONMENT, "make", ".venv/bin/.demo")
            first = timed(folder, ENVIRONMENT, "make", "demo")
            work = work_seconds(folder)
            second = timed(folder, ENVIRONMENT, "make", "demo")
        finally:
            memory.done.set()
            subprocess.run([folder / ".venv/bin/forgeline", "stop"], cwd=folder, env=ENVIRONMENT, check=False)
    orchestration = first - sum(work.values())
    print(f"\ninstallation {install:.0f} s, first run {first:.0f} s, of which:")
    for kind, seconds in {**work, "orchestration": orchestration}.items():
        print(f"  {kind:<24}{seconds:6.0f} s  {100 * seconds / first:4.0f} %")
    figures = {
        "first run, with installation": install + first,
        "second run": second,
        "peak memory": memory.peak,
        "orchestration": 100 * orchestration / first,
    }
    for figure, value in figures.items():
        print(
            f"{figure:<30}{value:7.1f}   at most {LIMITS[figure]:g}   {'ok' if value <= LIMITS[figure] else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
