"""Does the bundle say what the training-side model says? Through the template and decode loop that serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from forgeline.errors import ServingError
from forgeline.models import LanguageModel
from forgeline.prompting import Prompter
from forgeline.serving.bundle import Manifest, load, prompter
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.engines.prompt import encode
from forgeline.serving.engines.transformers import answer

if TYPE_CHECKING:
    import torch


class Comparison(BaseModel):
    """One prompt: both greedy replies, and the largest absolute difference of the next-token logits."""

    model_config = ConfigDict(frozen=True)
    prompt: list[dict[str, str]]
    reference: str
    bundle: str
    logit_difference: float


class ParityReport(BaseModel):
    """What was compared, and how strictly."""

    model_config = ConfigDict(frozen=True)
    tolerance: float
    max_tokens: int
    comparisons: list[Comparison]

    @property
    def replies(self) -> list[str]:
        """The bundle's greedy replies, in the order of the prompts."""
        return [comparison.bundle for comparison in self.comparisons]


@dataclass(frozen=True)
class Side:
    """A model and what rewrites its requests, if anything does."""

    model: LanguageModel
    prompter: Prompter | None


def check(
    reference: LanguageModel,
    bundle: Path,
    root: Path,
    prompts: list[list[dict[str, str]]],
    tolerance: float,
    max_tokens: int,
    approach: Prompter | None = None,
    verified: Manifest | None = None,
) -> ParityReport:
    """Return how closely a bundle repeats the model, and the `approach`, that was evaluated.

    `prompts` are chat messages; `tolerance` bounds the logits at each prompt's last position.
    `verified` is the bundle's manifest, if it was just verified.

    Raises:
        ServingError: naming the first prompt whose reply or logits differ, and by how much.
    """
    evaluated, candidate = Side(reference, approach), Side(load(bundle, root, verified), prompter(bundle))
    comparisons = [_compare(evaluated, candidate, prompt, max_tokens) for prompt in prompts]
    for number, found in enumerate(comparisons, start=1):
        # Not `>`: logits that are not numbers must not pass.
        if found.reference != found.bundle or not found.logit_difference <= tolerance:
            raise ServingError(
                f"Bundle {bundle} is not the model that was evaluated: on parity prompt {number} of {len(prompts)} "
                f"the logits differ by {found.logit_difference:.4g} (tolerance {tolerance:g}); the evaluated model "
                f"says {found.reference!r}, the bundle {found.bundle!r}."
            )
    return ParityReport(tolerance=tolerance, max_tokens=max_tokens, comparisons=comparisons)


def _compare(
    reference: Side,
    candidate: Side,
    prompt: list[dict[str, str]],
    max_tokens: int,
) -> Comparison:
    difference = (_last_logits(reference, prompt) - _last_logits(candidate, prompt)).abs().max()
    return Comparison(
        prompt=prompt,
        reference=_reply(reference, prompt, max_tokens),
        bundle=_reply(candidate, prompt, max_tokens),
        logit_difference=float(difference),
    )


def _last_logits(side: Side, prompt: list[dict[str, str]]) -> torch.Tensor:
    import torch

    ids = torch.tensor([encode(side.model.tokenizer, prompt, side.prompter).tokens], device=side.model.device)
    with torch.inference_mode():
        logits: torch.Tensor = side.model.model(input_ids=ids, logits_to_keep=1).logits
    return logits[0, -1].float().cpu()


def _reply(side: Side, prompt: list[dict[str, str]], max_tokens: int) -> str:
    request = GenerationRequest(messages=prompt, max_tokens=max_tokens, temperature=0)
    return "".join(piece.text for piece in answer(side.model, request, side.prompter))
