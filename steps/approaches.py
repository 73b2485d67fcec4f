"""The comparison of approaches: each evaluation an MLflow run within the comparison's; the winner as a version."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from zenml import get_step_context, step

from forgeline.config.schema import Config
from forgeline.data.versions import DataVersion
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, approaches_page
from forgeline.evaluation import evaluate as score
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.approaches import Comparison, Outcome, recommend, taken
from forgeline.evaluation.score import test_records
from forgeline.evaluation.subjects import Local
from forgeline.lineage import value_digest
from forgeline.models import LanguageModel, load_base, load_tuned
from forgeline.prompting import Approach, Prompter, knowledge
from forgeline.records import write_json
from forgeline.registry import evidence, loading, prompts, tracking, versions
from steps import cache
from steps.training import Tuned

WORK = cache.WORK / "approaches"
STORES = WORK / "stores"

Models = Callable[[str], LanguageModel]  # "base" or "tuned"


@step(enable_cache=False)
def compare(
    data: DataVersion, config: Config, names: list[str], tuned: Tuned | None = None
) -> Annotated[Comparison, "comparison"]:
    """Score the named approaches, those anew that changed, on the same prompts and budget, and choose one."""
    project, evaluate, rule = config.project, config.evaluate, config.approaches.recommend
    key = value_digest(["approaches", data.hashes["test"], evaluate.digest(), cache.approaches()])
    models = _models(config, tuned)
    with tracking.run(project, f"approaches-{key[:8]}", key, {"forgeline.kind": "approaches"}) as run:
        run.reads(data, "test")
        run.settings(config.approaches.model_dump(mode="json"), "approaches.json")
        outcomes = []
        stores = set()
        for name in names:
            prompter = _prompter(data, config, prompts.approach(project, config.approaches, name))
            stores |= {prompter.store.path} if prompter.store else set()
            outcome = _assess(data, config, prompter, models, tuned, run.run_id)
            outcomes.append(outcome)
            print(f"{name}: " + ", ".join(f"{metric} {found}" for metric, found in outcome.metrics.items()))
        reports = {one.approach.name: Report.read(Path(one.report)) for one in outcomes}
        comparison = Comparison(
            outcomes=outcomes,
            recommendation=recommend(outcomes, reports, rule, evaluate, project.seed),
            test_prompts=len(next(iter(reports.values())).rows),
            run_id=run.run_id,
            page=str(WORK / "comparison.html"),
        )
        run.artifact(approaches_page.write(Path(comparison.page), comparison, reports, rule.metric))
        run.settings(comparison.model_dump(mode="json"), "comparison.json")
    for path in set(STORES.glob("*.db")) - stores:  # an old one may hold what was erased since
        path.unlink()
    print(comparison.recommendation.reason)
    return comparison


@step(enable_cache=False)
def register(
    data: DataVersion, config: Config, comparison: Comparison, base_report: str, tuned: Tuned | None = None
) -> Annotated[versions.Version, "version"]:
    """Register the recommended approach as a version, with all that it came from and all that serves it."""
    project, chosen = config.project, comparison.recommendation
    outcome = next((one for one in comparison.outcomes if one.approach.name == chosen.approach), None)
    if outcome is None:
        raise EvaluationError(f"{chosen.reason} Nothing was registered: change approaches.recommend.")
    prompter = _prompter(data, config, outcome.approach)
    with (
        TemporaryDirectory() as temporary,
        tracking.run(project, outcome.approach.name, outcome.key, {}) as run,
    ):
        folder = Path(temporary)
        zenml_run = str(get_step_context().pipeline_run.id)
        lineage = versions.Lineage.of(config, data, outcome.key, run.run_id, zenml_run)
        run.tags(lineage.tags())
        evidence.attach(run, config, data, Path(base_report), Path(outcome.report))
        run.artifact(prompter.save(folder / loading.APPROACH), loading.APPROACH)
        shown = prompter.store.example_ids() if prompter.store else []
        if outcome.approach.model == "tuned" and tuned is not None:
            run.tags({"forgeline.tuned_by": tuned.run_id})
            run.artifact(Path(tuned.model.path), "tuned")
            shown += json.loads((Path(tuned.model.path).parent / "records.json").read_text(encoding="utf-8"))
        else:
            load_base(config.train, Path.cwd()).tokenizer.save_pretrained(folder / "tuned")
            run.artifact(folder / "tuned", "tuned")
        write_json(folder / "records.json", sorted(set(shown)))
        run.artifact(folder / "records.json", "training")
    prompts.mark(project, outcome.approach.prompt_version)
    version = versions.register(project, lineage, outcome.approach.name)
    print(f"registered {version.name} version {version.number}: {outcome.approach.name}")
    return version


def _assess(
    data: DataVersion, config: Config, prompter: Prompter, models: Models, tuned: Tuned | None, parent: str
) -> Outcome:
    """Return what an approach scores and takes, from its last evaluation if nothing about it changed."""
    project, evaluate, approach = config.project, config.evaluate, prompter.approach
    train = config.train
    model = tuned.key if tuned and approach.model == "tuned" else [train.model.model_dump(), train.dtype, train.bits]
    budget = [evaluate.digest(), config.approaches.latency_prompts]
    key = value_digest([prompter.digest(), data.hashes["test"], model, budget, cache.approaches()])
    path, report_path = _folder(key) / "outcome.json", _folder(key) / "report.json"
    if path.exists():
        return Outcome.model_validate_json(path.read_bytes()).priced(config.cost)
    tags = {
        "forgeline.kind": "approach",
        "forgeline.approach": approach.name,
        "forgeline.prompt": approach.prompt_version,
        "forgeline.data": data.digest,
    }
    with tracking.run(project, approach.name, key, tags, parent=parent) as run:
        run.reads(data, "test")
        if approach.examples:
            run.reads(data, "train")
        run.params(approach.model_dump(mode="json"))
        subject = Approached(Local(approach.name, models(approach.model), evaluate.batch_size), prompter)
        report = score(subject, Path(data.paths["test"]), evaluate, project.seed)
        report.save(report_path)
        asked = [record.prompt for record in test_records(Path(data.paths["test"]), evaluate.max_prompts, project.seed)]
        outcome = Outcome(
            approach=approach,
            key=key,
            report=str(report_path),
            metrics=report.metrics,
            asked=subject.rewritten(asked[0]),
            taken=taken(subject, report, asked, config.approaches.latency_prompts, evaluate.max_new_tokens),
            tuning_seconds=tuned.model.seconds if tuned and approach.model == "tuned" else 0.0,
        ).priced(config.cost)
        run.evaluation(report, evaluate.sample_rows)
        run.metrics({**outcome.taken.metrics(), "money_per_1000": outcome.money})
    write_json(path, outcome.model_dump(mode="json"))
    return outcome


def _prompter(data: DataVersion, config: Config, approach: Approach) -> Prompter:
    splits = [Path(data.paths[name]) for name in ("train", "validation", "test")]
    store = knowledge.store(config, approach, splits[0], splits[1:], STORES)
    return Prompter(approach, store)


def _models(config: Config, tuned: Tuned | None) -> Models:
    """Return what loads the base or the tuned model, and keeps the last one."""

    @lru_cache(maxsize=1)
    def load(which: str) -> LanguageModel:
        if which == "tuned" and tuned is not None:
            return load_tuned(config.train, Path(tuned.model.path), Path.cwd())
        return load_base(config.train, Path.cwd())

    return load


def _folder(key: str) -> Path:
    return WORK / key[:16]
