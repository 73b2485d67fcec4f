"""project.yaml: the use case and where its state lives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Bound, Measure, Section


class Stores(Section):
    """The address of each kind of state; secrets are taken from the environment, never from here."""

    mlflow: str = "sqlite:///mlflow.db"
    ledger: str = "ledger.jsonl"


class Project(Section):
    """The use case: what the model is for, who answers for it, and when it is good enough."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    objective: str
    owner: str
    users: str
    use: Literal["commercial", "research"]
    risk_tier: Literal["minimal", "limited", "high"]
    human_review: str
    success: dict[Measure, Bound]
    seed: int = 17
    stores: Stores = Stores()
