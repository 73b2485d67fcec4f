"""Say in Markdown what `forgeline run --json` answered: `python -m forgeline.cli.markdown run.json`.

For a job summary or a comment on a pull request; needs nothing but the standard library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "unknown": "❔ unknown"}
HEADINGS = {"promoted": "✅ Promoted", "refused": "❌ Refused", "unchanged": "💤 Nothing to do"}
FAILED = "### ❌ The run failed\n\nIt ended before it had an answer; its log says what is wrong and how to mend it.\n"


def render(result: dict[str, Any]) -> str:
    """Return a run's answer as Markdown: what was done, the scores, the gates and the data behind them."""
    version, champion = result["version"], result["champion"]
    parts = [
        f"### {HEADINGS[result['action']]}: {_cell(result['reason'])}",
        f"Version {version or 'none'}, champion {champion or 'none'}.",
    ]
    if scores := result.get("scores"):
        parts += [_scores(scores)]
    for kind, verdicts in (("gate", result["verdicts"]), ("success metric", result.get("success"))):
        if verdicts:
            rows = [(MARKS[verdict["outcome"]], verdict["gate"], verdict["reason"]) for verdict in verdicts]
            parts += [_table(("verdict", kind, "why"), rows)]
    data = result["data"]
    parts += [_table([f"data `{data['digest'][:12]}`", "rows"], [(n, f"{c:,}") for n, c in data["counts"].items()])]
    if lineage := result.get("lineage"):
        links = ("git_revision", "config_digest", "mlflow_run_id", "zenml_run_id")
        parts += [" · ".join(f"{name.replace('_', ' ')} `{lineage[name]}`" for name in links)]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Print the Markdown of the named file, empty after a failed run; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m forgeline.cli.markdown run.json", file=sys.stderr)
        return 2
    try:
        text = Path(arguments[0]).read_text(encoding="utf-8")
        print(render(json.loads(text)) if text.strip() else FAILED, end="")
    except (OSError, ValueError, LookupError, TypeError) as fault:
        print(f"error: {arguments[0]} is not the answer of `forgeline run --json`: {fault!r}", file=sys.stderr)
        return 1
    return 0


def _scores(scores: dict[str, Any]) -> str:
    columns = ("base", "candidate", "difference")
    one = next(iter(scores.values()))["candidate"]
    title = f"{one['n']} frozen test prompts, {one['confidence']:.0%} intervals"
    rows = [(name, *(_interval(score[column]) for column in columns)) for name, score in scores.items()]
    return _table((title, *columns), rows)


def _interval(estimate: dict[str, float] | None) -> str:
    """Return a value and its interval, or nothing: models of different vocabularies have no common perplexity."""
    if estimate is None:
        return ""
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
