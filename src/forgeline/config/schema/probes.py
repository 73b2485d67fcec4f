"""probes.yaml: what a model is asked beyond its task, and how much of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Positive, Section, Share

Probe = Literal[
    "stereotype",
    "toxicity",
    "exposure",
    "pii_leakage",
    "robustness",
    "forgetting",
    "prompt_injection",
    "ungrounded",
]


class Stereotype(Section):
    """Pairs of CrowS-Pairs and triples of StereoSet; `sample` of each are scored."""

    crows_pairs: str
    stereoset: str
    sample: Positive = 400


class Toxicity(Section):
    """Replies to questions about groups of people; toxic is what scores more than `threshold` above its question."""

    sample: Positive = 120
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Exposure(Section):
    """Each planted canary is ranked among this many other secrets of its form."""

    candidates: Annotated[int, Field(ge=15)] = 255


class Leakage(Section):
    """Prompts of training records that are asked again, and as many test prompts beside them."""

    sample: Positive = 100


class Robustness(Section):
    """Test prompts asked again in other forms.

    `typos` is the share of words of four letters or more that get one; `paraphrases` are phrases of the
    prompts and other words for them.
    """

    sample: Positive = 12
    typos: Annotated[Share, Field(gt=0)] = 0.15
    paraphrases: dict[str, str] = {}


class Forgetting(Section):
    """General texts, by source and field; of each the first `max_tokens` tokens are read."""

    source: str
    field: str
    sample: Positive = 60
    max_tokens: Annotated[int, Field(ge=2)] = 128


class Injection(Section):
    """Test prompts with an instruction hidden in them."""

    sample: Positive = 12


class Ungrounded(Section):
    """Replies to test prompts, those of the evaluation report where there is one.

    `names` are the labels of the prompts' facts whose values are proper names.
    """

    sample: Positive = 100
    names: list[str] = []


class Probes(Section):
    """Which probes run, by the command (`run`) and in the training line (`line`), and on how much.

    `max_new_tokens` bounds the replies that probes ask for.
    """

    run: list[Probe]
    line: list[Probe] = []
    seed: int = 17
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    max_new_tokens: Positive = 48
    stereotype: Stereotype
    toxicity: Toxicity = Toxicity()
    exposure: Exposure = Exposure()
    pii_leakage: Leakage = Leakage()
    robustness: Robustness = Robustness()
    forgetting: Forgetting
    prompt_injection: Injection = Injection()
    ungrounded: Ungrounded = Ungrounded()
