"""A table for the tests of the store, light to import in a child process."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Column, Float, String, Table, Text

from forgeline.serving.gateway.store import METADATA

NOTES = Table("notes", METADATA, Column("key", String(64), primary_key=True), Column("at", Float), Column("text", Text))


def row(key: str, text: str = "") -> dict[str, Any]:
    return {"key": key, "at": time.time(), "text": text}
