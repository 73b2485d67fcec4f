"""The one family of errors a user can act on; the CLI prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(found: str, legal: Iterable[str]) -> str:
    """Return the end of a sentence that names the legal word nearest to one that is not; nothing if none is near."""
    match = difflib.get_close_matches(found, list(legal), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


class ForgelineError(Exception):
    """A sentence that says what went wrong, where, and what to do about it."""


class ConfigError(ForgelineError):
    """The configuration cannot be used; the message lists every fault found."""


class SourceError(ForgelineError):
    """A data or model source cannot be resolved to local files."""


class DataError(ForgelineError):
    """The data line cannot produce, or no longer holds, a valid dataset version."""


class ModelError(ForgelineError):
    """A base model or adapter cannot be loaded as the configuration asks."""


class TuningError(ForgelineError):
    """Training cannot start, or stopped before it was done."""


class EvaluationError(ForgelineError):
    """A score cannot be computed, or would compare unlike things."""


class RegistryError(ForgelineError):
    """A run, version or alias is missing, or a promotion is refused."""


class LedgerError(ForgelineError):
    """The record of decisions cannot be written, or no longer agrees with its own hashes."""


class ServingError(ForgelineError):
    """A bundle, engine, gateway or target cannot serve."""
