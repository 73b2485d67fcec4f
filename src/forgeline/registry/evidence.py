"""What is known of a version: attached to its run at registration, gathered again whenever it is judged."""

from __future__ import annotations

import json
from pathlib import Path

from forgeline.config.catalogue import permitted
from forgeline.config.schema import Config, Train
from forgeline.data.versions import DataVersion
from forgeline.evaluation import Report, difference, evaluate, page
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.subjects import Local
from forgeline.models import load_tuned
from forgeline.registry import versions
from forgeline.registry.gates import Evidence
from forgeline.registry.tracking import Run

DATA, CONFIG = "data.json", "config.json"


def attach(run: Run, config: Config, data: DataVersion, base_report: Path, report: Path) -> None:
    """Store with a candidate's run what its gates will ask for: settings, data version and card, reports."""
    run.settings(config.model_dump(mode="json", exclude={"root"}), CONFIG)
    run.settings(data.model_dump(mode="json"), DATA)
    run.settings(json.loads(base_report.read_text(encoding="utf-8")), versions.BASE_REPORT)
    run.settings(json.loads(report.read_text(encoding="utf-8")), versions.REPORT)
    run.artifact((config.root / data.paths["card"]).parent, "data_card")
    run.artifact(_page(config, base_report, report), "evaluation")


def gather(config: Config, version: versions.Version) -> Evidence:
    """Return the evidence on a version, with its differences to base and to today's champion.

    A champion that was scored on other test prompts is scored again on this version's.
    """
    project = config.project
    report = versions.report(project, version)
    data = DataVersion.model_validate_json(versions.artifact(project, version, DATA).read_text(encoding="utf-8"))
    base = versions.base_report(project, version)
    differences = {"base": difference(report, base, config.evaluate, project.seed)}
    champion = versions.champion(project)
    if champion is not None:
        theirs = _champion_report(config, champion, report.test_digest, data)
        differences["champion"] = difference(report, theirs, config.evaluate, project.seed)
    values: dict[str, Estimate | float] = {
        **report.metrics,
        "test_prompts": len(report.rows),
        "test_leakage": data.test_leakage,
        "unmasked_pii": data.unmasked_pii,
        "data_card": float(data.data_card),
        **data.bias,
    }
    permission, note = _permission(config, versions.train_settings(project, version))
    if permission is not None:
        values["license_permits_use"] = float(permission)
    return Evidence(
        values=values,
        differences=differences,
        champion=champion.number if champion else None,
        notes={"license_permits_use": note},
    )


def _page(config: Config, base_report: Path, report: Path) -> Path:
    """Write the candidate's page, beside the base model, into a folder that lives as long as its report."""
    folder = report.parent / report.stem
    own, base = Report.read(report), Report.read(base_report)
    return page.write(own, [base], folder / "report.html", config.evaluate, config.project.seed)


def _permission(config: Config, train: Train) -> tuple[bool | None, str]:
    """Return whether the base model's licence permits the use case, None if unknown, and what was looked at."""
    use, name = config.project.use, train.model.license
    if train.method == "scratch":
        return True, "a model of our own, without a base"
    permission = permitted(config.licenses, name, use)
    if permission is None:
        return None, f"the licence {name} of {train.model.source} is not in configs/licenses.yaml"
    return permission, f"{name}, for {use} use"


def _champion_report(config: Config, champion: versions.Version, test_digest: str, data: DataVersion) -> Report:
    report = versions.report(config.project, champion)
    if report.test_digest == test_digest:
        return report
    folder = versions.tuned_folder(config.project, champion)
    language_model = load_tuned(versions.train_settings(config.project, champion), folder, config.root)
    test = config.root / data.paths["test"]
    subject = Local(f"version {champion.number}", language_model, config.evaluate.batch_size)
    return evaluate(subject, test, config.evaluate, config.project.seed)
