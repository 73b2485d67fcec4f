"""Walk the chain of evidence, both ways."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from forgeline.config import Config
from forgeline.data.layout import SPLITS
from forgeline.data.versions import current
from forgeline.errors import DataError
from forgeline.records import Record, read_records
from forgeline.registry import promotion, versions
from forgeline.serving.targets import local


def from_version(config: Config, reference: str | None) -> dict[str, Any]:
    """Return every link from a version (the live one if none is named) down to its source rows."""
    status = local.status(config.root)
    live = status.deployment if status and status.health != "gone" else None
    version = versions.get(config.project, reference or (live.version if live else "champion"))
    decisions = [e for e in promotion.ledger(config).entries() if str(e.facts.get("version")) == str(version.number)]
    served = live if live and live.version == str(version.number) else None
    trained = trained_records(config, version)
    here = current(config.root).digest == version.lineage.data_digest
    walked: dict[str, Any] = {
        "version": version.number,
        "aliases": ", ".join(version.aliases) or "none",
        "deployment": f"{served.url} since {served.started_at}" if served else "not deployed here",
        "bundle": served.digest if served else "none",
        "decisions": "; ".join(f"{e.action} by {e.actor} at {e.at}" for e in decisions) or "none",
        "mlflow_run": version.lineage.mlflow_run_id,
        "zenml_run": version.lineage.zenml_run_id,
        "git_revision": version.lineage.git_revision,
        "config_digest": version.lineage.config_digest,
        "code_digest": version.lineage.code_digest,
        "data_digest": version.lineage.data_digest + ("" if here else " (not the data in this folder)"),
        **{f"{split}_md5": md5 for split, md5 in version.lineage.data_hashes.items()},
        "trained_on": f"{len(trained)} records, from {trained[0]} to {trained[-1]}" if trained else "no records",
    }
    if here and trained:
        first = next(record for record in read_records(config.root / SPLITS["train"]) if record.id == trained[0])
        walked["source_of_first"] = json.dumps(first.origin, ensure_ascii=False)
    return walked


def from_request(config: Config, id_: str) -> dict[str, Any]:
    """Return what the gateway kept of a request, and every link from the version that answered it.

    Raises:
        ServingError: if the gateway's database cannot be asked, or does not know the request.
    """
    from forgeline.serving.gateway.interactions import latest

    row = latest(config.serve.store, id_)
    asked = {"request": id_, "at": datetime.fromtimestamp(row["at"], UTC).isoformat(timespec="seconds")}
    asked |= {name: row[name] for name in ("caller", "rung", "status")}
    answered = {"bundle": row["bundle"], "answered_by_run": row["run"]}
    return asked | from_version(config, row["version"]) | answered


def from_record(config: Config, name: str) -> dict[str, Any]:
    """Return where a record came from, its split, and the registered and live versions that trained on it.

    Raises:
        DataError: if no split of the data in hand holds it.
    """
    split, record = _find(config, name)
    saw = trained_on(config, {record.id})
    status = local.status(config.root)
    live = status.deployment.version if status and status.health == "ready" else None
    return {
        "record": record.id,
        "source": json.dumps(record.origin, ensure_ascii=False),
        "text": record.completion,
        "split": split,
        "trained_versions": ", ".join(map(str, saw)) or "none",
        "live_version_saw_it": "yes" if live in {str(number) for number in saw} else "no",
    }


def trained_on(config: Config, ids: set[str]) -> list[int]:
    """Return the numbers of the registered versions that were trained on any of some records."""
    known = versions.versions(config.project)
    return [version.number for version in known if not ids.isdisjoint(trained_records(config, version))]


def trained_records(config: Config, version: versions.Version) -> list[str]:
    """Return the ids of the records that a version was trained on, or shows as examples."""
    path = versions.artifact(config.project, version, "training/records.json")
    ids: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return ids


def _find(config: Config, name: str) -> tuple[str, Record]:
    for split, path in SPLITS.items():
        for record in read_records(config.root / path):
            if name == record.id or name in record.origin.get("rows", ()):
                return split, record
    raise DataError(
        f"No split of the data in {config.root} holds record {name}: "
        "`forgeline data preview data/clean/quarantine` shows what was removed."
    )
