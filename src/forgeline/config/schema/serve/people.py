"""Where people look: feedback, reviews, webhooks, batches."""

from __future__ import annotations

from forgeline.config.schema.section import Section


class People(Section):
    """What people may say of replies, which replies must wait for one, and who is told."""
