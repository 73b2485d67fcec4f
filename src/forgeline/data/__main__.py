"""Run one stage of the data line: `python -m forgeline.data fetch|clean|assess|split`."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

from forgeline.config import load
from forgeline.errors import ForgelineError

STAGES = ("fetch", "clean", "assess", "split")


def main(arguments: list[str]) -> int:
    """Run the named stage in the project of the working folder; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python -m forgeline.data {{{'|'.join(STAGES)}}}", file=sys.stderr)
        return 2
    try:
        config = load()
        stage = getattr(import_module(f"forgeline.data.{arguments[0]}"), arguments[0])  # a stage imports its own
        report = stage(config.root, config.data)
    except ForgelineError as fault:
        return _failed(arguments[0], str(fault))
    except OSError as fault:  # a full disk, a folder that may not be written
        what = f"{fault.strerror}: {fault.filename or 'data/'}" if fault.strerror else f"a file is cut short: {fault}"
        free = f"{shutil.disk_usage(Path.cwd()).free / 1e6:,.0f} MB free"
        return _failed(arguments[0], f"{what} ({free}). Make room or mend the permissions, then run again.")
    print(f"{arguments[0]}: {report.get('rows', report.get('replies'))}", file=sys.stderr)
    return 0


def _failed(stage: str, sentence: str) -> int:
    print(f"{stage}: {sentence}", file=sys.stderr)
    if note := os.environ.get("FORGELINE_STAGE_ERROR"):  # where `versions.prepare` looks for the reason
        Path(note).write_text(sentence, encoding="utf-8")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
