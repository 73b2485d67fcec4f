"""Stage 4: deal keys to splits, for good; merge references; look for leaks; write the card."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from forgeline.config.schema import Data, Split
from forgeline.data import charts
from forgeline.data.card import write_card
from forgeline.data.layout import CLEAN, NAMES, REPORTS, SPLITS
from forgeline.data.text import normalise, normalise_prompt
from forgeline.errors import DataError
from forgeline.records import Record, read_records, write_json, write_jsonl


def split(root: Path, config: Data) -> dict[str, Any]:
    """Write the three splits, their report and the data card, and return the report.

    Raises:
        DataError: if a split would be empty.
    """
    records = read_records(root / CLEAN)
    parts = deal(records, config.split)
    for name in NAMES:
        if not parts[name]:
            raise DataError(
                f"The {name} split is empty ({len(records)} rows, {len({record.key for record in records})} keys): "
                "add data, or give it a larger share under split in configs/data.yaml."
            )
    for name in NAMES:
        write_jsonl(root / SPLITS[name], (record.model_dump() for record in parts[name]))
    references = Counter(len(record.references) for record in parts["test"])
    report = {
        "rows": {name: len(parts[name]) for name in NAMES},
        "keys": {name: len({record.key for record in parts[name]}) for name in NAMES},
        "test_references": {str(count): references[count] for count in sorted(references)},
        "test_leakage": leaks(parts["test"], [*parts["train"], *parts["validation"]]),
        "validation_leakage": leaks(parts["validation"], parts["train"]),
        "test_replies_seen_in_train": _shared_replies(parts["test"], parts["train"]),
    }
    write_json(root / REPORTS / "split.json", report)
    charts.splits(
        root / REPORTS, {name: [len(record.completion) for record in parts[name]] for name in NAMES}, references
    )
    write_card(root, config)
    return report


def deal(records: list[Record], config: Split) -> dict[str, list[Record]]:
    """Return the records of each split; in validation and test, one a prompt with all its replies.

    A key's split follows from the key and the seed alone, so that new rows never move an old one.
    """
    parts: dict[str, list[Record]] = {name: [] for name in NAMES}
    for record in records:
        parts[split_of(record.key, config)].append(record)
    return {"train": parts["train"], **{name: _merge(parts[name]) for name in ("validation", "test")}}


def split_of(key: str, config: Split) -> str:
    """Return the split of a key: the sha256 of seed and key, as a number in [0, 1), against the shares."""
    digest = hashlib.sha256(f"{config.seed}:{key}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def leaks(held_out: list[Record], seen: list[Record]) -> int:
    """Return how many held-out records share a key, prompt or whole conversation with a seen one."""
    keys = {record.key for record in seen}
    prompts = {normalise_prompt(record) for record in seen}
    conversations = {_flat(record, record.completion) for record in seen}
    return sum(
        record.key in keys
        or normalise_prompt(record) in prompts
        or any(_flat(record, reply) in conversations for reply in [record.completion, *record.references])
        for record in held_out
    )


def _merge(records: list[Record]) -> list[Record]:
    merged: dict[str, Record] = {}
    for record in records:
        replies = [record.completion, *record.references]
        first = merged.setdefault(
            normalise_prompt(record), record.model_copy(update={"references": [], "origin": {"rows": []}})
        )
        first.references += [reply for reply in dict.fromkeys(replies) if reply not in first.references]
        first.origin["rows"].append(record.id)
    return list(merged.values())


def _shared_replies(test: list[Record], train: list[Record]) -> int:
    seen = {normalise(record.completion) for record in train}
    return sum(any(normalise(reply) in seen for reply in record.references) for record in test)


def _flat(record: Record, reply: str) -> str:
    """Return the words of a conversation without its roles: the same text in other turns is a leak too."""
    return normalise(" ".join([*(turn.content for turn in record.messages[:-1]), reply]))
