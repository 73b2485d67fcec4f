"""Stage 2: repair, mask, filter and deduplicate; what leaves the line leaves a trace."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forgeline.config.schema import Clean, Data
from forgeline.data import charts, pii
from forgeline.data.layout import CLEAN, QUARANTINE, RAW, REPORTS
from forgeline.data.text import normalise, normalise_prompt, repair
from forgeline.errors import DataError
from forgeline.lineage import value_digest
from forgeline.records import Record, read_jsonl, write_json, write_jsonl

PLACEHOLDER = re.compile(r"#[A-Z]+(?:[-_][A-Z]+)+#|\{\{\s*\w+\s*\}\}")
MERGED = "duplicate"


def clean(root: Path, config: Data) -> dict[str, Any]:
    """Write the kept records and the quarantine, and return the report.

    Raises:
        DataError: if a row would be lost or invented, or if no row is left.
    """
    rows = list(read_jsonl(root / RAW))
    kept, removed, masked = clean_rows(rows, config.clean)
    reasons = Counter(entry["reason"] for entry in removed)
    merged = reasons.pop(MERGED, 0)
    counts = {"in": len(rows), "kept": len(kept), "quarantined": reasons.total(), "merged": merged}
    if counts["in"] != counts["kept"] + counts["quarantined"] + counts["merged"]:
        raise DataError(f"Cleaning lost or invented rows: {counts}. Nothing was written.")
    if not kept:
        worst = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise DataError(f"Cleaning left none of {len(rows)} rows ({worst}): look at data.clean and the source.")
    write_jsonl(root / CLEAN, (record.model_dump() for record in kept))
    write_jsonl(root / QUARANTINE, removed)
    texts = (text for record in kept for text in [*(turn.content for turn in record.messages), *record.references])
    leaks = Counter(one.kind for text in texts for one in pii.find(text))
    report = {
        "rows": counts,
        "reasons": dict(sorted(reasons.items())),
        "prompts": len({normalise_prompt(record) for record in kept}),
        "masked": {kind: masked[kind] for kind in pii.KINDS},
        "unmasked_pii": leaks.total(),
    }
    write_json(root / REPORTS / "clean.json", report)
    charts.fate(root / REPORTS, {"kept": len(kept), "merged into a twin": merged, **dict(reasons.most_common())})
    return report


def clean_rows(rows: list[dict[str, Any]], config: Clean) -> tuple[list[Record], list[dict[str, Any]], Counter[str]]:
    """Return the kept records, an entry for each removed row, and how much of each kind was masked.

    An entry holds the `row` as it stood, the `reason`, a `detail`, and for a duplicate the id of its
    kept twin, whose origin lists it. Rows with equal prompts come to share the first one's key.
    """
    masked: Counter[str] = Counter()
    twins: dict[tuple[str, str], Record] = {}
    replies: Counter[str] = Counter()
    ids: set[str] = set()
    kept: list[Record] = []
    removed: list[dict[str, Any]] = []

    def remove(row: dict[str, Any], reason: str, detail: str, **more: str) -> None:
        removed.append({"reason": reason, "detail": detail, **more, "row": row})

    for row in rows:
        try:
            record = _mend(row, config, masked)
        except _Unfit as unfit:
            remove(row if "messages" in row else _masked_raw(row, config), unfit.reason, unfit.detail)
            continue
        prompt, reply = normalise_prompt(record), normalise(record.completion)
        if fault := _fault(record, config, ids):
            remove(record.model_dump(), *fault)
        elif twin := twins.get((prompt, reply)):
            twin.origin.setdefault("merged", []).append(record.id)
            remove(record.model_dump(), MERGED, "same prompt and reply", duplicate_of=twin.id)
        elif replies[prompt] == config.max_references:
            remove(record.model_dump(), "over_reference_cap", f"the prompt has {config.max_references} replies already")
        else:
            ids.add(record.id)
            replies[prompt] += 1
            twins[prompt, reply] = record
            kept.append(record)
    _share_keys(kept)
    return kept, removed, masked


class _Unfit(Exception):
    """Why a row cannot become a record."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def _mend(row: dict[str, Any], config: Clean, masked: Counter[str]) -> Record:
    """Return a row as a record with repaired and masked texts."""
    where = f"{row['origin'].get('source')}, line {row['origin'].get('line')}: " if "line" in row["origin"] else ""
    if "fault" in row:
        raise _Unfit("malformed", where + row["fault"])

    def mend(text: str) -> str:
        text, kinds = pii.mask(repair(text), config.mask)
        masked.update(kinds)
        return text

    texts = [turn.get("content") for turn in row["messages"]]
    if (
        texts
        and isinstance(texts[-1], str)
        and row["messages"][-1].get("role") == "assistant"
        and not repair(texts[-1])
    ):
        raise _Unfit("empty", where + "the completion is empty")
    try:
        record = Record.model_validate(row)
    except ValidationError as fault:
        first = fault.errors()[0]
        field = ".".join(map(str, first["loc"])) or "record"
        raise _Unfit("malformed", f"{where}{field}: {first['msg']}") from None
    for turn in record.messages:
        turn.content = mend(turn.content)
    record.references = [mend(reference) for reference in record.references]
    record.origin.pop("fields", None)  # they stay in the raw row: nobody has masked them
    if pii.find(record.key):
        record.key = value_digest(record.key)[:16]
    return record


def _masked_raw(row: dict[str, Any], config: Clean) -> dict[str, Any]:
    return {**row, "raw": pii.mask(row["raw"], config.mask)[0]}


def _fault(record: Record, config: Clean, ids: set[str]) -> tuple[str, str] | None:
    """Return the reason and the detail for which a record must go, if there is one."""
    length = sum(len(turn.content) for turn in record.messages)
    if left := PLACEHOLDER.search(record.completion):
        return "unfilled_placeholder", left[0]
    if len(record.completion) < config.min_chars:
        return "too_short", f"the reply has {len(record.completion)} characters"
    if length > config.max_chars:
        return "too_long", f"the conversation has {length} characters"
    if record.id in ids:
        return "malformed", f"the id {record.id} is taken by an earlier row"
    return None


def _share_keys(records: list[Record]) -> None:
    """Join keys whose prompts are equal, masked or not, under the key that came first."""
    parent: dict[str, str] = {}
    order = {key: number for number, key in enumerate(dict.fromkeys(record.key for record in records))}

    def root_of(key: str) -> str:
        while key in parent:
            key = parent[key]
        return key

    first_key: dict[str, str] = {}
    for record in records:
        one, other = root_of(first_key.setdefault(normalise_prompt(record), record.key)), root_of(record.key)
        if one != other:
            early, late = sorted((one, other), key=order.__getitem__)
            parent[late] = early
    for record in records:
        record.key = root_of(record.key)
