"""Dataset versions: the one module that knows DVC."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Data
from forgeline.data.layout import CARD, REPORTS, SPLITS
from forgeline.errors import DataError
from forgeline.lineage import value_digest


class DataVersion(BaseModel):
    """What identifies and describes the data of a run; equal data and data config give an equal digest.

    `hashes` are DVC's md5 of the split files, `counts` rows by fate and by split, `paths` relative to
    the project's root.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str
    hashes: dict[str, str]
    counts: dict[str, int]
    test_leakage: int
    unmasked_pii: int
    data_card: bool
    paths: dict[str, str]


def prepare(root: Path, config: Data) -> DataVersion:
    """Run the stages whose inputs or parameters changed, in this process, and return the version.

    Raises:
        DataError: with the sentence of the stage that failed.
    """
    from dvc.exceptions import DvcException, ReproductionError

    with tempfile.TemporaryDirectory() as folder, _stage_environment(note := Path(folder) / "fault"):
        try:
            with _repository(root) as repository:
                repository.reproduce()
        except ReproductionError as fault:
            reason = note.read_text(encoding="utf-8") if note.exists() else _chain(fault)
            raise DataError(f"The data line stopped: {reason}") from None
        except (DvcException, OSError) as fault:  # OSError: its cache's disk is full, for one
            raise DataError(f"DVC cannot run the data line: {_chain(fault)}") from None
    return _read(root, config)


def current(root: Path, config: Data) -> DataVersion:
    """Return the version that lies in the project, running nothing.

    Raises:
        DataError: if the splits are missing, or older than what they are made from.
    """
    if stale := changed(root):
        raise DataError(f"The data are missing or out of date (stages {', '.join(stale)}): run `forgeline data`.")
    return _read(root, config)


def changed(root: Path) -> list[str]:
    """Return the stages that `dvc repro` would run because they, or what they read, changed."""
    from dvc.exceptions import DvcException

    try:
        with _repository(root) as repository:
            return sorted(repository.status())
    except DvcException as fault:
        raise DataError(f"DVC cannot read the data line: {_chain(fault)}") from None


def _read(root: Path, config: Data) -> DataVersion:
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    md5 = {out["path"]: out["md5"] for out in lock["stages"]["split"]["outs"]}
    hashes = {name: md5[path] for name, path in SPLITS.items()}
    clean, split = (_report(root, name) for name in ("clean", "split"))
    raw = {"raw" if fate == "in" else fate: count for fate, count in clean["rows"].items()}
    return DataVersion(
        digest=value_digest({"hashes": hashes, "config": config.digest()}),
        hashes=hashes,
        counts={**raw, **split["rows"]},
        test_leakage=split["test_leakage"],
        unmasked_pii=clean["unmasked_pii"],
        data_card=(root / CARD).is_file(),
        paths={**SPLITS, "card": CARD},
    )


def _report(root: Path, name: str) -> Any:
    return json.loads((root / REPORTS / f"{name}.json").read_text(encoding="utf-8"))


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        # DVC names stages relative to the working folder. What it says goes to stderr: stdout
        # belongs to the command's answer.
        with chdir(root), redirect_stdout(sys.stderr), Repo() as repository:
            yield repository
    except NotDvcRepoError:
        raise DataError(f"{root} is not a DVC project: run `dvc init` there, or restore its .dvc folder.") from None


@contextmanager
def _stage_environment(note: Path) -> Iterator[None]:
    """Let the stages' `python` be this one, and say where a failing stage leaves its sentence."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    os.environ["FORGELINE_STAGE_ERROR"] = str(note)
    try:
        yield
    finally:
        os.environ["PATH"] = path
        del os.environ["FORGELINE_STAGE_ERROR"]


def _chain(fault: BaseException | None) -> str:
    """Return the messages of an error and its causes, which is where DVC puts the reason."""
    messages = []
    while fault is not None:
        messages.append(" ".join(str(fault).split()))
        fault = fault.__cause__
    return ": ".join(dict.fromkeys(messages))
