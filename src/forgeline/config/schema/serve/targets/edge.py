"""serve.yaml, targets.edge: a package for devices without Python."""

from __future__ import annotations

from typing import Literal

from forgeline.config.schema.section import Section


class Edge(Section):
    """In which weights the package is written; `forgeline optimise` must have admitted that variant."""

    weights: Literal["f16", "q8_0", "q4_0"] = "q8_0"
