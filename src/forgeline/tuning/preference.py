"""Preference tuning: DPO on pairs of a better and a worse completion, KTO on completions with a thumb.

TRL computes the losses. The loop is ours: the one TRL comes with steps on a loss that is no number, and
writes its checkpoints in place, as pickles.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgeline.config.schema import Train
from forgeline.errors import DataError, TuningError
from forgeline.models import LanguageModel
from forgeline.tuning.job import VALIDATION_EXAMPLES, Job
from forgeline.tuning.judged import Judged, Judgements, read_judged
from forgeline.tuning.methods import with_adapter
from forgeline.tuning.team import Team

if TYPE_CHECKING:
    import torch


class Preferences:
    """The loss of DPO or KTO, and the rewards that the model implies.

    The model starts as the base, or as the adapter `config.start`, and is kept close to that. Beside the
    loss there are `reward_liked` and `reward_disliked`, their difference `reward_margin`, and for pairs
    `reward_accuracy`, the share in which the better completion has the higher one; for the validation split
    they begin with `validation_`.
    """

    def __init__(self, config: Train, base: LanguageModel, learned: Judgements, held_out: Judgements, job: Job) -> None:
        """Put TRL's loss around the adapted model.

        Raises:
            DataError: if the method cannot learn from what is there.
            ModelError: if the start is not an adapter of this base.
        """
        kinds = Counter(example.label for example in learned.examples)
        if config.method == "kto" and len(kinds) == 1:
            raise DataError(
                f"{job.train}: all {len(learned.examples)} labelled records are "
                f"{'liked' if kinds[True] else 'disliked'}; kto learns from the difference and needs both kinds."
            )
        from forgeline.tuning.rewards import Loss

        self.examples: Sequence[Judged] = learned.examples
        self._held_out = held_out.examples
        self.model: Any = with_adapter(base.model, config, job.seed, job.root).train()
        for weight in self.model.parameters():
            if weight.requires_grad:  # steps of preference tuning are too small for bfloat16
                weight.data = weight.data.float()
        self._loss = Loss(config, base, self.model, self.examples, job.folder)
        self._micro = int(config.micro_batch)
        self._rewards: list[tuple[str, float, int]] = []

    @staticmethod
    def read(path: Path, base: LanguageModel, job: Job) -> Judgements:
        """Return the judgements of a split; raise DataError if it holds none, TuningError if one is too long."""
        limit = job.config.max_examples if path == job.train else VALIDATION_EXAMPLES
        return read_judged(path, base.tokenizer, job.config, limit, job.seed)

    def batches(self, size: int, seed: int, epoch: int) -> list[list[Judged]]:
        """Return one epoch's batches, not sorted by length: that would part the liked from the disliked."""
        shuffled = random.Random(f"{seed}/{epoch}").sample(self.examples, len(self.examples))
        return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]

    def tokens(self, batch: Sequence[Judged]) -> int:
        """Return the tokens of all sequences."""
        return sum(example.tokens for example in batch)

    def share(self, part: Sequence[Judged], batch: Sequence[Judged]) -> torch.Tensor:
        """Return a part's share of a batch's mean loss."""
        mean, rewards = self._loss(part)
        self._rewards += rewards
        return mean * (len(part) / len(batch))

    def told(self) -> dict[str, float]:
        """Return the mean rewards of the batch."""
        rewards, self._rewards = self._rewards, []
        return self._loss.averaged(rewards)

    def validate(self, team: Team) -> dict[str, float]:
        """Return the mean loss and rewards of held-out examples."""
        import torch

        loss, rewards = 0.0, []
        order = sorted(self._held_out, key=len)
        with torch.no_grad():
            for start in range(0, len(order), self._micro):
                part = order[start : start + self._micro]
                mean, found = self._loss(part)
                loss += mean.item() * len(part) / len(order)
                rewards += found
        scores = {"loss": loss, **self._loss.averaged(rewards)}
        return {f"validation_{name}": score for name, score in scores.items()}


def check(config: Train) -> None:
    """Raise TuningError if the settings do not go with the method."""
    if config.distributed.processes * config.distributed.nodes > 1:
        raise TuningError(f"train.method={config.method} trains in one process: set train.distributed.processes=1.")
    if config.method == "kto" and 1 in {config.batch_size, config.micro_batch}:
        raise TuningError("kto compares the examples of a batch: set train.batch_size and train.micro_batch above 1.")
