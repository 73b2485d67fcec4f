"""Preference tuning: DPO on pairs of a better and a worse completion, KTO on completions with a thumb.

TRL computes the losses. The loop is ours: the one TRL comes with steps on a loss that is no number, and
writes its checkpoints in place, as pickles.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgeline.config.schema import Train
from forgeline.errors import DataError, TuningError
from forgeline.models import load_base
from forgeline.progress import progress_bar
from forgeline.records import write_json
from forgeline.tuning import checkpoint
from forgeline.tuning.judged import Judged, read_judged
from forgeline.tuning.methods import with_adapter
from forgeline.tuning.result import TunedModel

if TYPE_CHECKING:
    import torch

    from forgeline.tuning.rewards import Objective

VALIDATION_EXAMPLES = 200

Log = Callable[[dict[str, float], int], None]


def tune_preference(
    config: Train, train: Path, validation: Path, folder: Path, *, seed: int, root: Path, log: Log
) -> TunedModel:
    """Train a LoRA adapter by `config.method`, dpo or kto, into `folder/tuned`; contract and arguments as `tune`.

    The model starts as the base, or as the adapter `config.start`, and is kept close to that. Losses are
    the method's own. Beside what `tune` logs, there are the rewards that the model implies: `reward_liked`
    and `reward_disliked`, their difference `reward_margin`, and for pairs `reward_accuracy`, the share in
    which the better completion has the higher one. For the validation split they begin with `validation_`.

    Raises:
        DataError: if a split holds nothing the method can learn from.
        TuningError: if the settings do not go with the method, a record is too long, the start is not an
            adapter of this base, memory runs out, or the loss is no longer a number.
    """
    done = folder / "result.json"
    if done.exists():
        return TunedModel.model_validate_json(done.read_text())
    _check(config)
    base = load_base(config, root)
    learned = read_judged(train, base.tokenizer, config, config.max_examples, seed)
    held_out = read_judged(validation, base.tokenizer, config, VALIDATION_EXAMPLES, seed)
    kinds = Counter(example.label for example in learned.examples)
    if config.method == "kto" and len(kinds) == 1:
        raise DataError(
            f"{train}: all {len(learned.examples)} labelled records are {'liked' if kinds[True] else 'disliked'}; "
            "kto learns from the difference and needs both kinds."
        )
    model = _adapted(base.model, config, seed, root)

    from forgeline.tuning.rewards import Objective

    objective = Objective(config, base, model, learned.examples, folder)
    log({f"left_out_{reason}": count for reason, count in learned.left_out.items()}, 0)
    loss, state = _run(objective, learned.examples, held_out.examples, config, folder, seed, log)

    scores = _validate(objective, held_out.examples, _micro(config))
    log(scores, state.step)
    _save_adapter(model, base.tokenizer, folder / "tuned")
    result = TunedModel(
        path=(folder / "tuned").relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder / "tuned"),
        examples=len(learned.examples),
        steps=state.step,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        train_loss=loss,
        validation_loss=scores["validation_loss"],
    )
    write_json(folder / "records.json", learned.ids)
    done.write_text(result.model_dump_json(indent=2))
    checkpoint.clear(folder)
    return result


def _check(config: Train) -> None:
    if config.distributed.processes * config.distributed.nodes > 1:
        raise TuningError(f"train.method={config.method} trains in one process: set train.distributed.processes=1.")
    if config.patience is not None:
        raise TuningError(f"train.method={config.method} does not stop early: leave train.patience out.")
    if config.method == "kto" and _micro(config) == 1:
        raise TuningError("kto compares the examples of a batch: set train.batch_size and train.micro_batch above 1.")


def _adapted(model: Any, config: Train, seed: int, root: Path) -> Any:
    """Return the model with the adapter to go on from, or a new one; its weights are float32."""
    from peft import PeftModel
    from safetensors import SafetensorError

    if config.start is None:
        adapted = with_adapter(model, config, seed)
    else:
        folder = root / config.start
        if not (folder / "adapter_config.json").is_file():
            raise TuningError(f"train.start: {folder} holds no adapter (adapter_config.json is missing).")
        try:
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
            _holds_all(adapted, folder)
        except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TuningError(
                f"train.start: {folder} is damaged, or was made for another base than {config.model.source}: {reason}"
            ) from error
    for weight in adapted.parameters():
        if weight.requires_grad:  # steps of preference tuning are too small for bfloat16
            weight.data = weight.data.float()
    return adapted


def _holds_all(adapted: Any, folder: Path) -> None:
    """Raise ValueError unless the folder's adapter has exactly the weights that the model has places for."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        odd = {*file.keys()} ^ get_peft_model_state_dict(adapted).keys()
    if odd:
        raise ValueError(f"its weights do not fit this base's layers ({min(odd)})")


