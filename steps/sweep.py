"""The search for better training settings, each trial an MLflow run within the sweep's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel
from zenml import step

from forgeline.config.schema import Project, Sweep, Train
from forgeline.data.versions import DataVersion
from forgeline.lineage import value_digest
from forgeline.registry import tracking
from forgeline.tuning import sweep as sweeps
from forgeline.tuning.job import Log
from steps import cache

SWEEPS = cache.WORK / "sweeps"


class Searched(BaseModel):
    """A search's trials, best first, and the MLflow run that holds theirs."""

    trials: list[sweeps.Trial]
    run_id: str


@step(cache_policy=cache.cached(cache.tuning))
def search(data: DataVersion, train: Train, sweep: Sweep, project: Project) -> Annotated[Searched, "searched"]:
    """Try settings, or go on with the search that was interrupted or had fewer trials."""
    what = sweep.model_dump(mode="json", exclude={"trials"})  # more of them continue the same search
    key = value_digest([data.hashes, train.digest(), what, project.seed, cache.tuning()])
    tags = {"forgeline.data": data.digest}

    @contextmanager
    def watch(trial: sweeps.Trial) -> Iterator[Log]:
        print(f"trial {trial.number} of {sweep.trials}: {trial}")
        kind = {**tags, "forgeline.kind": "trial"}
        with tracking.run(project, f"trial-{trial.number}", f"{key}-{trial.number}", kind, parent=run.run_id) as nested:
            nested.reads(data, "train")
            nested.reads(data, "validation")
            nested.params(trial.values)
            yield nested.metrics

    with tracking.run(project, f"sweep-{key[:8]}", key, {**tags, "forgeline.kind": "sweep"}) as run:
        run.reads(data, "train")
        run.reads(data, "validation")
        run.settings({"train": train.model_dump(mode="json"), "sweep": sweep.model_dump(mode="json")}, "settings.json")
        trials = []
        for trial in sweeps.search(
            train,
            sweep,
            Path(data.paths["train"]),
            Path(data.paths["validation"]),
            SWEEPS / key[:16],
            seed=project.seed,
            root=Path.cwd(),
            watch=watch,
        ):
            print(f"trial {trial.number} of {sweep.trials}: {trial}")
            trials.append(trial)
        ranked = sweeps.best_first(trials)
        run.metrics({"validation_loss": ranked[0].loss})
        run.settings({"trials": [trial.model_dump(mode="json") for trial in ranked]}, "trials.json")
    return Searched(trials=ranked, run_id=run.run_id)
