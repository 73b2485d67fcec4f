"""Who may."""

from __future__ import annotations

from typing import Literal

from forgeline.config.schema.section import Section

Role = Literal["caller", "reviewer", "operator", "auditor", "admin"]


class Access(Section):
    """Who may ask what of the gateway; every route is closed to those without its role."""

    anonymous: tuple[Role, ...] = ()
