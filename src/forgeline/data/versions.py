"""Dataset versions: the one module that knows DVC."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from forgeline.data.layout import CARD, REPORTS, SPLITS
from forgeline.errors import DataError
from forgeline.lineage import value_digest

LOCK = "dvc.lock"  # what the stages last ran with and wrote: git's history of it is that of the data
SCHEME = "dvc"  # of the address of a dataset version
FOLDER = ".dir"  # ends the id of a folder in the store: its object lists the ids of the files

# A store that stops answering is given up: s3fs asks five times, so after a minute at most.
ANSWER_SECONDS = 10

# Where the charts' page template lies for `dvc plots show`, relative to the .dvc folder; git ignores it.
TEMPLATE = "tmp/plots.html"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8">{refresh_tag}<title>Data charts</title>
<style>body {font-family: sans-serif; margin: 2em} body > div {margin-bottom: 2em} img {max-width: 100%}</style>
<script>LIBRARIES</script></head>
<body>{plot_divs}</body>
</html>
"""


class DataVersion(BaseModel):
    """What identifies and describes the data of a run; equal data made by equal settings give an equal digest.

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
    bias: dict[str, float] = {}
    paths: dict[str, str]


class Lock(BaseModel):
    """What a lock file says: the version's digest, and the id in the store of each output by its path."""

    model_config = ConfigDict(frozen=True)
    digest: str
    outs: dict[str, str]

    @property
    def hashes(self) -> dict[str, str]:
        """The ids of the split files."""
        return {name: self.outs[path] for name, path in SPLITS.items()}


def read_lock(text: str) -> Lock | None:
    """Return what a lock file says, or None before its first splits.

    The digest covers the split files and the settings that shaped them, so that any revision's follows
    from its lock file alone.
    """
    # Every scalar stays a string: a md5 of digits only is no number, and a date needs no JSON form.
    stages = (yaml.load(text, yaml.CBaseLoader) or {}).get("stages", {})  # noqa: S506
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ()) if "md5" in out}
    if not set(SPLITS.values()) <= set(outs):
        return None
    hashes = {name: outs[path] for name, path in SPLITS.items()}
    settings = {name: stage.get("params", {}) for name, stage in stages.items()}
    return Lock(digest=value_digest({"hashes": hashes, "settings": settings}), outs=outs)


def prepare(root: Path) -> DataVersion:
    """Run the stages whose inputs or parameters changed, in this process, and return the version.

    Raises:
        DataError: with the sentence of the stage that failed.
    """
    from dvc.exceptions import DvcException, ReproductionError

    with tempfile.TemporaryDirectory() as folder, _repository(root) as repository:
        try:
            with _stage_environment(note := Path(folder) / "fault"):
                repository.reproduce()
        except ReproductionError as fault:
            reason = note.read_text(encoding="utf-8") if note.exists() else _chain(fault)
            raise DataError(f"The data line stopped: {reason}") from None
        except (DvcException, OSError) as fault:  # OSError: its cache's disk is full, for one
            raise DataError(f"DVC cannot run the data line: {_chain(fault)}") from None
        _chart_offline(repository)
    return _read(root)


def current(root: Path) -> DataVersion:
    """Return the version that lies in the project, running nothing.

    Raises:
        DataError: if the splits are missing, or older than what they are made from.
    """
    if stale := changed(root):
        raise DataError(f"The data are missing or out of date (stages {', '.join(stale)}): run `forgeline data`.")
    return _read(root)


def changed(root: Path) -> dict[str, list[str]]:
    """Return the stages that `dvc repro` would run, each with the files and settings that changed for it."""
    with _repository(root) as repository:
        status = repository.status()
    # A stage has a list of kinds of change, each a mapping from what changed; a changed command is a string.
    return {
        stage: sorted({name for fault in faults if isinstance(fault, dict) for name in _changed_names(fault)})
        for stage, faults in sorted(status.items())
    }


def edited(root: Path) -> list[str]:
    """Return the tracked data that lie in the workspace and are not what the lock file says."""
    with _repository(root) as repository:
        found = repository.data_status()["uncommitted"]
    return sorted({path for kind in ("modified", "added", "renamed", "unknown") for path in found.get(kind, ())})


def objects(root: Path, ids: Iterable[str], fetch: bool = True) -> dict[str, Path]:
    """Return where outputs, or files of them, lie in the local store, by id.

    Args:
        root: the project.
        ids: from a lock file, or from `files`.
        fetch: ask the remote for what is missing here; otherwise it is left out.

    Raises:
        DataError: if the remote does not have it either, does not answer, or there is none.
    """
    with _repository(root) as repository:
        paths = {each: Path(repository.cache.local.oid_to_path(each)) for each in ids}
        if fetch and (missing := [each for each, path in paths.items() if not path.exists()]):
            _pull(repository, missing)
            if lost := [each for each in missing if not paths[each].exists()]:
                raise DataError(
                    f"{len(lost)} of the version's files, such as {lost[0]}, are neither in the local store nor in "
                    "the remote: run `dvc push` where that version was made."
                )
    return {each: path for each, path in paths.items() if path.exists()}


