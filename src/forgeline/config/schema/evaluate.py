"""evaluate.yaml: how candidates are scored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from forgeline.config.schema.section import Positive, Section


class Evaluate(Section):
    """Greedy replies to the frozen test prompts, what is measured of them, and how sure that is.

    A sample or slice of fewer than `min_examples` says nothing. `power` is the probability with which a detectable
    difference is found. `metrics` maps a name to its options; a metric of one's own has a `class` (docs/evaluation.md).
    """

    max_prompts: Positive | None = None
    max_new_tokens: Positive = 64
    batch_size: Positive = 32
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    min_examples: Positive = 30
    sample_rows: Positive = 50
    metrics: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1)]
