"""What is seen of the traffic: metrics, traces, logs, interactions."""

from __future__ import annotations

from forgeline.config.schema.section import Section


class Seen(Section):
    """What is kept of each request, where and for how long."""
