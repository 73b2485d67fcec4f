"""A registered version as it was evaluated: its model, and the approach it is asked by."""

from __future__ import annotations

from forgeline.config.schema import Config
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.subjects import Local, Subject
from forgeline.models import LanguageModel, load_base, load_tuned
from forgeline.prompting import Prompter
from forgeline.registry import versions

APPROACH = "approach"  # the artifact folder of a version that is one


def model(config: Config, version: versions.Version) -> LanguageModel:
    """Return a version's model: what was tuned, or the base if its approach leaves that as it is.

    Raises:
        ForgelineError: if it does not load.
    """
    settings = versions.train_settings(config.project, version)
    folder = versions.tuned_folder(config.project, version)
    found = prompter(config, version)
    if found is not None and found.approach.model == "base":
        return load_base(settings, config.root, folder)
    return load_tuned(settings, folder, config.root)


def prompter(config: Config, version: versions.Version) -> Prompter | None:
    """Return the approach that a version is asked by, or None for a plain one."""
    if not version.approach:
        return None
    return Prompter.read(versions.artifact(config.project, version, APPROACH))


def subject(config: Config, version: versions.Version, name: str) -> Subject:
    """Return a version, ready to be asked the way it was evaluated."""
    local = Local(name, model(config, version), config.evaluate.batch_size)
    found = prompter(config, version)
    return Approached(local, found) if found else local
