"""policy.yaml: what a candidate must show to be promoted, and an engine of other arithmetic to be deployed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.section import Days, Measure, Section

# What `forgeline probe` measures of a version.
PROBES = (
    *("crows_pairs", "stereoset_lms", "stereoset_ss", "stereoset_icat", "toxicity", "exposure", "pii_leakage"),
    *(
        "robustness_typos",
        "robustness_case",
        "robustness_paraphrase",
        "forgetting",
        "prompt_injection",
        "ungrounded",
        "verbatim",
    ),
)
# What people say of a version on blind sheets.
PEOPLE = ("human_win_rate", "human_agreement")
# Evidence that there is beside a piece for each metric of evaluate.yaml.
EVIDENCE = (
    *("test_prompts", "test_leakage", "unmasked_pii", "data_card", "license_permits_use"),
    *("counterfactual_gap", "association_gap", "tone_gap", "length_disparity", "label_disparity"),
    *("cost_seconds", "cost_processor_seconds", "cost_tokens", "cost_kwh", "cost_co2_kg", "cost_peak_memory_gb"),
    *("cost_money", *PEOPLE, *PROBES),
)


class Gate(Section):
    """One rule: a piece of evidence within bounds, or the approval of a role.

    What has a confidence interval must lie within the bounds with all of it; an interval that straddles a bound
    is unknown, and unknown blocks. `against` judges the difference to the base or the champion, or of an engine to the
    bundle that it serves; `margin` bounds by how much it may be worse. `by` judges every slice that has enough
    examples. Evidence older than `max_age_days` is unknown.
    """

    evidence: Measure | None = None
    approval: Annotated[str, Field(pattern=r"^[a-z][\w-]*$")] | None = None
    against: Literal["base", "champion", "bundle"] | None = None
    by: str | None = None
    min: float | None = None
    max: float | None = None
    margin: Annotated[float, Field(ge=0)] | None = None
    max_age_days: Days | None = None

    @model_validator(mode="after")
    def _is_one_rule(self) -> Gate:
        given = self.model_dump(exclude_none=True)
        if self.approval is not None:
            if beside := given.keys() - {"approval"}:
                raise ValueError(f"an approval is given by a person: {', '.join(sorted(beside))} cannot bound it")
        elif self.evidence is None:
            raise ValueError("evidence or approval must be given")
        elif self.margin is not None and (self.against is None or given.keys() & {"min", "max"}):
            raise ValueError("a margin says how much worse than something: give against, and no min or max")
        elif not given.keys() & {"min", "max", "margin"}:
            raise ValueError("min, max or both must be given, or a margin")
        return self


class Policy(Section):
    """Every gate must pass before the champion alias moves.

    Those of `admission` must pass before an engine that computes otherwise than its bundle serves it: bounds on metrics
    of its replies, or on their difference to the bundle's own.
    """

    gates: Annotated[dict[str, Gate], Field(min_length=1)]
    admission: Annotated[dict[str, Gate], Field(min_length=1)] = {
        "bleu_keeps_up_with_bundle": Gate(evidence="bleu", against="bundle", margin=2)
    }

    @model_validator(mode="after")
    def _compares_what_is_there(self) -> Policy:
        for name, gate in self.gates.items():
            if gate.against == "bundle":
                raise ValueError(f"gates: {name}: only an engine is compared with its bundle: move it to admission")
        for name, gate in self.admission.items():
            if gate.evidence is None or gate.against in {"base", "champion"} or gate.by or gate.max_age_days:
                raise ValueError(f"admission: {name}: bound a metric of the engine's replies, or give against: bundle")
        return self
