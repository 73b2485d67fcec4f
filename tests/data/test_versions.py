from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forgeline.data import versions
from forgeline.data.__main__ import main
from forgeline.errors import DataError

OUTPUTS = {"fetch": "data/raw/*", "clean": "data/clean/**/*", "assess": "data/reports/bias*", "split": "data/splits/*"}
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
REPRO = [sys.executable, "-m", "dvc", "repro"]


def completed(root: Path) -> versions.DataVersion:
    """Run the stages as `dvc repro` does, and return the version that they leave."""
    done = subprocess.run(REPRO, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return versions.current(root)


def set_key(root: Path, section: str, **values: object) -> None:
    path = root / "configs/data.yaml"
    data = yaml.safe_load(path.read_text())
    data[section] |= values
    path.write_text(yaml.safe_dump(data))


def ran(root: Path, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """Prepare, and return the stages that ran: each says one line on stderr."""
    capfd.readouterr()
    versions.prepare(root)
    lines = capfd.readouterr().err.splitlines()
    return [
        stage for stage in ("fetch", "clean", "assess", "split") if any(line.startswith(f"{stage}:") for line in lines)
    ]


def test_only_what_changed_runs_again(versioned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"stages assess, clean, fetch, split\).*forgeline data"):
        versions.current(versioned)
    assert ran(versioned, capfd) == ["fetch", "clean", "assess", "split"]
    before = versions.current(versioned)
    assert before.counts["raw"] == 60 and before.data_card and set(before.hashes) == {"train", "validation", "test"}
    assert ran(versioned, capfd) == [] and not versions.changed(versioned)

    set_key(versioned, "split", seed=99)
    assert list(versions.changed(versioned)) == ["split"]
    with pytest.raises(DataError, match="stages split"):
        versions.current(versioned)
    assert ran(versioned, capfd) == ["split"]
    after = versions.current(versioned)
    assert after.digest != before.digest and after.hashes != before.hashes

    set_key(versioned, "split", seed=17)
    versions.prepare(versioned)
    assert versions.current(versioned) == before


def test_a_failed_stage_says_its_own_sentence(versioned: Path, write_rows: Any) -> None:
    write_rows(versioned, ["not json"])
    with pytest.raises(DataError, match=r"The data line stopped: data/source/rows\.jsonl: the first row is no object"):
        versions.prepare(versioned)


def test_a_folder_without_dvc_is_said_to_be(project: Path) -> None:
    with pytest.raises(DataError, match="not a DVC project"):
        versions.changed(project)


def test_a_run_killed_in_each_stage_is_completed_by_the_next(versioned: Path) -> None:
    for stage in OUTPUTS:
        kill_in(stage, versioned)
    found = completed(versioned)
    assert not list((versioned / "data").rglob("*.part"))

    for name in ("data/raw", "data/clean", "data/splits", ".forgeline", ".dvc/cache"):
        shutil.rmtree(versioned / name)
    (versioned / versions.LOCK).unlink()
    assert completed(versioned) == found


def kill_in(stage: str, root: Path) -> None:
    """Run the stages, and kill them all once one of them has begun to write."""
    run = subprocess.Popen(REPRO, cwd=root, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    next(line for line in run.stdout if f"Running stage '{stage}'" in line)
    while run.poll() is None and not list(root.glob(OUTPUTS[stage])):
        time.sleep(0.001)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stdout.close()


def test_a_stage_on_its_own_says_one_sentence_and_fails(project: Path) -> None:
    command = [sys.executable, "-m", "forgeline.data", "clean"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("clean: ") and "data/raw holds no data" in done.stderr and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("stage", ["fetch", "clean", "split"])
def test_a_disk_that_takes_no_more_stops_a_stage_with_one_sentence(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    for earlier in ("fetch", "clean", "assess", "split"):  # what they write must outlive the failure
        assert main([earlier]) == 0
    before = contents(project)
    shutil.rmtree(project / ".forgeline")  # nothing to take from a cache

    def limit() -> None:  # the file system refuses what goes beyond, as a full one does
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

    failed = main_in(project, stage, limit)
    assert failed.returncode == 1 and "MB free). Make room" in failed.stderr, failed.stderr
    assert failed.stderr.splitlines()[-1].startswith(f"{stage}: ") and "Traceback" not in failed.stderr
    assert contents(project).items() >= before.items()
    assert main([stage]) == 0


def main_in(project: Path, stage: str, limit: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forgeline.data", stage]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, preexec_fn=limit)


def contents(project: Path) -> dict[str, bytes]:
    files = [path for path in (project / "data").rglob("*") if path.is_file()]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files}
