"""People in the loop: rows go out to be judged, and the decisions come back with who and when."""

from __future__ import annotations

from forgeline.data.review.decisions import Decision, decisions

__all__ = ["Decision", "decisions"]
