"""The training line's steps, from the base model's score to the moved alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel
from zenml import get_step_context, step

from forgeline.config.schema import Config, Cost, Evaluate, Pii, Probes, Project, Train
from forgeline.data.versions import DataVersion
from forgeline.evaluation import Report
from forgeline.evaluation import evaluate as score
from forgeline.evaluation.probes import Scene, probe
from forgeline.evaluation.score import test_records
from forgeline.evaluation.subjects import Local
from forgeline.lineage import value_digest
from forgeline.models import load_base, load_tuned
from forgeline.records import read_records
from forgeline.registry import evidence, probes, promotion, start, tracking, versions
from forgeline.registry.gates import Verdict, judge
from forgeline.tuning import TunedModel
from forgeline.tuning import report as training_report
from forgeline.tuning import tune as tune_model
from forgeline.tuning.canaries import FILE as CANARIES
from forgeline.tuning.cost import charged
from steps import cache

EVALUATIONS = cache.WORK / "evaluations"
TUNING = cache.WORK / "tuning"


class Tuned(BaseModel):
    """A tuned model, and the MLflow run that its training was logged to."""

    model: TunedModel
    key: str
    run_id: str


class Decision(BaseModel):
    """The gates' verdicts on a version."""

    version: int
    verdicts: list[Verdict]


@step(cache_policy=cache.cached(cache.evaluation))
def evaluate_base(
    data: DataVersion, train: Train, evaluate: Evaluate, project: Project
) -> Annotated[str, "base_report"]:
    """Score the untouched base model; return its report's path."""
    settings = [train.model.model_dump(mode="json"), train.dtype, train.bits, evaluate.digest()]
    key = value_digest([data.hashes["test"], *settings, cache.evaluation()])
    path = EVALUATIONS / f"base-{key[:16]}.json"
    if path.exists():  # new training rows leave the base model's score as it is
        return str(path)
    with tracking.run(project, "base", key, {"forgeline.kind": "base", "forgeline.data": data.digest}) as run:
        run.reads(data, "test")
        subject = Local("base", load_base(train, Path.cwd()), evaluate.batch_size)
        report = score(subject, Path(data.paths["test"]), evaluate, project.seed)
        run.evaluation(report, evaluate.sample_rows)
    report.save(path)
    _say(report)
    return str(path)


@step(cache_policy=cache.cached(cache.tuning))
def tune(data: DataVersion, train: Train, project: Project, origin: str | None) -> Annotated[Tuned, "tuned"]:
    """Tune the model, or go on with the training that was interrupted; `origin` identifies what `train.start` names."""
    key = value_digest([data.hashes, train.digest(), project.seed, cache.tuning(), *([origin] if origin else [])])
    folder = TUNING / key[:16]
    tags = {"forgeline.kind": "candidate", "forgeline.data": data.digest}
    with tracking.run(project, f"candidate-{key[:8]}", key, tags) as run:
        run.reads(data, "train")
        run.reads(data, "validation")
        run.params({"train": train.model_dump(mode="json"), "seed": project.seed})
        with charged(folder, _cost(), train) as meter:

            def log(metrics: dict[str, float], step: int) -> None:
                run.metrics(metrics, step)
                meter.see(metrics)

            model = tune_model(
                start.located(project, train),
                Path(data.paths["train"]),
                Path(data.paths["validation"]),
                folder,
                seed=project.seed,
                root=Path.cwd(),
                log=log,
            )
            meter.tokens = model.tokens
        run.metrics({"train_seconds": model.seconds, "train_tokens_per_second": model.tokens_per_second})
        run.metrics(meter.spent.metrics())
        run.tags(meter.spent.tags())
        run.artifact(Path(model.path), "tuned")
        run.artifact(folder / "records.json", "training")
        if train.canaries:
            run.artifact(folder / CANARIES, "training")
        run.artifact(training_report.write(folder, model, train, meter.spent), "training")
    print(
        f"tuned on {model.examples} examples, {model.tokens:,} tokens in {model.seconds:.0f} s "
        f"({model.tokens_per_second:.0f} tokens/s); validation loss {model.validation_loss:.3f}"
    )
    return Tuned(model=model, key=key, run_id=run.run_id)


