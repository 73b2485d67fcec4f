"""What decides a run's outcome, as one digest; needs no MLflow, so that an unchanged project is told at once."""

from __future__ import annotations

from forgeline.config.schema import Config
from forgeline.data.versions import DataVersion
from forgeline.lineage import code_digest, value_digest
from forgeline.models.template import templates_digest

# The rooms whose source decides what a version is and whether it is promoted.
ROOMS = ("data", "models", "prompting", "tuning", "evaluation", "registry")


def fingerprint(config: Config, data: DataVersion) -> str:
    """Return the digest of data, configuration, chat templates and the library's source."""
    return value_digest([data.digest, config.digest(), templates_digest(config.root), code_digest(*ROOMS)])
