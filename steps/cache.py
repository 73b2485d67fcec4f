"""What a step's cache depends on beside its inputs: the library's source, and this project's state.

ZenML keys a cached step by its own source, parameters and inputs. A step here only calls the
library and hands on paths, so the rooms it calls, and the folder the paths lead to, must count too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from zenml.config.cache_policy import CachePolicy

from forgeline.lineage import code_digest
from forgeline.models.template import templates_digest

WORK = Path(".forgeline")


def cached(identity: Callable[[], str]) -> CachePolicy:
    """Return the policy of a step that is reused while `identity` returns the same."""
    return CachePolicy(cache_func=identity)


def tuning() -> str:
    """Return the identity of what tuning runs on."""
    return _project() + code_digest("models", "tuning")


def evaluation() -> str:
    """Return the identity of what evaluation runs on."""
    return _project() + code_digest("models", "evaluation")


def approaches() -> str:
    """Return the identity of what the comparison of approaches runs on."""
    return _project() + code_digest("models", "prompting", "evaluation")


def probing() -> str:
    """Return the identity of what probes run on."""
    return _project() + code_digest("models", "evaluation", "data")


def registration() -> str:
    """Return the identity of what registration runs on."""
    return _project() + code_digest("registry")


def bundling() -> str:
    """Return the identity of what bundling and parity run on."""
    return _project() + code_digest("models", "prompting", "serving")


def _project() -> str:
    """Return this project's folder, an id that goes with its files, and its templates' digest.

    Delete the files, and nothing is reused.
    """
    mark = WORK / "id"
    if not mark.exists():
        WORK.mkdir(exist_ok=True)
        mark.write_text(uuid4().hex)
    return f"{Path.cwd()}:{mark.read_text()}:{templates_digest(Path.cwd())}:"
