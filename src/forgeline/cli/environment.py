"""Make this process fit to run pipelines: quiet, offline, in the project's folder."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forgeline.config import Config

DEFAULTS = {
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_LOGGING_VERBOSITY": "CRITICAL",  # a failing step's own error is what the user is told
    "AUTO_OPEN_DASHBOARD": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait starve each other on busy cores: 3 to 11 tokens/s became 30.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def project(profile: str | None = None, set_: Sequence[str] | None = None) -> Config:
    """Return the configuration that a verb's options ask for, and make this process fit to work on the project."""
    from forgeline.config import load

    config = load(profile=profile, overrides=set_ or ())
    enter(config.root)
    return config


def enter(root: Path) -> None:
    """Set the environment's defaults, and make `pipelines` and `steps` of the project importable.

    Must be called before torch, MLflow or ZenML are imported: they read these variables then.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.chdir(root)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
