"""The deployment line's steps, from a registered version to a recorded deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from zenml import step

from forgeline.config.schema import Config
from forgeline.config.schema.serve.engine import Openvino
from forgeline.data.layout import SPLITS
from forgeline.errors import ServingError
from forgeline.evaluation.score import test_records
from forgeline.lineage import file_digest
from forgeline.records import read_records, write_json
from forgeline.registry import loading, promotion, versions
from forgeline.serving import bundle as bundles
from forgeline.serving import signing, targets
from forgeline.serving.admission import admit
from forgeline.serving.engines.make import PRIMARY
from forgeline.serving.gateway.access.local import local_key
from forgeline.serving.gateway.web import page
from forgeline.serving.operate import Operator
from forgeline.serving.parity import ParityReport, check
from forgeline.serving.sbom import sbom
from forgeline.serving.smoke import smoke
from steps import cache

BUNDLES = cache.WORK / "bundles"
DEPLOYMENTS = cache.WORK / "deployments"
SERVED_FROM_HERE = ("local", "systemd")  # by the packages of this environment


@step(cache_policy=cache.cached(cache.bundling))
def build_bundle(version: int, config: Config) -> Annotated[str, "bundle"]:
    """Make the immutable folder that is served; return its path."""
    registered = versions.get(config.project, str(version))
    tuned = versions.tuned_folder(config.project, registered)
    prompter = loading.prompter(config, registered)
    told = page(config, read_records(Path(SPLITS["train"])))
    path = bundles.build(_as_trained(config, registered), tuned, registered.bundle_lineage(), BUNDLES, prompter, told)
    print(f"bundle {path}")
    if config.serve.signing.key and (vouched := signing.sign(path / bundles.MANIFEST, config.serve.signing)):
        promotion.ledger(config).append("signed", bundle=path.name, **vouched.model_dump())
        print(f"signed by key {vouched.key}")
    return str(path)


@step(cache_policy=cache.cached(cache.bundling))
def check_parity(version: int, bundle: str, config: Config) -> Annotated[ParityReport, "parity"]:
    """Prove that the bundle says what the evaluated model says."""
    registered = versions.get(config.project, str(version))
    records = test_records(Path(SPLITS["test"]), config.serve.parity.prompts, config.project.seed)
    report = check(
        loading.model(config, registered),
        Path(bundle),
        Path.cwd(),
        [record.prompt for record in records],
        config.serve.parity.tolerance,
        config.serve.sampling.max_tokens,
        loading.prompter(config, registered),
        bundles.verify(Path(bundle), config.serve.signing),
    )
    worst = max(comparison.logit_difference for comparison in report.comparisons)
    print(f"parity on {len(records)} prompts: same replies, logits within {worst:.2g}")
    return report


@step(enable_cache=False)
def admit_engine(bundle: str, parity: ParityReport, config: Config) -> Annotated[list[str], "expected"]:
    """Let an engine that computes otherwise serve only if its gates pass; return what it says to the prompts."""
    prompts, expected = [comparison.prompt for comparison in parity.comparisons], parity.replies
    for name, engine in {PRIMARY: config.serve.engine, **config.serve.others}.items():
        if not isinstance(engine, Openvino):
            continue
        admission = admit(config, Path(bundle), engine, prompts)
        for held in admission.verdicts:
            print(f"{held.outcome:>7}  {held.gate}: {held.reason}")
        action = "not_admitted" if admission.refusal else "admitted"
        manifest = bundles.verify(Path(bundle), config.serve.signing)
        facts = {"model": manifest.lineage.model, "version": manifest.lineage.version, "bundle": manifest.digest}
        promotion.record_once(config, action, facts | admission.model_dump(mode="json", exclude={"replies"}))
        if admission.refusal:
            raise ServingError(
                f"The engine openvino is not admitted: {admission.refusal}. What is deployed stays as it is; set "
                "serve.engine.name to transformers, or say in policy.admission what is good enough."
            )
        if name == PRIMARY:
            expected = admission.replies
    return expected


@step(enable_cache=False)
def deploy(
    bundle: str, parity: ParityReport, expected: list[str], target: str, config: Config
) -> Annotated[dict[str, Any], "deployment"]:
    """Bring the bundle to a target; it stays there only if the smoke test over HTTP passes."""
    prompts = [comparison.prompt for comparison in parity.comparisons]
    own, tls = local_key(config) if target in targets.HERE else "none", config.serve.access.tls
    manifest = bundles.verify(Path(bundle), config.serve.signing)
    model = manifest.lineage.model
    job = targets.Job(
        config=config,
        bundle=Path(bundle),
        manifest=manifest,
        smoke=lambda url, key=own: smoke(url, model, prompts, parity.max_tokens, expected, key, tls),
    )
    place = targets.named(target)
    facts = place.deploy(job, place.plan(job))
    print(f"serving version {manifest.lineage.version} at {facts.get('url', target)}")
    return facts


@step(enable_cache=False)
def start_rollout(
    bundle: str,
    parity: ParityReport,
    expected: list[str],
    target: str,
    mode: str,
    share: float | None,
    reason: str,
    config: Config,
) -> Annotated[dict[str, Any], "rollout"]:
    """Have the running gateway load the bundle beside what is live, and see that it says what was checked."""
    operator = Operator(targets.answering(config.root, target), local_key(config), config.serve.access.tls)
    questions = list(zip([each.prompt for each in parity.comparisons], expected, strict=True))
    asked = {"mode": mode, "reason": reason} | ({} if share is None else {"share": share})
    found = operator.start(Path(bundle), config.serve, questions, parity.max_tokens, **asked)
    print(f"version {found['rollout']['challenger']['version']} is {found['rollout']['state']} beside the live one")
    return found


@step(enable_cache=False)
def record_deployment(bundle: str, deployment: dict[str, Any], target: str, config: Config) -> None:
    """Write down what the deployment is made of, if that lies here, and the deployment into the ledger, once."""
    facts: dict[str, Any] = {"target": target, **deployment}
    if target in SERVED_FROM_HERE:
        manifest = bundles.verify(Path(bundle), config.serve.signing)
        path = DEPLOYMENTS / f"{manifest.digest[:16]}.cdx.json"
        write_json(path, sbom(manifest, config.project))
        facts["sbom"] = {"path": str(path), "sha256": file_digest(path)}
    promotion.record_once(config, "deployed", facts)


def _as_trained(config: Config, version: versions.Version) -> Config:
    """Return the configuration with the base model and precision that the version was trained with."""
    return config.model_copy(update={"train": versions.train_settings(config.project, version)})
