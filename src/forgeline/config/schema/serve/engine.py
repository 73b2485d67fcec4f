"""What turns messages into tokens."""

from __future__ import annotations

from typing import Literal

from forgeline.config.schema.section import Section


class Engine(Section):
    """The engine behind the gateway."""

    name: Literal["transformers"] = "transformers"
    # transformers: more adapters on the bundle's base, served under these names; bundles or adapters' folders.
    adapters: dict[str, str] = {}
