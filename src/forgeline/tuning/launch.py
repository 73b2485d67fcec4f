"""Start a job's team of processes with torchrun, and pass on what its leader tells."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from forgeline.errors import TuningError
from forgeline.tuning.curve import read
from forgeline.tuning.job import Job, Log

JOB = "job.json"


def launch(job: Job, log: Log) -> None:
    """Run a job on several processes and wait for its end.

    With several nodes, `python -m forgeline.tuning launch <folder>/job.json` on each of the others joins in;
    the folder must be one that all of them see.

    Raises:
        TuningError: with the leader's reason, if training stopped before its end.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / JOB).write_text(job.model_dump_json(indent=2))
    fault(job.folder).unlink(missing_ok=True)
    told = len(read(job.folder))
    with subprocess.Popen([sys.executable, "-m", "forgeline.tuning", "launch", str(job.folder / JOB)]) as process:
        while (code := process.poll()) is None:
            time.sleep(0.5)
            told = _pass_on(job.folder, told, log)
    _pass_on(job.folder, told, log)
    if code:
        if fault(job.folder).exists():
            raise TuningError(fault(job.folder).read_text())
        raise TuningError(
            f"A process of the team ended with an error (exit code {code}); its words are above. Run the command "
            f"again to go on from the last checkpoint in {job.folder}."
        )


def _pass_on(folder: Path, told: int, log: Log) -> int:
    """Log the curve's rows that are new; return how many there are now."""
    rows = read(folder)
    for row in rows[told:]:
        log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
    return len(rows)  # fewer than before at first, if the team goes back to a checkpoint


def fault(folder: Path) -> Path:
    """Return the file in which a process of the team leaves why it stopped."""
    return folder / "fault.txt"


def lead(path: Path) -> int:
    """Start this node's processes and watch over them; they end when whoever launched them does."""
    import ctypes
    import logging
    import signal

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    job = Job.model_validate_json(path.read_text())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    logging.disable(logging.CRITICAL)  # the reason that a process left is what the user is told
    team = job.config.distributed
    threads = max(1, (os.cpu_count() or 1) // team.processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    meeting = ["--standalone"]
    if team.nodes > 1:
        meeting = [f"--nnodes={team.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={team.rendezvous}"]
        meeting.append(f"--rdzv-id={job.folder.name}")
    arguments = [*meeting, f"--nproc-per-node={team.processes}", "-m", "forgeline.tuning", "work", str(path)]
    try:
        run.main(arguments)
    except ChildFailedError:
        return 1
    return 0
