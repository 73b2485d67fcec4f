"""When an engine fails, and what need not be asked again."""

from __future__ import annotations

from forgeline.config.schema.section import Section


class Ladder(Section):
    """What answers when the engine does not, in order."""


class Cache(Section):
    """Answers that are given again."""
