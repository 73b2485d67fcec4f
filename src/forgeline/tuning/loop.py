"""The training loop: from the last checkpoint to the end, the best validation loss, or a divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from forgeline.errors import TuningError
from forgeline.progress import Bar, progress_bar
from forgeline.tuning import checkpoint
from forgeline.tuning.allocator import kept_memory
from forgeline.tuning.checkpoint import Checkpoint
from forgeline.tuning.curve import Curve
from forgeline.tuning.descent import Descent
from forgeline.tuning.job import Job, Log
from forgeline.tuning.objective import Objective
from forgeline.tuning.team import Team
from forgeline.tuning.watch import best, diverged, exhausted


class Loop:
    """One job's training on one process of a team."""

    def __init__(self, objective: Objective, job: Job, team: Team, log: Log) -> None:
        self.objective, self.job, self.team = objective, job, team
        self.descent = Descent(objective.model, job.config)
        self.state = checkpoint.load(job.folder) or Checkpoint()
        if self.state.tensors:
            self.descent.restore(self.state.tensors)
        size = job.config.batch_size
        self.micro = size if job.config.micro_batch == "auto" else job.config.micro_batch
        self._log = log
        self._curve = Curve(job.folder, self.state.step) if team.leads else None

    def run(self) -> Checkpoint:
        """Train to the end; return the state there, with the best weights in the model."""
        config, state = self.job.config, self.state
        steps_per_epoch = math.ceil(len(self.objective.examples) / config.batch_size)
        total = steps_per_epoch * config.epochs
        shown = progress_bar("tune", total, unit="tokens") if self.team.leads else nullcontext(Bar())
        with kept_memory(), shown as progress:
            progress.advance(state.step)
            while state.step < total and not exhausted(state.validation, config.patience):
                epoch, offset = divmod(state.step, steps_per_epoch)
                for batch in self.objective.batches(config.batch_size, self.job.seed, epoch)[offset:]:
                    loss, tokens = self._step(batch, state.step, total)
                    progress.advance(1, amount=tokens, note=f"loss {loss:.3f}")
                    last = state.step == total
                    if last or (config.validate_steps and state.step % config.validate_steps == 0):
                        self._validate()
                        if not math.isfinite(state.validation[-1]):
                            state.losses[-1] = math.nan  # the last step has spoilt the weights
                            self._give_up(state.step - 1, total)
                    if last or state.step % config.checkpoint_steps == 0:
                        self._save()
                    if exhausted(state.validation, config.patience):
                        break
        if config.patience and min(state.validation) < state.validation[-1]:
            self.descent.set(state.best)
        return state

    def _step(self, batch: list[Any], step: int, total: int) -> tuple[float, int]:
        """Take one optimiser step, watch it and tell; return the loss and the tokens seen."""
        import torch

        config, state = self.job.config, self.state
        started = time.perf_counter()
        rate = config.learning_rate * _schedule(step, total, config.warmup)
        torch.manual_seed((self.job.seed + step) * 4096 + self.team.rank)  # a resumed run repeats a step's dropout
        loss = self._gradients(batch)
        norm = self.descent.step(rate)
        state.losses.append(loss if math.isfinite(norm) else math.nan)
        if (good := diverged(state.losses)) is not None:
            self._give_up(good, total)
        tokens, seconds = self.objective.tokens(batch), time.perf_counter() - started
        state.step, state.tokens, state.seconds = step + 1, state.tokens + tokens, state.seconds + seconds
        speed = {"tokens_per_second": tokens / seconds, "memory_gb": _memory()}
        self._tell({"loss": loss, "learning_rate": rate, "grad_norm": norm, **speed, **self.objective.told()})
        return loss, tokens

    def _gradients(self, batch: list[Any]) -> float:
        """Leave the gradient of a batch's mean loss in the weights; return that loss.

        Where the memory does not do for as many rows at once, half as many are tried.
        """
        import torch

        # A process without a row of its own takes part all the same: gathering weights needs everyone.
        mine = self.team.share(batch) or [replace(batch[0], weight=0.0)]
        # Sharded gradients are averaged over processes, and a sum is wanted.
        scale = self.team.size if self.team.shards else 1
        while True:
            try:
                loss = 0.0
                for start in range(0, len(mine), self.micro):
                    share = self.objective.share(mine[start : start + self.micro], batch)
                    (share * scale).backward()
                    loss += share.item()
                break
            except torch.OutOfMemoryError as error:
                self.descent.forget()
                self.objective.told()
                if self.micro == 1 or self.team.shards:
                    raise TuningError(
                        f"One step does not fit the GPU's memory with train.micro_batch={self.micro}: set "
                        "train.activation_checkpointing=true, or lower train.micro_batch or train.max_tokens. "
                        f"The last checkpoint is kept in {self.job.folder}."
                    ) from error
                self.micro //= 2
                torch.cuda.empty_cache()
        self.team.add_gradients(self.descent.gradients())
        return self.team.add(loss)[0]

    def _validate(self) -> None:
        """Take the validation loss; keep the weights if it is the best yet."""
        with quiet(self.objective.model):
            found = self.objective.validate(self.team)
        lowest = min(self.state.validation, default=math.inf)
        self.state.validation.append(found["validation_loss"])
        if self.job.config.patience and found["validation_loss"] < lowest:
            weights = {name: tensor for name, tensor in self.descent.snapshot().items() if name.startswith("weight.")}
            self.state.best = {name: tensor.clone() for name, tensor in weights.items()}
        self._tell(found)

    def _save(self) -> None:
        self.state.tensors = self.descent.snapshot()
        if self.team.leads:
            checkpoint.save(self.job.folder, self.state, good=best(self.state.losses))

    def _give_up(self, good: int, total: int) -> None:
        kept = checkpoint.drop(self.job.folder, after=good) if self.team.leads else None
        losses = self.state.losses
        what = f"has climbed to {losses[-1]:.2f} from {min(losses):.2f}"
        if not math.isfinite(losses[-1]):
            what = "is no longer a number"
        where = f"The last good checkpoint is kept: {kept}." if kept else "There is no checkpoint from before."
        raise TuningError(
            f"The loss {what} at step {len(losses)} of {total}: lower train.learning_rate "
            f"(now {self.job.config.learning_rate:g}). {where}"
        )

    def _tell(self, metrics: dict[str, float]) -> None:
        if self._curve is not None:
            self._curve.add(self.state.step, metrics)
            self._log(metrics, self.state.step)


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Switch dropout off for a while.

    bitsandbytes 0.50 repacks 4-bit layers on a CPU when it sees them in evaluation mode; from then on they
    give no gradient to their input, and training goes on learning next to nothing. They stay as they are.
    """
    model.eval()
    for layer in model.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.train()
    try:
        yield
    finally:
        model.train()


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then a cosine to zero."""
    ramp = max(1, round(total * warmup))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def _memory() -> float:
    """Return the memory in use, in GB: the process's, or a GPU's most so far."""
    import psutil
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    return float(psutil.Process().memory_info().rss / 1e9)
