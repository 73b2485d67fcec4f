"""policy.yaml: what a candidate must show to be promoted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Bound, Measure, Section

# Evidence that every version has; beside it there is a piece for each metric of evaluate.yaml.
EVIDENCE = (
    *("test_prompts", "test_leakage", "unmasked_pii", "data_card", "license_permits_use"),
    *("counterfactual_gap", "association_gap", "tone_gap", "length_disparity", "label_disparity"),
)


class Gate(Bound):
    """One rule over one piece of evidence, or over its difference to the base or the champion.

    With `confident`, the whole confidence interval must lie within the bounds; an interval that
    straddles a bound is unknown, and unknown blocks.
    """

    evidence: Measure
    against: Literal["base", "champion"] | None = None
    confident: bool = False


class Policy(Section):
    """Every gate must pass before the champion alias moves."""

    gates: Annotated[dict[str, Gate], Field(min_length=1)]
