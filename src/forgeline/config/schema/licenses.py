"""licenses.yaml: what the licences of base models permit."""

from __future__ import annotations

from forgeline.config.schema.section import Section


class License(Section):
    """Whether a licence permits commercial use and research, and on which conditions, in a sentence."""

    commercial: bool
    research: bool
    conditions: str
