"""What training descends: a loss over batches of examples, and what it is on examples held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from forgeline.models import Example
from forgeline.models.score import ROWS, batch_loss, token_losses, total_weight
from forgeline.tuning.examples import batches
from forgeline.tuning.team import Team

if TYPE_CHECKING:
    import torch


class Objective(Protocol):
    """A loss, the examples it is taken on, and those held out."""

    @property
    def model(self) -> Any:
        """The model whose weights are trained."""
        ...

    @property
    def examples(self) -> Sequence[Any]:
        """What is learned from."""
        ...

    def batches(self, size: int, seed: int, epoch: int) -> list[list[Any]]:
        """Return one epoch's batches, the same for the same seed and epoch."""
        ...

    def tokens(self, batch: Sequence[Any]) -> int:
        """Return how many tokens a batch has."""
        ...

    def share(self, part: Sequence[Any], batch: Sequence[Any]) -> torch.Tensor:
        """Return the loss of a part of a batch, differentiable; parts add up to the batch's mean loss."""
        ...

    def told(self) -> dict[str, float]:
        """Return what else was measured since this was last asked."""
        ...

    def validate(self, team: Team) -> dict[str, float]:
        """Return `validation_loss`, and what else is measured, on the examples held out."""
        ...


class Completions:
    """The cross-entropy of completions, in nats a token."""

    def __init__(self, model: Any, examples: Sequence[Example], held_out: Sequence[Example]) -> None:
        self.model: Any = model
        self.examples: Sequence[Example] = examples
        self._held_out = held_out

    def batches(self, size: int, seed: int, epoch: int) -> list[list[Example]]:
        """Return one epoch's batches, of similar length within a batch."""
        return batches(self.examples, size, seed, epoch)

    def tokens(self, batch: Sequence[Example]) -> int:
        """Return the tokens of prompts and completions."""
        return sum(map(len, batch))

    def share(self, part: Sequence[Example], batch: Sequence[Example]) -> torch.Tensor:
        """Return a part's share of the mean over a batch's tokens, by weight."""
        return batch_loss(self.model, part, total_weight(batch))

    def told(self) -> dict[str, float]:
        """Return nothing: the loss says it all."""
        return {}

    def validate(self, team: Team) -> dict[str, float]:
        """Return the mean loss of the held-out tokens, each process taking a share of them."""
        chunks = [list(self._held_out[start : start + ROWS]) for start in range(0, len(self._held_out), ROWS)]
        missing = -len(chunks) % team.size  # everyone runs as many, for weights are gathered together
        nats = tokens = 0.0
        for chunk in team.share(chunks + [[]] * missing):
            losses = token_losses(self.model, chunk or chunks[0])
            if chunk:
                nats, tokens = nats + losses.sum().item(), tokens + len(losses)
        nats, tokens = team.add(nats, tokens)
        return {"validation_loss": nats / tokens}
