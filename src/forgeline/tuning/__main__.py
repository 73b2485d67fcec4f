"""`python -m forgeline.tuning launch|work JOB`: a team's processes; `forgeline train` starts them."""

from __future__ import annotations

import sys
from pathlib import Path

from forgeline.errors import ForgelineError
from forgeline.tuning.job import Job
from forgeline.tuning.launch import fault, lead


def work(path: Path) -> int:
    """Do one process's part of the job; whoever fails first leaves the reason in the folder."""
    from forgeline.tuning.team import joined
    from forgeline.tuning.tune import work as do

    job = Job.model_validate_json(path.read_text())
    with joined(job.config) as team:
        try:
            do(job, team, lambda metrics, step: None)  # whoever launched the team reads the curve
        except ForgelineError as error:
            fault(job.folder).write_text(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit({"launch": lead, "work": work}[sys.argv[1]](Path(sys.argv[2])))
