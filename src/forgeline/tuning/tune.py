"""Tuning: seeded, checkpointed, resumed where it stopped."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgeline.config.schema import Train
from forgeline.errors import TuningError
from forgeline.models import Example, load_base
from forgeline.models.score import completion_losses, mean_loss, token_losses
from forgeline.progress import progress_bar
from forgeline.records import write_json
from forgeline.tuning import checkpoint
from forgeline.tuning.examples import batches, read_examples
from forgeline.tuning.methods import trainable
from forgeline.tuning.result import TunedModel

if TYPE_CHECKING:
    import torch

VALIDATION_EXAMPLES = 200

Log = Callable[[dict[str, float], int], None]


def tune(config: Train, train: Path, validation: Path, folder: Path, *, seed: int, root: Path, log: Log) -> TunedModel:
    """Train a LoRA adapter into `folder/tuned`, going on from the last checkpoint there.

    `folder/records.json` names the records it was trained on.

    Args:
        config: base model, adapter shape and budget.
        train: the records to learn from.
        validation: the records whose loss is reported at the end.
        folder: the run's own folder; one folder, one configuration and dataset.
        seed: of the sample, the order, the adapter's initial weights and dropout.
        root: the project folder, which relative model sources start from.
        log: called after each step with loss, learning rate, gradient norm and tokens a second.

    Raises:
        TuningError: if there is nothing to train on, or the loss is no longer a number.
    """
    if config.method in {"dpo", "kto"}:
        from forgeline.tuning.preference import tune_preference

        return tune_preference(config, train, validation, folder, seed=seed, root=root, log=log)
    done = folder / "result.json"
    if done.exists():
        return TunedModel.model_validate_json(done.read_text())
    base = load_base(config, root)
    examples, ids = read_examples(train, base.tokenizer, config.max_examples, config.max_tokens, seed)
    held_out, _ = read_examples(validation, base.tokenizer, VALIDATION_EXAMPLES, config.max_tokens, seed)
    model = trainable(base.model, config, seed)
    loss, state = _run(model, examples, config, folder, seed, base.tokenizer.pad_token_id, log)

    model.eval()
    losses = completion_losses(model, held_out, base.tokenizer.pad_token_id)
    validation_loss = sum(nats for nats, _ in losses) / sum(tokens for _, tokens in losses)
    log({"validation_loss": validation_loss}, state.step)
    _save_adapter(model, base.tokenizer, folder / "tuned")
    result = TunedModel(
        path=(folder / "tuned").relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder / "tuned"),
        examples=len(examples),
        steps=state.step,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        train_loss=loss,
        validation_loss=validation_loss,
    )
    write_json(folder / "records.json", ids)
    done.write_text(result.model_dump_json(indent=2))
    checkpoint.clear(folder)
    return result


def _run(
    model: Any, examples: list[Example], config: Train, folder: Path, seed: int, pad_id: int, log: Log
) -> tuple[float, checkpoint.Checkpoint]:
    """Train to the end from wherever the folder's checkpoint stands; return the last loss and the state."""
    import torch

    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    masters = {name: weight.detach().float().clone() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(masters.values(), weight_decay=config.weight_decay, fused=True)
    steps_per_epoch = math.ceil(len(examples) / config.batch_size)
    total = steps_per_epoch * config.epochs
    state = checkpoint.load(folder) or checkpoint.Checkpoint(0, 0, 0.0, {})
    if state.tensors:
        _restore(state, weights, masters, optimizer)

    loss = math.nan
    with progress_bar("tune", total, unit="tokens") as progress:
        progress.advance(state.step)
        while state.step < total:
            epoch, offset = divmod(state.step, steps_per_epoch)
            for batch in batches(examples, config.batch_size, seed, epoch)[offset:]:
                started = time.perf_counter()
                rate = config.learning_rate * _schedule(state.step, total, config.warmup)
                loss, norm = _step(model, batch, pad_id, weights, masters, optimizer, rate, config, seed + state.step)
                if not math.isfinite(loss):
                    raise TuningError(
                        f"The loss is no longer a number at step {state.step + 1} of {total}: lower "
                        f"train.learning_rate (now {config.learning_rate:g}). The last checkpoint is kept in {folder}."
                    )
                tokens = sum(map(len, batch))
                seconds = time.perf_counter() - started
                state.step, state.tokens, state.seconds = state.step + 1, state.tokens + tokens, state.seconds + seconds
                log(
                    {"loss": loss, "learning_rate": rate, "grad_norm": norm, "tokens_per_second": tokens / seconds},
                    state.step,
                )
                progress.advance(1, amount=tokens, note=f"loss {loss:.3f}")
                if state.step % config.checkpoint_steps == 0 or state.step == total:
                    state.tensors = _snapshot(masters, optimizer)
                    checkpoint.save(folder, state)
    return loss, state


def _step(
    model: Any,
    batch: list[Example],
    pad_id: int,
    weights: dict[str, Any],
    masters: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    rate: float,
    config: Train,
    seed: int,
) -> tuple[float, float]:
    """Take one optimiser step on the weighted mean loss of a batch's completion tokens; return it and its norm."""
    import torch

    torch.manual_seed(seed)  # dropout depends on the step alone, so a resumed run repeats it
    loss = mean_loss(token_losses(model, batch, pad_id), batch)
    loss.backward()
    for name, weight in weights.items():
        masters[name].grad = weight.grad.float()
        weight.grad = None
    norm = torch.nn.utils.clip_grad_norm_(masters.values(), config.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(masters[name])
    return loss.item(), norm.item()


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then a cosine to zero."""
    ramp = max(1, round(total * warmup))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def _snapshot(masters: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {f"weight.{name}": master for name, master in masters.items()}
    for name, master in masters.items():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[master].items()}
    return tensors


def _restore(
    state: checkpoint.Checkpoint, weights: dict[str, Any], masters: dict[str, Any], optimizer: torch.optim.Optimizer
) -> None:
    import torch

    with torch.no_grad():
        for name, master in masters.items():
            master.copy_(state.tensors[f"weight.{name}"])
            weights[name].copy_(master)
            optimizer.state[master] = {
                key: state.tensors[f"{key}.{name}"].to(master.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
            }


def _save_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    partial = folder.with_name("tuned.part")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)  # the chat template travels with the adapter
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
