"""The deployment line's steps, from a registered version to a recorded deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step

from forgeline.config.schema import Config
from forgeline.data.layout import SPLITS
from forgeline.evaluation.score import test_records
from forgeline.registry import loading, promotion, versions
from forgeline.serving import bundle as bundles
from forgeline.serving.gateway.access.local import local_key
from forgeline.serving.parity import ParityReport, check
from forgeline.serving.smoke import smoke
from forgeline.serving.targets import local
from steps import cache

BUNDLES = cache.WORK / "bundles"


@step(cache_policy=cache.cached(cache.bundling))
def build_bundle(version: int, config: Config) -> Annotated[str, "bundle"]:
    """Make the immutable folder that is served; return its path."""
    registered = versions.get(config.project, str(version))
    tuned = versions.tuned_folder(config.project, registered)
    prompter = loading.prompter(config, registered)
    path = bundles.build(_as_trained(config, registered), tuned, registered.bundle_lineage(), BUNDLES, prompter)
    print(f"bundle {path}")
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
    )
    worst = max(comparison.logit_difference for comparison in report.comparisons)
    print(f"parity on {len(records)} prompts: same replies, logits within {worst:.2g}")
    return report


@step(enable_cache=False)
def deploy_local(bundle: str, parity: ParityReport, config: Config) -> Annotated[local.Deployment, "deployment"]:
    """Serve the bundle on this machine; it stays up only if the smoke test over HTTP passes."""
    prompts = [comparison.prompt for comparison in parity.comparisons]
    key, tls = local_key(config), config.serve.access.tls

    def ask(deployment: local.Deployment) -> None:
        smoke(deployment.url, deployment.model, prompts, parity.max_tokens, parity.replies, key, tls)

    deployment = local.deploy(Path.cwd(), Path(bundle), config.serve, ask)
    print(f"serving version {deployment.version} at {deployment.url}")
    return deployment


@step(enable_cache=False)
def record_deployment(deployment: local.Deployment, config: Config) -> None:
    """Write the deployment into the ledger, once."""
    promotion.record_once(config, "deployed", deployment.model_dump(mode="json"))


def _as_trained(config: Config, version: versions.Version) -> Config:
    """Return the configuration with the base model and precision that the version was trained with."""
    return config.model_copy(update={"train": versions.train_settings(config.project, version)})