def _run(
    objective: Objective,
    examples: list[Judged],
    held_out: list[Judged],
    config: Train,
    folder: Path,
    seed: int,
    log: Log,
) -> tuple[float, checkpoint.Checkpoint]:
    """Train to the end from wherever the folder's checkpoint stands; return the last loss and the state."""
    import torch

    weights = {name: weight for name, weight in objective.model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=config.weight_decay, fused=True)
    steps_per_epoch = math.ceil(len(examples) / config.batch_size)
    total = steps_per_epoch * config.epochs
    state = checkpoint.load(folder) or checkpoint.Checkpoint(0, 0, 0.0, {})
    if state.tensors:
        _restore(state, weights, optimizer)

    loss = math.nan
    with progress_bar("tune", total, unit="tokens") as progress:
        progress.advance(state.step)
        while state.step < total:
            epoch, offset = divmod(state.step, steps_per_epoch)
            for batch in _batches(examples, config.batch_size, seed, epoch)[offset:]:
                started = time.perf_counter()
                rate = config.learning_rate * _schedule(state.step, total, config.warmup)
                loss, rewards = _gradient(objective, batch, optimizer, _micro(config))
                norm = torch.nn.utils.clip_grad_norm_(weights.values(), config.clip_norm).item()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise TuningError(
                        f"The loss is no longer a number at step {state.step + 1} of {total}: lower "
                        f"train.learning_rate (now {config.learning_rate:g}). The last checkpoint is kept in {folder}."
                    )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                tokens = sum(example.tokens for example in batch)
                seconds = time.perf_counter() - started
                state.step, state.tokens, state.seconds = state.step + 1, state.tokens + tokens, state.seconds + seconds
                speed = {"tokens_per_second": tokens / seconds}
                log({"loss": loss, "learning_rate": rate, "grad_norm": norm, **speed, **rewards}, state.step)
                progress.advance(1, amount=tokens, note=f"loss {loss:.3f}")
                if state.step % config.checkpoint_steps == 0 or state.step == total:
                    state.tensors = _snapshot(weights, optimizer)
                    checkpoint.save(folder, state)
                if config.validate_steps and state.step % config.validate_steps == 0 and state.step < total:
                    log(_validate(objective, held_out, _micro(config)), state.step)
    return loss, state


def _batches(examples: list[Judged], size: int, seed: int, epoch: int) -> list[list[Judged]]:
    """Return one epoch's batches, not sorted by length: that would part the liked from the disliked."""
    shuffled = random.Random(f"{seed}/{epoch}").sample(examples, len(examples))
    return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]


def _gradient(
    objective: Objective, batch: Sequence[Judged], optimizer: torch.optim.Optimizer, micro: int
) -> tuple[float, dict[str, float]]:
    """Leave the gradient of a batch's mean loss in the weights; return that loss and the rewards."""
    import torch

    objective.model.train()
    optimizer.zero_grad()
    loss, rewards = 0.0, []
    try:
        for start in range(0, len(batch), micro):
            part = batch[start : start + micro]
            mean, found = objective.loss(part)
            share = mean * (len(part) / len(batch))
            share.backward()
            loss += share.item()
            rewards += found
    except torch.OutOfMemoryError as error:
        raise TuningError(
            f"The GPU's memory is too small for {micro} examples at once: lower train.micro_batch, or set "
            "train.activation_checkpointing=true."
        ) from error
    return loss, objective.averaged(rewards)


def _validate(objective: Objective, examples: Sequence[Judged], micro: int) -> dict[str, float]:
    """Return the mean loss and rewards of held-out examples."""
    import torch

    objective.model.eval()
    loss, rewards = 0.0, []
    order = sorted(examples, key=len)
    with torch.no_grad():
        for start in range(0, len(order), micro):
            part = order[start : start + micro]
            mean, found = objective.loss(part)
            loss += mean.item() * len(part) / len(order)
            rewards += found
    scores = {"loss": loss, **objective.averaged(rewards)}
    return {f"validation_{name}": score for name, score in scores.items()}


def _micro(config: Train) -> int:
    return config.batch_size if config.micro_batch == "auto" else min(config.micro_batch, config.batch_size)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then a cosine to zero, as in `tune`."""
    ramp = max(1, round(total * warmup))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def _snapshot(weights: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {f"weight.{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[weight].items()}
    return tensors


def _restore(state: checkpoint.Checkpoint, weights: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    for name, weight in weights.items():
        weight.data.copy_(state.tensors[f"weight.{name}"])
        optimizer.state[weight] = {
            key: state.tensors[f"{key}.{name}"].to("cpu" if key == "step" else weight.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }


def _save_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    partial = folder.with_name("tuned.part")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, selected_adapters=["default"])  # not the reference's
    tokenizer.save_pretrained(partial)  # the chat template travels with the adapter
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
