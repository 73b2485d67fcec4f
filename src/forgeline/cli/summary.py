"""What a run ends with: counts, scores, verdicts, the version, the endpoint, and where to look next."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from forgeline.cli.output import table
from forgeline.ledger import Ledger
from forgeline.records import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forgeline.config import Config
    from forgeline.data.versions import DataVersion
    from forgeline.registry.gates import Verdict


LAST = ".forgeline/last_run.json"


def gather(
    config: Config,
    action: str,
    reason: str,
    data: DataVersion,
    version: int | None = None,
    verdicts: Sequence[Verdict] = (),
) -> dict[str, Any]:
    """Return what a run did, from the registry and the running deployment, ready for JSON, and keep it."""
    from forgeline.registry import evidence, versions
    from forgeline.registry.fingerprint import fingerprint
    from forgeline.registry.gates import judge_success

    champion = versions.champion(config.project)
    shown = versions.get(config.project, str(version)) if version else champion
    result: dict[str, Any] = {
        "action": action,
        "reason": reason,
        "data": data.model_dump(mode="json"),
        "version": shown.number if shown else None,
        "champion": champion.number if champion else None,
        "verdicts": [verdict.model_dump() for verdict in verdicts],
        "fingerprint": fingerprint(config, data),
        "ledger": _ledger_state(config),
    }
    if shown:
        known = evidence.gather(config, shown)
        base, candidate = versions.base_report(config.project, shown), versions.report(config.project, shown)
        differences = known.differences.get("base", {})
        result["scores"] = {
            name: {
                "base": base.metrics[name].model_dump() if name in base.metrics else None,
                "candidate": estimate.model_dump(),
                "difference": differences[name].model_dump() if name in differences else None,
            }
            for name, estimate in candidate.metrics.items()
        }
        result["success"] = [verdict.model_dump() for verdict in judge_success(config.project, known)]
        result["lineage"] = shown.lineage.model_dump()
        result["example"] = candidate.rows[0].prompt
    write_json(config.root / LAST, result)
    return {**result, **_endpoint(config, result)}


def last(config: Config) -> dict[str, Any] | None:
    """Return what the last run here ended with, if no decision was taken since, with the endpoint as it is now."""
    path = config.root / LAST
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result["ledger"] != _ledger_state(config):
        return None
    return {**result, **_endpoint(config, result)}


def show(result: dict[str, Any]) -> None:
    """Print a run's result for a person."""
    counts = result["data"]["counts"]
    table(f"data {result['data']['digest'][:12]}", ("rows", "count"), counts.items())
    if "scores" in result:
        rows = [
            (name, *(_interval(score[column]) for column in ("base", "candidate", "difference")))
            for name, score in result["scores"].items()
        ]
        n = next(iter(result["scores"].values()))["candidate"]["n"]
        table(f"scores on {n} frozen test prompts [95 % interval]", ("metric", "base", "candidate", "difference"), rows)
    for title, verdicts in (("gates", result["verdicts"]), ("success metrics", result.get("success"))):
        if verdicts:
            rows = [(verdict["outcome"], verdict["gate"], verdict["reason"]) for verdict in verdicts]
            table(title, ("verdict", "what", "why"), rows)
    print(f"\n{result['action']}: {result['reason']}.")
    print(f"version {result['version']}, champion {result['champion']}")
    if "endpoint" in result:
        print(f"endpoint {result['endpoint']}\n\n{result['curl']}\n")
    print("experiments:  mlflow ui")
    print("runs:         zenml pipeline runs list")
    print("the evidence: forgeline lineage    decisions: forgeline ledger    talk: forgeline chat")


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _ledger_state(config: Config) -> str | None:
    entries = Ledger(config.root / config.project.stores.ledger).entries()
    return entries[-1].digest if entries else None


def _endpoint(config: Config, result: dict[str, Any]) -> dict[str, str]:
    """Return the address that answers now, and a command that asks it."""
    from forgeline.serving.targets import local

    status = local.status(config.root)
    if status is None or status.health != "ready":
        return {}
    address = f"{status.deployment.url}/v1"
    return {
        "endpoint": address,
        "curl": _curl(config, address, status.deployment.model, result.get("example", "Hello")),
    }


def _curl(config: Config, endpoint: str, model: str, prompt: str) -> str:
    system = config.data.fetch.system
    messages = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": prompt}]
    body = json.dumps({"model": model, "messages": messages})
    headers = "-H 'content-type: application/json' -H \"authorization: Bearer $(cat .forgeline/keys/local)\""
    return f"curl {endpoint}/chat/completions {headers} -d {shlex.quote(body)}"
