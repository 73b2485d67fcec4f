"""How the data line grows: time and memory of each stage at 0.5, 1, 2 and 5 million rows.

Command: python -m benchmarks.data_scale            (all four sizes: 2.5 GB of rows and 10 GB of disk at the end)
         python -m benchmarks.data_scale --rows 100000 200000
The corpus is that of benchmarks/data_chain, as prompts and completions. Peak memory is that of all
processes of a stage together: proportional set sizes, in which a page that several share counts once,
sampled four times a second. (A control group's peak would count files in the page cache, which the
kernel gives back.) Corpora and figures stay in the folder given, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from benchmarks.data_chain import chains, corpus

STAGES = ("fetch", "clean", "assess", "split")
LIMITS = {"peak GB": 2.0}
Figures = dict[str, float]


class Memory(threading.Thread):
    """Samples the proportional set sizes of a process and all below it; `peak` is in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.done = process, 0, threading.Event()

    def run(self) -> None:
        """Sample until told to stop."""
        while not self.done.wait(0.25):
            total = 0
            try:
                for process in [self.process, *self.process.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:  # one ended meanwhile: the next sample counts
                continue
            self.peak = max(self.peak, total)


def stage(name: str, folder: Path) -> Figures:
    """Run a stage in a project and return its seconds, core-seconds and peak memory in GB.

    Raises:
        subprocess.CalledProcessError: if it fails; what it said went to the terminal.
    """
    command = [sys.executable, "-m", "forgeline.data", name]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    memory = Memory(psutil.Process(process.pid))
    memory.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    memory.done.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seconds": wall, "core-s": usage.ru_utime + usage.ru_stime, "peak GB": memory.peak / 1e9}


def measure(rows: int, folder: Path, workers: int) -> dict[str, Figures]:
    """Run every stage on a corpus of a size, made where it is missing, and return the figures by stage."""
    source = folder / f"corpus-{rows}.jsonl"
    if not source.exists():
        corpus.write(source, rows, seed=17, chat=True)
    place = folder / f"project-{rows}"
    shutil.rmtree(place, ignore_errors=True)
    chains.project(place, source, chains.CLEAN, workers)
    figures: dict[str, Figures] = {"corpus": {"MB": source.stat().st_size / 1e6}}
    for name in STAGES:
        figures[name] = stage(name, place)
        print(f"{rows:>11,} rows  {name:<7}" + _line(figures[name]), file=sys.stderr, flush=True)
    shutil.rmtree(place)
    return figures


def main() -> None:
    """Measure the sizes that have no figures yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000, 5_000_000])
    parser.add_argument("--folder", type=Path, default=chains.ENVIRONMENTS / "scale", help="for corpora and figures")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--again", action="store_true", help="forget the figures of these sizes")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "figures.json"
    figures = json.loads(kept.read_text()) if kept.exists() else {}
    for rows in sorted(arguments.rows):
        if arguments.again or str(rows) not in figures:
            figures[str(rows)] = measure(rows, folder, arguments.workers)
            kept.write_text(json.dumps(figures, indent=2))
    report({rows: figures[str(rows)] for rows in sorted(arguments.rows)})


def report(measured: dict[int, dict[str, Figures]]) -> None:
    """Print each size, and the power of the number of rows that the time of each stage grows with."""
    for rows, figures in measured.items():
        print(f"\n{rows:,} rows, {figures['corpus']['MB']:,.0f} MB")
        for name in STAGES:
            print(f"  {name:<7}{_line(figures[name])}  {1e6 * figures[name]['core-s'] / rows:7.1f} core-µs a row")
        seconds = sum(figures[name]["seconds"] for name in STAGES)
        peak = max(figures[name]["peak GB"] for name in STAGES)
        verdict = "ok" if peak <= LIMITS["peak GB"] else "MISSED"
        print(f"  all    {seconds:8.1f} s  peak {peak:.2f} GB, at most {LIMITS['peak GB']:g}: {verdict}")
    if len(measured) > 1:
        least, most = min(measured), max(measured)
        print("\ntime grows with rows to the power of")
        for name in STAGES:
            times = [measured[rows][name]["core-s"] for rows in (least, most)]
            print(f"  {name:<7}{math.log(times[1] / times[0]) / math.log(most / least):5.2f}")


def _line(figures: Figures) -> str:
    return f"{figures['seconds']:8.1f} s {figures['core-s']:8.1f} core-s {figures['peak GB']:6.2f} GB"


if __name__ == "__main__":
    main()
