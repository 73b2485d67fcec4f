"""Stage 1: resolve the sources and adapt them to raw records, dirt and all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from forgeline.config.schema import Data
from forgeline.data.layout import RAW, REPORTS, SOURCE
from forgeline.data.multiwoz import adapt_templates
from forgeline.data.rows import adapt_rows
from forgeline.errors import DataError
from forgeline.records import write_json, write_jsonl
from forgeline.sources import resolve


def fetch(root: Path, config: Data) -> dict[str, Any]:
    """Write the raw records and return the report: rows by source, and how many are malformed.

    Raises:
        SourceError: if a source cannot be resolved.
        DataError: if a source lies where DVC would not see it change, or holds nothing that the
            adapter understands.
    """
    files = [file for reference in config.fetch.sources for file in _locate(reference, root)]
    if config.fetch.adapter == "records":
        rows = adapt_rows(files, config.fetch.system)
    else:
        rows = adapt_templates(files, config.fetch.system, config.clean.max_references, config.fetch.seed)
    if not rows:
        raise DataError(f"The sources hold no rows: {', '.join(name for name, _ in files)}.")
    write_jsonl(root / RAW, rows)
    report = {
        "rows": len(rows),
        "malformed": sum("fault" in row for row in rows),
        "sources": dict(sorted(Counter(row["origin"]["source"] for row in rows).items())),
    }
    write_json(root / REPORTS / "fetch.json", report)
    return report


def _locate(reference: str, root: Path) -> list[tuple[str, Path]]:
    """Return the files of a reference, each under a name that is the same on every machine."""
    paths = resolve(reference, root)
    if "://" in reference and not reference.startswith("file:"):
        address = reference.partition("#")[0]
        return [(address if len(paths) == 1 else f"{address} {path.name}", path) for path in paths]
    watched = (root / SOURCE).resolve()
    for path in paths:
        if not path.resolve().is_relative_to(watched):
            raise DataError(f"{path} lies outside {SOURCE}/, so DVC would not see it change: move or copy it there.")
    return [(path.relative_to(root).as_posix(), path) for path in paths]