def files(folder: Path) -> dict[str, str]:
    """Return the ids of a stored folder's files by their path in it, given where its object lies."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(folder.read_text(encoding="utf-8"))}


def check_out(root: Path) -> None:
    """Put the data of the lock file that lies in the workspace in place; they must be in the local store."""
    with _repository(root) as repository:
        repository.checkout(force=True)


def draw(root: Path, revisions: list[str], page: Path) -> int:
    """Write the stages' charts as one HTML page that needs no network, and return how many there are.

    Args:
        root: the project.
        revisions: what to draw over one another; only the workspace if empty.
        page: the file to write.
    """
    from dvc.render.match import match_defs_renderers
    from dvc_render import render_html

    with _repository(root) as repository:
        _chart_offline(repository)
        drawn = repository.plots.show(revs=revisions or None)
        renderers = [found.renderer for found in match_defs_renderers(drawn) if found.renderer.datapoints]
        page.parent.mkdir(parents=True, exist_ok=True)
        render_html(renderers, page, html_template=Path(repository.dvc_dir) / TEMPLATE)
    return len(renderers)


def _read(root: Path) -> DataVersion:
    lock = read_lock((root / LOCK).read_text(encoding="utf-8"))
    if lock is None:
        raise DataError(f"{root / LOCK} names no splits: run `forgeline data`.")
    clean, bias, split = (_report(root, name) for name in ("clean", "bias", "split"))
    raw = {"raw" if fate == "in" else fate: count for fate, count in clean["rows"].items()}
    return DataVersion(
        digest=lock.digest,
        hashes=lock.hashes,
        counts={**raw, **split["rows"]},
        test_leakage=split["test_leakage"],
        unmasked_pii=clean["unmasked_pii"],
        data_card=(root / CARD).is_file(),
        bias=bias["gates"],
        paths={**SPLITS, "card": CARD},
    )


def _report(root: Path, name: str) -> Any:
    return json.loads((root / REPORTS / f"{name}.json").read_text(encoding="utf-8"))


def _changed_names(fault: dict[str, Any]) -> Iterator[str]:
    for changes in fault.values():
        for name, change in changes.items():  # settings are listed below their file
            yield from (f"{name}: {key}" for key in change) if isinstance(change, dict) else (name,)


def _pull(repository: Any, ids: list[str]) -> None:
    from dvc.config import NoRemoteError
    from dvc_data.hashfile.hash_info import HashInfo

    settings = repository.config["remote"].get(repository.config["core"].get("remote"), {})
    if settings.get("url", "").startswith(("s3:", "http:", "https:")):
        for limit in ("connect_timeout", "read_timeout"):
            settings.setdefault(limit, ANSWER_SECONDS)
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")  # or each of s3fs's five attempts is five
    try:
        repository.cloud.pull([HashInfo("md5", each) for each in ids])
    except NoRemoteError:
        raise DataError(
            f"{len(ids)} of the version's files are not in the local store, and the project has no remote to "
            "fetch them from: add it with `dvc remote add --default NAME URL`."
        ) from None
    except Exception as fault:  # each kind of store has a client with errors of its own
        raise DataError(f"The remote {settings.get('url')} does not give the data: {_chain(fault)}") from None


def _chart_offline(repository: Any) -> None:
    """Let `dvc plots show` find its chart libraries in a page template of this machine's, not on the network."""
    template = Path(repository.dvc_dir) / TEMPLATE
    if template.exists():
        return
    import vl_convert

    template.parent.mkdir(exist_ok=True)
    partial = template.with_suffix(".part")
    partial.write_text(
        PAGE.replace("LIBRARIES", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", "5.21")),
        encoding="utf-8",
    )
    os.replace(partial, template)
    # Not in the project's own settings: where the template is missing, DVC would stop.
    with repository.config.edit("local") as settings:
        settings["plots"]["html_template"] = TEMPLATE


@contextmanager
def _repository(root: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        # DVC names stages relative to the working folder. What it says goes to stderr: stdout
        # belongs to the command's answer.
        with chdir(root), redirect_stdout(sys.stderr), Repo() as repository:
            yield repository
    except NotDvcRepoError:
        raise DataError(f"{root} is not a DVC project: run `dvc init` there, or restore its .dvc folder.") from None
    except DvcException as fault:
        raise DataError(f"DVC cannot read the data line: {_chain(fault)}") from None


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
