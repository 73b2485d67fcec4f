"""What every key of `configs/*.yaml` means. Each section is one file of the same name."""

from __future__ import annotations

from pathlib import Path

from forgeline.config.schema.approaches import Approaches, Candidate, Knowledge, Prompt, Recommend, Retriever
from forgeline.config.schema.cost import Cost, Machine
from forgeline.config.schema.data import (
    Assess,
    Association,
    Clean,
    Column,
    Data,
    Fetch,
    Format,
    Mitigate,
    NearDuplicates,
    Pii,
    PiiKind,
    Repair,
    Resample,
    Reweigh,
    Rule,
    Shape,
    Source,
    Split,
    TextMeasure,
)
from forgeline.config.schema.evaluate import Evaluate
from forgeline.config.schema.licenses import License
from forgeline.config.schema.optimise import Optimise
from forgeline.config.schema.policy import Gate, Policy
from forgeline.config.schema.probes import Probes
from forgeline.config.schema.project import Project, Stores
from forgeline.config.schema.section import Bound, Measure, Positive, Section, Share
from forgeline.config.schema.serve import Guards, Parity, Sampling, Serve
from forgeline.config.schema.sweep import Choice, Range, Sweep
from forgeline.config.schema.train import Distributed, Lora, Method, Model, Preference, Scratch, Template, Train
from forgeline.lineage import value_digest

__all__ = [
    "SECTIONS",
    "Approaches",
    "Assess",
    "Association",
    "Bound",
    "Candidate",
    "Choice",
    "Clean",
    "Column",
    "Config",
    "Cost",
    "Data",
    "Distributed",
    "Evaluate",
    "Fetch",
    "Format",
    "Gate",
    "Guards",
    "Knowledge",
    "License",
    "Lora",
    "Machine",
    "Measure",
    "Method",
    "Mitigate",
    "Model",
    "NearDuplicates",
    "Optimise",
    "Parity",
    "Pii",
    "PiiKind",
    "Policy",
    "Positive",
    "Preference",
    "Probes",
    "Project",
    "Prompt",
    "Range",
    "Recommend",
    "Repair",
    "Resample",
    "Retriever",
    "Reweigh",
    "Rule",
    "Sampling",
    "Scratch",
    "Section",
    "Serve",
    "Shape",
    "Share",
    "Source",
    "Split",
    "Stores",
    "Sweep",
    "Template",
    "TextMeasure",
    "Train",
]


class Config(Section):
    """The whole configuration and the folder it was read from."""

    root: Path
    profile: str | None = None
    project: Project
    data: Data
    train: Train
    evaluate: Evaluate
    policy: Policy
    serve: Serve
    licenses: dict[str, License]
    cost: Cost
    sweep: Sweep
    optimise: Optimise
    approaches: Approaches
    probes: Probes

    def digest(self) -> str:
        """Return the sha256 of every value that shapes a version, wherever the project lies.

        A version that is an approach keeps what it is of approaches.yaml itself.
        """
        beside = {"root", "profile", "licenses", "cost", "sweep", "optimise", "approaches", "probes"}
        return value_digest(self.model_dump(mode="json", exclude=beside))


SECTIONS = (
    *("project", "data", "train", "evaluate", "policy", "serve"),
    *("licenses", "cost", "sweep", "optimise", "approaches", "probes"),
)
