"""What is known of a version: attached to its run at registration, gathered again whenever it is judged."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from forgeline.config.catalogue import permitted
from forgeline.config.schema import Config, Train
from forgeline.config.schema.policy import PEOPLE, PROBES
from forgeline.data.versions import DataVersion
from forgeline.errors import EvaluationError, ForgelineError
from forgeline.evaluation import Report, difference, evaluate, page, slice_differences, slices
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.slices import Slices
from forgeline.registry import loading, people, probes, promotion, tracking, versions
from forgeline.registry.gates import Evidence, Origin
from forgeline.registry.tracking import Run

DATA, CONFIG = "data.json", "config.json"


class Measured(BaseModel):
    """What was measured of a version after it was registered, stored as an artifact of its run.

    `at` is ISO 8601; `data_digest` is the dataset version that the measured version was made of.
    """

    at: str
    data_digest: str
    estimates: dict[str, Estimate]
    not_measured: dict[str, str] = {}


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

    A champion that was scored on other test prompts is scored again on this version's. Where that cannot be done,
    or the two were scored by other rules, the evidence says why there is no comparison.
    """
    project = config.project
    report = versions.report(project, version)
    data = DataVersion.model_validate_json(versions.artifact(project, version, DATA).read_text(encoding="utf-8"))
    champion = versions.champion(project)
    others, absent = {"base": versions.base_report(project, version)}, dict(report.not_measured)
    if champion is not None:
        try:
            others["champion"] = _champion_report(config, champion, report.test_digest, data)
        except ForgelineError as error:
            absent["champion"] = f"version {champion.number}, the champion, cannot be scored again: {error}"
    values: dict[str, Estimate | float] = {
        **report.metrics,
        "test_prompts": len(report.rows),
        "test_leakage": data.test_leakage,
        "unmasked_pii": data.unmasked_pii,
        "data_card": float(data.data_card),
        **data.bias,
        **tracking.costs(project, version.run_id),
    }
    permission, note = _permission(config, versions.train_settings(project, version))
    if permission is not None:
        values["license_permits_use"] = float(permission)
    evidence = Evidence(
        version=version.number,
        data_digest=data.digest,
        values=values,
        differences={},
        champion=champion.number if champion else None,
        approvals=promotion.approvals(config, version),
        origins=_scored(report, others, data.digest),
        absent=absent,
        notes={"license_permits_use": note},
        enough=config.evaluate.min_examples,
    )
    compare(config, report, others, evidence)
    _add(evidence, config, version, probes.PROBES, PROBES, f"`forgeline probe {version.number}` measures it")
    _add(evidence, config, version, people.PEOPLE, PEOPLE, "people judge it on blind sheets (`forgeline sheet export`)")
    return evidence


def compare(config: Config, report: Report, others: dict[str, Report], evidence: Evidence) -> None:
    """Add a report's differences to the others, and the slices that the policy's gates ask for.

    What cannot be compared or cut into slices goes to `absent`, with the sentence that says why.
    """
    settings, seed = config.evaluate, config.project.seed
    for name, other in others.items():
        try:
            evidence.differences[name] = difference(report, other, settings, seed)
        except EvaluationError as error:
            evidence.absent[name] = str(error)
    for name, gate in config.policy.gates.items():
        if gate.by is None or gate.evidence is None or (gate.against and gate.against not in evidence.differences):
            continue
        try:
            evidence.slices[name] = _slices(config, report, others.get(str(gate.against)), gate.by, gate.evidence)
        except EvaluationError as error:
            evidence.absent[name] = str(error)


def _slices(config: Config, report: Report, other: Report | None, by: str, measure: str) -> Slices:
    settings, seed = config.evaluate, config.project.seed
    if other is None:
        return slices(report, by, settings, seed, only=[measure])
    return slice_differences(report, other, by, settings, seed, only=[measure])


def _scored(report: Report, others: dict[str, Report], data_digest: str) -> dict[str, Origin]:
    """Return when the metrics, and the reports they are compared with, were made."""
    again = "`forgeline train` scores it again; evaluate.max_prompts says on how many prompts"
    made = dict.fromkeys(report.metrics, report.at) | {name: other.at for name, other in others.items()}
    return {name: Origin(at=at, data_digest=data_digest, again=again) for name, at in made.items()}


def _add(
    evidence: Evidence, config: Config, version: versions.Version, path: str, names: tuple[str, ...], again: str
) -> None:
    """Add what a command measured after registration, or the sentence that says how it is measured."""
    if not versions.has_artifact(config.project, version, path):
        evidence.absent.update(dict.fromkeys(names, f"it was not measured yet: {again}"))
        return
    text = versions.artifact(config.project, version, path).read_text(encoding="utf-8")
    found = Measured.model_validate_json(text)
    evidence.values.update(found.estimates)
    evidence.absent.update({name: f"{again}, but did not: {why}" for name, why in found.not_measured.items()})
    origin = Origin(at=found.at, data_digest=found.data_digest, again=again)
    evidence.origins.update(dict.fromkeys(found.estimates, origin))


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
    try:
        report = versions.report(config.project, champion)
        if report.test_digest == test_digest:
            return report
    except EvaluationError:  # written by an older Forgeline: scored again, as for other prompts
        pass
    subject = loading.subject(config, champion, f"version {champion.number}")
    test = config.root / data.paths["test"]
    return evaluate(subject, test, config.evaluate, config.project.seed)
