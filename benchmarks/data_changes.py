"""What a change costs the data line: nothing at all, one setting, one new source file.

Command: python benchmarks/data_changes.py
Copies the tracked files into an empty folder, gives the line two files of its own rows, and prints how
long `dvc repro` took and which stages it ran. Without a change it may take two seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).parent.parent
ROWS = 20_000
LIMIT = 2.0  # seconds, without a change
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # without byte code, half of the time is compiling DVC


def copy(folder: Path) -> None:
    """Copy the tracked files, with sources of their own in the settings, and put the folder under git."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True)
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    set_key(folder, "fetch", {"sources": {"rows": {"uri": "data/source/*.jsonl"}}})
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)


def set_key(folder: Path, section: str, value: object) -> None:
    """Change a section of the data settings."""
    path = folder / "configs/data.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), section: value}))


def add_file(folder: Path, number: int) -> None:
    """Add a source file of rows that repeat none."""
    pairs = (
        {"prompt": f"Where is order {number}-{row}?", "completion": f"Order {row} left on day {row * 7919}."}
        for row in range(ROWS)
    )
    path = folder / f"data/source/rows-{number}.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def repro(folder: Path, what: str) -> float:
    """Run what changed, print the seconds and the stages, and return the seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    stages = re.findall(r"Running stage '(\w+)'", done.stdout)
    parsed = re.findall(r"parsed .* files", done.stderr)
    print(f"{what:<22} {seconds:6.2f} s   {', '.join([*stages, *parsed]) or 'no stage'}", flush=True)
    return seconds


def main() -> int:
    """Print each change's cost; return 1 if no change costs too much."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(folder)
        for number in (1, 2):
            add_file(folder, number)
        repro(folder, "first run")
        unchanged = min(repro(folder, "no change") for _ in range(3))
        split = yaml.safe_load((folder / "configs/data.yaml").read_text())["split"]
        set_key(folder, "split", {**split, "seed": split["seed"] + 1})
        repro(folder, "another split seed")
        add_file(folder, 3)
        repro(folder, "one new source file")
    return int(unchanged > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
