"""Tuning: seeded, checkpointed, resumed where it stopped, alone or by a team of processes."""

from __future__ import annotations

from pathlib import Path

from forgeline.config.schema import Train
from forgeline.errors import TuningError
from forgeline.models import LanguageModel, base_folder, encode_example, load_base, save_tuned
from forgeline.models.footprint import PREFERENCES
from forgeline.models.load import outline
from forgeline.models.prefix import shared_prefix
from forgeline.records import write_json, write_jsonl
from forgeline.tuning import checkpoint
from forgeline.tuning.canaries import FILE, planted
from forgeline.tuning.examples import read_examples
from forgeline.tuning.job import VALIDATION_EXAMPLES, Job, Log
from forgeline.tuning.methods import trainable
from forgeline.tuning.objective import Completions, Objective
from forgeline.tuning.preference import Preferences, check
from forgeline.tuning.result import TunedModel
from forgeline.tuning.room import Room
from forgeline.tuning.scratch import new_model
from forgeline.tuning.team import Team
from forgeline.tuning.watch import exhausted


def tune(config: Train, train: Path, validation: Path, folder: Path, *, seed: int, root: Path, log: Log) -> TunedModel:
    """Train by `config.method` into `folder/tuned`, going on from the last checkpoint there.

    `folder/records.json` names the records it was trained on, `folder/canaries.jsonl` holds what was planted
    among them, `folder/curve.jsonl` the curve.

    Args:
        config: base model, method and budget.
        train: the records to learn from.
        validation: the records whose loss says how well that went.
        folder: the run's own folder; one folder, one configuration and dataset.
        seed: of the sample, the order, the initial weights and dropout.
        root: the project folder, which relative model sources start from.
        log: called after each step with loss, learning rate, gradient norm, tokens a second and memory, and
            with each validation loss.

    Raises:
        TuningError: if there is nothing to train on, or training diverges.
        ModelError: if the base model cannot be trained so.
    """
    job = Job(config=config, train=train, validation=validation, folder=folder, seed=seed, root=root)
    done = folder / "result.json"
    if not done.exists():
        if config.method in PREFERENCES:
            check(config)
        if config.distributed.processes * config.distributed.nodes > 1:
            from forgeline.tuning.launch import launch

            launch(job, log)
        else:
            work(job, Team(), log)
    return TunedModel.model_validate_json(done.read_text())


def work(job: Job, team: Team, log: Log) -> None:
    """Do this process's part of a job; the leader writes `result.json` when all is done."""
    from forgeline.tuning.loop import Loop

    folder, room = job.folder, Room.of(job.config)
    base = _base(job, room)
    _fits_context(job.config, base)
    objective, ids, config = _objective(job, base, room)
    team.shard(objective.model)
    loop = Loop(objective, job.model_copy(update={"config": config}), team, log)
    state = loop.run()
    weights = loop.descent.whole_weights() if team.shards else None
    if not team.leads:
        return
    path = folder / "tuned"
    save_tuned(objective.model, base.tokenizer, path, weights)
    write_json(folder / "records.json", ids)
    if canaries := planted(job):
        write_jsonl(folder / FILE, (canary.model_dump(mode="json") for canary in canaries))
    result = TunedModel(
        path=path.relative_to(job.root).as_posix() if path.is_relative_to(job.root) else str(path),
        examples=len(objective.examples),
        steps=state.step,
        tokens=state.tokens,
        seconds=round(state.seconds, 3),
        train_loss=state.losses[-1],
        validation_loss=min(state.validation) if config.patience else state.validation[-1],
        stopped_early=exhausted(state.validation, config.patience),
    )
    write_json(folder / "result.json", result.model_dump(mode="json"))
    checkpoint.clear(folder)


def _base(job: Job, room: Room) -> LanguageModel:
    """Return the model to train, once its weights are known to fit."""
    config = job.config
    if config.method == "scratch":
        return new_model(config, job.train, job.root, job.seed)
    outlined = outline(base_folder(config.model, job.root), trust_remote_code=config.model.trust_remote_code)
    room.cut(outlined.config, config, [1], 0)
    return load_base(config, job.root)


def _objective(job: Job, base: LanguageModel, room: Room) -> tuple[Objective, list[str], Train]:
    """Return what a method descends, the ids of the records it learns from, and the settings cut to fit."""
    config = job.config
    if config.method in PREFERENCES:
        learned, unseen = (Preferences.read(path, base, job) for path in (job.train, job.validation))
        config = room.cut(base.model.config, config, [len(example) for example in learned.examples], 0)
        return Preferences(config, base, learned, unseen, job), learned.ids, config
    examples, ids = read_examples(job.train, base.tokenizer, config.max_examples, config, job.seed)
    held_out, _ = read_examples(job.validation, base.tokenizer, VALIDATION_EXAMPLES, config, job.seed)
    examples += [encode_example(base.tokenizer, canary) for canary in planted(job)]
    shared = shared_prefix([example.prompt for example in examples])
    config = room.cut(base.model.config, config, [len(example) for example in examples], shared)
    return Completions(trainable(base.model, config, job.seed, job.root), examples, held_out), ids, config


def _fits_context(config: Train, base: LanguageModel) -> None:
    context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and config.max_tokens > context:
        raise TuningError(
            f"train.max_tokens is {config.max_tokens}, but the model reads at most {context} tokens: "
            f"set train.max_tokens={context} or less."
        )