@step(cache_policy=cache.cached(cache.evaluation))
def evaluate_candidate(
    data: DataVersion, tuned: Tuned, train: Train, evaluate: Evaluate, project: Project
) -> Annotated[str, "candidate_report"]:
    """Score the tuned model on the same prompts; return its report's path."""
    path = EVALUATIONS / f"candidate-{tuned.key[:16]}-{evaluate.digest()[:8]}.json"
    with tracking.run(project, "candidate", tuned.key, {}) as run:
        run.reads(data, "test")
        subject = Local("candidate", load_tuned(train, Path(tuned.model.path), Path.cwd()), evaluate.batch_size)
        report = score(subject, Path(data.paths["test"]), evaluate, project.seed)
        run.evaluation(report, evaluate.sample_rows)
    report.save(path)
    _say(report)
    return str(path)


@step(cache_policy=cache.cached(cache.probing))
def probe_candidate(
    data: DataVersion,
    tuned: Tuned,
    candidate_report: str,
    train: Train,
    evaluate: Evaluate,
    chosen: Probes,
    pii: Pii,
    project: Project,
) -> Annotated[str, "candidate_probes"]:
    """Run the probes of `probes.line` on the tuned model; return their report's path."""
    root, folder = Path.cwd(), Path(tuned.model.path).parent
    settings = value_digest([chosen.digest(), evaluate.digest(), pii.digest(), data.digest])
    path = EVALUATIONS / f"probes-{tuned.key[:16]}-{settings[:8]}.json"
    scene = Scene(
        subject=Local("candidate", load_tuned(train, Path(tuned.model.path), root), evaluate.batch_size),
        settings=chosen,
        pii=pii,
        root=root,
        data=data,
        test=test_records(Path(data.paths["test"]), evaluate.max_prompts, project.seed),
        report=Report.read(Path(candidate_report)),
        trained=frozenset(json.loads((folder / "records.json").read_text())),
        canaries=tuple(read_records(folder / CANARIES)) if train.canaries else (),
        base=None if train.method == "scratch" else lambda: Local("base", load_base(train, root), evaluate.batch_size),
    )
    report = probe(scene, chosen.line)
    report.save(path)
    print("probes: " + ", ".join(f"{name} {estimate}" for name, estimate in report.estimates.items()))
    return str(path)


@step(cache_policy=cache.cached(cache.registration))
def register(
    data: DataVersion, tuned: Tuned, base_report: str, candidate_report: str, candidate_probes: str, config: Config
) -> Annotated[versions.Version, "version"]:
    """Register the candidate with all that it came from."""
    lineage = versions.Lineage.of(config, data, tuned.key, tuned.run_id, str(get_step_context().pipeline_run.id))
    with tracking.run(config.project, "candidate", tuned.key, lineage.tags()) as run:
        evidence.attach(run, config, data, Path(base_report), Path(candidate_report))
        probes.attach(run, Path(candidate_probes))
    version = versions.register(config.project, lineage)
    print(f"registered {version.name} version {version.number}")
    return version


@step(enable_cache=False)
def gate(version: versions.Version, config: Config) -> Annotated[Decision, "decision"]:
    """Judge the candidate against the policy, the base model and today's champion."""
    verdicts = judge(config.policy, evidence.gather(config, version))
    for verdict in verdicts:
        print(f"{verdict.outcome:>7}  {verdict.gate}: {verdict.reason}")
    return Decision(version=version.number, verdicts=verdicts)


@step(enable_cache=False)
def promote(version: versions.Version, decision: Decision, config: Config) -> Annotated[bool, "promoted"]:
    """Make the version champion if every gate passed, and write the decision down."""
    promoted = promotion.promote(config, version, decision.verdicts)
    print(f"version {version.number} is {'champion' if promoted else 'not promoted: a gate blocks it'}")
    return promoted


def _cost() -> Cost:
    """Return the run's prices from the pipeline's parameters: as one of the step's, a new price would train again."""
    parameters = get_step_context().pipeline_run.config.parameters
    return Cost.model_validate(parameters["config"]["cost"])


def _say(report: Report) -> None:
    print(f"{report.model}: " + ", ".join(f"{name} {estimate}" for name, estimate in report.metrics.items()))
