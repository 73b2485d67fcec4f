"""A search for better training settings: each trial is a training run in a folder of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from forgeline.config.load import overlay
from forgeline.config.schema import Range, Sweep, Train
from forgeline.errors import ModelError, TuningError
from forgeline.lineage import value_digest
from forgeline.records import write_json
from forgeline.tuning.job import Log
from forgeline.tuning.result import TunedModel
from forgeline.tuning.tune import tune

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# This many trials are drawn at random before the search leans on what they showed.
RANDOM_TRIALS = 5
# A proposal that was tried before teaches nothing: so often another one is asked for.
PROPOSALS = 100


class Trial(BaseModel):
    """One training run of a search: its values by dotted key, and how it ended.

    A failed trial has the reason, a finished one its model, with the validation loss that is compared.
    """

    number: int
    values: dict[str, Any]
    state: Literal["running", "finished", "failed"] = "running"
    reason: str | None = None
    tuned: TunedModel | None = None

    @property
    def loss(self) -> float:
        """The validation loss in nats a token; infinite without one."""
        return self.tuned.validation_loss if self.tuned else math.inf

    def __str__(self) -> str:
        """Return the values, and how it ended."""
        values = ", ".join(f"{key.removeprefix('train.')} {value}" for key, value in self.values.items())
        if self.tuned:
            return f"{values}: validation loss {self.loss:.3f} in {self.tuned.seconds / 60:.1f} min"
        return f"{values}: {self.state}{f': {self.reason}' if self.reason else ''}"


Watch = Callable[[Trial], AbstractContextManager[Log]]


def search(
    config: Train,
    sweep: Sweep,
    train: Path,
    validation: Path,
    folder: Path,
    *,
    seed: int,
    root: Path,
    watch: Watch,
) -> Iterator[Trial]:
    """Yield each trial once it has ended, those that an earlier search in the folder ended included.

    Values come from a tree-structured Parzen estimator (Bergstra et al., 2011) as Optuna implements it.
    A trial's depend on `sweep.seed`, its number and the trials before it alone, so an interrupted
    search proposes what an uninterrupted one would. The trial that was interrupted goes on in its
    folder, with its values. A trial that fails is kept with the reason, and shows the estimator where
    not to look. A space with fewer combinations than `sweep.trials` ends the search early.

    Args:
        config: what every trial has in common.
        sweep: how many trials, and of what.
        train: the records to learn from.
        validation: the records whose loss decides.
        folder: the search's own; one folder, one configuration and dataset.
        seed: of each trial's sample, order and weights.
        root: the project folder, which relative model sources start from.
        watch: opened around each trial that trains; gives what each of its steps is logged to.

    Raises:
        TuningError: if a checkpoint cannot be written: that is not the values' fault.
    """
    ended: list[Trial] = []
    for number in range(1, sweep.trials + 1):
        home = folder / f"trial-{number:03d}"
        note = home / "trial.json"
        if note.exists():
            trial = Trial.model_validate_json(note.read_text(encoding="utf-8"))
        else:
            values = _propose(config, sweep, number, ended)
            if values is None:
                return
            trial = Trial(number=number, values=values)
            write_json(note, trial.model_dump(mode="json"))
        if trial.state == "running":
            settings = overlay(config, trial.values)
            trial = _train(trial, settings, watch, train, validation, home, seed=seed, root=root)
            write_json(note, trial.model_dump(mode="json"))
        ended.append(trial)
        yield trial


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials by validation loss, the failed ones last.

    Raises:
        TuningError: if all failed.
    """
    ranked = sorted(trials, key=lambda trial: trial.loss)
    if ranked[0].state == "failed":
        raise TuningError(f"All {len(trials)} trials of the sweep failed, the first because: {trials[0].reason}")
    return ranked


def _train(
    trial: Trial, settings: Train, watch: Watch, train: Path, validation: Path, home: Path, *, seed: int, root: Path
) -> Trial:
    """Return the trial as it ended."""
    from safetensors import SafetensorError

    try:
        with watch(trial) as log:
            tuned = tune(settings, train, validation, home, seed=seed, root=root, log=log)
            if not math.isfinite(tuned.validation_loss):
                raise TuningError("The validation loss is not a number: lower train.learning_rate.")
            log({"train_seconds": tuned.seconds, "train_tokens_per_second": tuned.tokens_per_second}, tuned.steps)
    except (TuningError, ModelError) as error:
        if isinstance(error.__cause__, SafetensorError):  # the disk is full
            raise
        return trial.model_copy(update={"state": "failed", "reason": str(error)})
    return trial.model_copy(update={"state": "finished", "tuned": tuned})


def _propose(config: Train, sweep: Sweep, number: int, ended: Sequence[Trial]) -> dict[str, Any] | None:
    """Return the values of a trial that none before had, or None if the space seems to hold no others."""
    import optuna
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: _distribution(config, key, given) for key, given in sweep.space.items()}
    seed = int(value_digest([sweep.seed, number])[:8], 16)
    study = optuna.create_study(sampler=TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed))
    for trial in ended:
        params = {key: _position(given, trial.values[key]) for key, given in sweep.space.items()}
        # A pruned trial without a value counts as worse than any with one; a failed one would be forgotten.
        state = TrialState.COMPLETE if trial.tuned else TrialState.PRUNED
        loss = trial.loss if trial.tuned else None
        study.add_trial(create_trial(params=params, distributions=space, value=loss, state=state))
    tried = [trial.values for trial in ended]
    for _ in range(PROPOSALS):
        params = study.ask(space).params
        values = {key: _value(given, params[key]) for key, given in sweep.space.items()}
        if values not in tried:
            return values
    return None


def _distribution(config: Train, key: str, given: Range | list[Any]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(given, list):
        return CategoricalDistribution(range(len(given)))  # which of them: Optuna keeps no lists
    if given.low.is_integer() and given.high.is_integer():
        try:
            overlay(config, {key: given.low + 0.5})
        except ValidationError:
            return IntDistribution(int(given.low), int(given.high), log=given.log)
    return FloatDistribution(given.low, given.high, log=given.log)


def _value(given: Range | list[Any], position: Any) -> Any:
    """Return what a proposed position stands for; three digits are as exact as a person would write."""
    if isinstance(given, list):
        return given[position]
    if isinstance(position, int):
        return position
    return min(max(float(f"{position:.3g}"), given.low), given.high)


def _position(given: Range | list[Any], value: Any) -> Any:
    return given.index(value) if isinstance(given, list) else value
