"""Files, batches and the answers to their lines, as the database keeps them and OpenAI's API shows them.

Source: https://platform.openai.com/docs/api-reference/files and /batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, String, Table

from forgeline.serving.gateway.store import METADATA

ENDPOINT = "/v1/chat/completions"
UNFINISHED = ("validating", "in_progress", "cancelling")
FILES = Table(
    "files",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("lines", Integer, nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("content", LargeBinary, nullable=False),
)
BATCHES = Table(
    "batches",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False, index=True),
    Column("caller", String, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("input", String, nullable=False),
    Column("output", String),
    Column("errors", String),
    Column("status", String, nullable=False, index=True),
    Column("total", Integer, nullable=False),
    Column("completed", Integer),  # known once it has ended
    Column("failed", Integer),
    Column("at", Float, nullable=False),
    Column("begun_at", Float),
    Column("cancelling_at", Float),
    Column("ended_at", Float),
    Column("expires_at", Float, nullable=False),
    Column("metadata", JSON),
    Column("lease", Float, nullable=False),  # until then one gateway answers it
)
ANSWERS = Table(
    "batch_answers",
    METADATA,
    Column("batch", String, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("ok", Boolean, nullable=False),
    Column("record", String, nullable=False),
)


def file_object(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a file as OpenAI's API shows it."""
    told = {"id": row["id"], "object": "file", "bytes": row["size"], "created_at": int(row["at"])}
    return {**told, "filename": row["name"], "purpose": row["purpose"], "status": "processed"}


def batch_object(row: Mapping[Any, Any], completed: int, failed: int) -> dict[str, Any]:
    """Return a batch as OpenAI's API shows it, with the lines answered so far."""

    def second(at: float | None) -> int | None:
        return None if at is None else int(at)

    ends: dict[str, int | None] = {f"{status}_at": None for status in ("completed", "failed", "expired", "cancelled")}
    if row["ended_at"] is not None:
        ends[f"{row['status']}_at"] = second(row["ended_at"])
    return {
        "id": row["id"],
        "object": "batch",
        "endpoint": ENDPOINT,
        "errors": None,
        "input_file_id": row["input"],
        "completion_window": "24h",
        "status": row["status"],
        "output_file_id": row["output"],
        "error_file_id": row["errors"],
        "created_at": int(row["at"]),
        "in_progress_at": second(row["begun_at"]),
        "expires_at": int(row["expires_at"]),
        "finalizing_at": second(row["ended_at"]),
        "cancelling_at": second(row["cancelling_at"]),
        **ends,
        "request_counts": {"total": row["total"], "completed": completed, "failed": failed},
        "metadata": row["metadata"],
    }
