"""A bundle in other forms: each is made, held against the bundle, and its cost measured beside the others'."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Config
from forgeline.config.schema.optimise import TensorrtForm
from forgeline.data.layout import SPLITS
from forgeline.errors import ForgelineError, ServingError
from forgeline.evaluation.bootstrap import Difference
from forgeline.evaluation.score import test_records
from forgeline.records import write_json
from forgeline.serving.admission import Judge
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.optimise import tensorrt
from forgeline.serving.optimise.candidates import Candidate, built, parent
from forgeline.serving.optimise.race import Cost, race
from forgeline.serving.variant import TRIAL

FOLDER = Path(".forgeline/optimise")
COMPARISON = "comparison.json"
State = Literal["parent", "admitted", "refused", "absent", "recipe"]


class Outcome(BaseModel):
    """What became of one form: `why` says of what is refused or absent for what reason.

    `value` is the first admission metric's, `difference` that to the bundle's own replies, paired by prompt.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    state: State
    why: str = ""
    folder: str = ""
    digest: str = ""
    runtime: str = ""
    bytes: int = 0
    value: float | None = None
    difference: Difference | None = None
    cost: Cost | None = None


class Comparison(BaseModel):
    """All forms of one bundle, its own first; `metric` is what quality is told by, on so many prompts."""

    model_config = ConfigDict(frozen=True)
    bundle: str
    version: str
    metric: str
    test_prompts: int
    clients: tuple[int, ...]
    rounds: int
    outcomes: list[Outcome]


def optimise(config: Config, bundle: Path, prompts: Sequence[list[dict[str, str]]]) -> Comparison:
    """Make what optimise.yaml names of a bundle, judge each by `policy.admission`, and measure what it costs.

    `prompts` are the parity check's. Quality is measured again only if something it depends on changed, cost each time:
    times of different days do not compare. A form that cannot be made or run here is told of, and the others go on.

    Raises:
        ServingError: if the bundle was altered.
    """
    manifest, settings = verify(bundle, config.serve.signing), config.optimise
    judge = Judge(config, bundle, manifest, prompts)
    metric = str(next(iter(config.policy.admission.values())).evidence)
    own = parent(config, bundle, manifest)
    outcomes = {own.name: Outcome(name=own.name, state="parent", digest=manifest.digest, runtime=own.runtime)}
    candidates = {own.name: own}
    for name, form in settings.variants.items():
        try:
            if isinstance(form, TensorrtForm):
                outcomes[name] = _recipe(config, bundle, manifest, name, form)
                continue
            candidate = built(config, bundle, manifest, name, form)
            outcomes[name] = _judged(judge, candidate, metric)
            candidates[name] = candidate
        except ForgelineError as fault:
            outcomes[name] = Outcome(name=name, state="absent", why=str(fault))
        print(f"{name}: {outcomes[name].state} {outcomes[name].why}".strip(), flush=True)
    asked = test_records(config.root / SPLITS["test"], settings.prompts, config.project.seed)
    engines = {name: candidate.engine() for name, candidate in candidates.items()}
    costs, failed = asyncio.run(race(engines, [record.prompt for record in asked], settings))
    for name, candidate in candidates.items():
        update = {"folder": str(candidate.folder), "bytes": candidate.bytes, "cost": costs.get(name)}
        if name in failed:
            update |= {"state": "absent", "why": failed[name]}
        outcomes[name] = outcomes[name].model_copy(update=update)
        if candidate.variant and name in costs:
            write_json(candidate.folder / TRIAL, outcomes[name].model_dump(mode="json"))
    value = judge.own.metrics[metric]
    outcomes[own.name] = outcomes[own.name].model_copy(update={"value": value.value})
    comparison = Comparison(
        bundle=manifest.digest,
        version=manifest.lineage.version,
        metric=metric,
        test_prompts=value.n,
        clients=settings.clients,
        rounds=settings.rounds,
        outcomes=list(outcomes.values()),
    )
    folder = _folder(config.root, bundle)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / COMPARISON, comparison.model_dump(mode="json"))
    return comparison


def kept(root: Path, bundle: Path) -> Comparison:
    """Return a bundle's last comparison.

    Raises:
        ServingError: if there is none.
    """
    path = _folder(root, bundle) / COMPARISON
    if not path.is_file():
        raise ServingError(f"Nothing was measured of the variants of {bundle.name}: run `forgeline optimise`.")
    return Comparison.model_validate_json(path.read_bytes())


def page_of(root: Path, bundle: Path) -> Path:
    """Return where a bundle's comparison is written as a page."""
    return _folder(root, bundle) / "comparison.html"


def _judged(judge: Judge, candidate: Candidate, metric: str) -> Outcome:
    assert candidate.variant is not None  # noqa: S101
    subjects = candidate.subject(), candidate.alone()
    admission = judge.admit(candidate.folder, candidate.variant, candidate.runtime, *subjects)
    return Outcome(
        name=candidate.name,
        state="refused" if admission.refusal else "admitted",
        why=admission.refusal or "",
        digest=candidate.variant.digest,
        runtime=candidate.runtime,
        value=admission.values[metric]["value"],
        difference=Difference.model_validate(admission.differences[metric]),
    )


def _recipe(config: Config, bundle: Path, manifest: Manifest, name: str, form: TensorrtForm) -> Outcome:
    from forgeline.serving.bundle import load

    language_model = load(bundle, config.root, manifest)
    files = tensorrt.recipe(language_model.model.config, form, config.project.name)
    folder = _folder(config.root, bundle) / name
    tensorrt.write(files, folder)
    return Outcome(name=name, state="recipe", why="not run: it needs an NVIDIA GPU", folder=str(folder))


def _folder(root: Path, bundle: Path) -> Path:
    return root / FOLDER / bundle.resolve().name
