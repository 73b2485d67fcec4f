"""What goes in and out."""

from __future__ import annotations

from forgeline.config.schema.section import Section


class Guards(Section):
    """What is looked for in requests and replies, and what is done about it."""
