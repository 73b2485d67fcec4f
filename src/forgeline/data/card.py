"""The data card: what the data are, where each row went, what was found; generated, never edited."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forgeline.config.schema import Data
from forgeline.data.layout import CARD, QUARANTINE, REPORTS, SPLITS
from forgeline.records import read_records


def write_card(root: Path, config: Data) -> None:
    """Write `card.md` beside the reports it draws on; its charts are relative images."""
    fetch, clean, bias, split = (_report(root, name) for name in ("fetch", "clean", "bias", "split"))
    sections = [
        "# Data card\n\nWritten by the data line from its own reports; edit `configs/data.yaml`, not this file.",
        _sources(fetch, config),
        _cleaning(clean, config),
        _privacy(clean, config),
        _bias(bias),
        _splits(split, config),
        _examples(root),
    ]
    (root / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _sources(fetch: dict[str, Any], config: Data) -> str:
    rows = [(f"`{source}`", f"{count:,}") for source, count in fetch["sources"].items()]
    adapter = f"Adapter `{config.fetch.adapter}`, seed {config.fetch.seed}; {fetch['malformed']:,} malformed rows."
    given = "\n".join(f"- `{source}`" for source in config.fetch.sources)
    return f"## Sources\n\n{adapter} Given, with their digests:\n\n{given}\n\n{_table(('rows from', 'rows'), rows)}"


def _cleaning(clean: dict[str, Any], config: Data) -> str:
    counts = clean["rows"]
    rows = [("kept", f"{counts['kept']:,}"), ("merged into a kept twin", f"{counts['merged']:,}")]
    rows += [(f"quarantined: {reason}", f"{count:,}") for reason, count in clean["reasons"].items()]
    rows.append(("**raw rows**", f"**{counts['in']:,}**"))
    return (
        f"## Cleaning\n\n{_table(('fate', 'rows'), rows)}\n\n![What became of the raw rows](fate.png)\n\n"
        f"Kept rows answer {clean['prompts']:,} prompts, with at most {config.clean.max_references} replies each. "
        f"Every other row is in `{QUARANTINE}` with its reason."
    )


def _privacy(clean: dict[str, Any], config: Data) -> str:
    rows = [(kind, f"{count:,}") for kind, count in clean["masked"].items()]
    return (
        f"## Personal data\n\nMasked kinds: {', '.join(config.clean.mask) or 'none'}. "
        f"Found again in the output, all kinds: **{clean['unmasked_pii']}**. "
        "Patterns with validators find forms, not meaning: names and addresses stay.\n\n"
        f"{_table(('kind', 'masked'), rows)}"
    )


def _bias(bias: dict[str, Any]) -> str:
    findings = "\n".join(f"- {finding}" for finding in bias["findings"])
    return (
        f"## Representation and association\n\n{bias['replies']:,} replies; intervals at {bias['confidence']:.0%}, "
        "each for itself. Words are counted as words: a chapel that is a sight, or a cuisine, counts as a mention.\n\n"
        f"![Shares and differences with intervals](bias.png)\n\n{findings}"
    )


def _splits(split: dict[str, Any], config: Data) -> str:
    rows = [(name, f"{count:,}", f"{split['keys'][name]:,}") for name, count in split["rows"].items()]
    shared = split["test_replies_seen_in_train"]
    return (
        f"## Splits\n\nA key's split follows from sha256(seed, key) alone (seed {config.split.seed}; validation "
        f"{config.split.validation:.0%}, test {config.split.test:.0%}), so the test set stays when rows are added.\n\n"
        f"{_table(('split', 'records', 'keys'), rows)}\n\n![Lengths and references](split.png)\n\n"
        f"Test records whose key, prompt or conversation is in another split: **{split['test_leakage']}** "
        f"(validation in train: {split['validation_leakage']}). "
        f"For information: {shared:,} test prompts have an accepted reply that also answers some other prompt in train."
    )


def _examples(root: Path) -> str:
    blocks = []
    for record in read_records(root / SPLITS["train"])[:3]:
        turns = "\n".join(f"{turn.role}: {turn.content}" for turn in record.messages if turn.role != "system")
        blocks.append(f"```text\n{turns}\n```")
    return "## First training records\n\n" + "\n\n".join(blocks)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _report(root: Path, name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((root / REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    return report
