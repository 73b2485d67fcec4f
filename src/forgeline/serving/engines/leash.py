"""Run a command that does not outlive who started it: `python -m forgeline.serving.engines.leash COMMAND…`.

The other end of standard input is the leash. When it is let go, also by a `kill -9` of its holder, the command and
everything that came of it are killed. SIGTERM goes to the command, and its exit code is this one's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>


def main() -> None:
    """Start the command, and end with it."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes this process's child
    process = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - there is no thread yet
    )
    signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the holder, who then drains
    threading.Thread(target=_hold, daemon=True).start()
    code = process.wait()
    _kill_descendants()
    sys.exit(code if code >= 0 else 128 - code)


def _hold() -> None:
    while os.read(0, 1):
        pass
    _kill_descendants()


def _kill_descendants() -> None:
    """Kill until nothing is left: what is killed may have started something meanwhile."""
    while running := [child for child in psutil.Process().children(recursive=True) if _runs(child)]:
        for child in running:
            child.kill()
        psutil.wait_procs(running, timeout=1)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _prctl(option: int, value: int) -> None:
    """Ask Linux for it; elsewhere, only the end of standard input tells that the holder is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
