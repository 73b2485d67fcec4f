"""People in the loop: rows go out to be judged, and the decisions come back with who and when."""

from __future__ import annotations

from forgeline.data.review.agreement import Agreement, agreement
from forgeline.data.review.choice import Item, quarantined, rank, sample
from forgeline.data.review.decisions import Conflict, Decision, Imported, decisions, take_in
from forgeline.data.review.formats import FORMATS, Format, export, read

__all__ = [
    "FORMATS",
    "Agreement",
    "Conflict",
    "Decision",
    "Format",
    "Imported",
    "Item",
    "agreement",
    "decisions",
    "export",
    "quarantined",
    "rank",
    "read",
    "sample",
    "take_in",
]
