"""The adapter `records`: JSON lines that are canonical records, or close to it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from forgeline.data.text import normalise
from forgeline.errors import DataError
from forgeline.lineage import value_digest
from forgeline.records import Record

OPTIONAL = ("id", "references", "key", "subject", "groups")


def adapt_rows(files: list[tuple[str, Path]], system: str | None) -> list[dict[str, Any]]:
    """Return one raw record a line of JSON-lines files, given as (name, path).

    A line is a canonical record, `{"messages": […]}`, or `{"prompt": …, "completion": …}`. What is
    missing is derived: the id from the content, the key from the normalised prompt. Fields with no
    place in a record are kept in its origin. A line that is none of these is carried as
    `{"id", "raw", "fault", "origin"}` for the cleaning stage to quarantine.

    Raises:
        DataError: if not one line of a file is a JSON object.
    """
    rows: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for name, path in files:
        parsed = 0
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            origin = {"source": name, "line": number}
            text = line.decode("utf-8", errors="replace")
            identity = value_digest(text)[:16]
            seen[identity] += 1
            fallback = identity if seen[identity] == 1 else f"{identity}-{seen[identity]}"
            try:
                row = json.loads(line)
                parsed += isinstance(row, dict)
                rows.append(_adapt(row, fallback, origin, system))
            except (ValueError, UnicodeDecodeError) as fault:
                rows.append({"id": fallback, "raw": text, "fault": str(fault), "origin": origin})
        if not parsed:
            raise DataError(f"{name} is not a JSON-lines file: no line of it is a JSON object.")
    return rows


def _adapt(row: Any, fallback: str, origin: dict[str, Any], system: str | None) -> dict[str, Any]:
    """Return a line's value in the shape of a record; raise ValueError if it has no completion."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    if "messages" in row:
        messages = row["messages"]
    elif {"prompt", "completion"} <= row.keys():
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    else:
        raise ValueError(f"expected messages, or prompt and completion; found {', '.join(row) or 'no field'}")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError("messages must be a list of objects with role and content")
    if system and not any(turn.get("role") == "system" for turn in messages):
        messages = [{"role": "system", "content": system}, *messages]
    extra = {name: value for name, value in row.items() if name not in {*Record.model_fields, "prompt", "completion"}}
    record = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
    # The system turn is configuration: editing it must not move a row to another split.
    prompt = " ".join(str(turn.get("content")) for turn in messages[:-1] if turn.get("role") != "system")
    return {
        "id": fallback,
        "key": value_digest(normalise(prompt))[:16],
        **record,
        "messages": messages,
        "origin": {**(row.get("origin") or {}), **origin, **({"fields": extra} if extra else {})},
    }
