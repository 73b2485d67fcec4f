"""What people said of a version, beside other models: stored with its run as evidence for gates, and in the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from forgeline.config.schema import Config
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.sheets import Key
from forgeline.evaluation.verdicts import Judged
from forgeline.registry import promotion, versions
from forgeline.registry.tracking import connect

PEOPLE = "evaluation/people.json"


def record(config: Config, key: Key, judged: Judged) -> versions.Version | None:
    """Store what people said of the sheet's first model beside the second, and who judged; return its version.

    None, and nothing is stored, if the first model is no registered version.
    """
    first, second = key.models[:2]
    if first.version is None:
        return None
    version = versions.get(config.project, str(first.version))
    estimates: dict[str, Estimate] = {}
    if second.name in judged.wins:
        estimates["human_win_rate"] = judged.wins[second.name]
    if judged.agreement:
        estimates["human_agreement"] = judged.agreement
    evidence: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_digest": first.data_digest,
        "sheet": key.digest,
        "against": second.name,
        "raters": judged.raters,
        "alpha": judged.agreement.value if judged.agreement else None,
        "estimates": {name: estimate.model_dump() for name, estimate in estimates.items()},
        "win_rates": {name: estimate.model_dump() for name, estimate in judged.wins.items()},
    }
    connect(config.project).log_dict(version.run_id, evidence, PEOPLE)
    facts = {name: value for name, value in evidence.items() if name != "at"}
    promotion.record_once(config, "judged", {"model": version.name, "version": version.number, **facts})
    return version
