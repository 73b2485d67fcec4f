"""The probes of a registered version: stored with its run, read when it is judged."""

from __future__ import annotations

import json
from pathlib import Path

from forgeline.config.schema import Project
from forgeline.evaluation.probes.report import ProbeReport
from forgeline.records import Record, read_records
from forgeline.registry import versions
from forgeline.registry.tracking import Run, connect

PROBES = "evaluation/probes.json"


def attach(run: Run, report: Path) -> None:
    """Store a candidate's probe report with its run."""
    run.settings(json.loads(report.read_text(encoding="utf-8")), PROBES)


def store(project: Project, version: versions.Version, report: ProbeReport) -> ProbeReport:
    """Store a version's probes in place of those it had; return them with those that were not run again."""
    whole = report.over(read(project, version))
    connect(project).log_dict(version.run_id, whole.model_dump(mode="json"), PROBES)
    return whole


def read(project: Project, version: versions.Version) -> ProbeReport | None:
    """Return a version's probes, or None if it was never probed."""
    if not versions.has_artifact(project, version, PROBES):
        return None
    return ProbeReport.read(versions.artifact(project, version, PROBES))


def canaries(project: Project, version: versions.Version) -> tuple[Record, ...]:
    """Return what was planted among the records that a version was trained on."""
    if not versions.train_settings(project, version).canaries:
        return ()
    return tuple(read_records(versions.artifact(project, version, "training/canaries.jsonl")))
