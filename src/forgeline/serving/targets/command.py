"""Programs that a target is carried out by: called with a list of words, and told of in a sentence."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forgeline.errors import ServingError

INSTALL = {
    "docker": "install Docker Engine with its compose plugin",
    "kubectl": "install kubectl and give it a context of your cluster",
    "helm": "install Helm 3 or 4",
}
LAST_WORDS = 400  # characters


def need(*tools: str) -> None:
    """Raise ServingError for the first program that is not there."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise ServingError(f"`{tool}` is not on PATH: {INSTALL[tool]}. Nothing was changed.")


def run(*words: str, given: str | None = None, folder: Path | None = None) -> str:
    """Return what a program wrote to its output; `given` is its input.

    Raises:
        ServingError: with its own last words, if it is not there or fails.
    """
    need(words[0])
    done = subprocess.run(words, input=given, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServingError(f"`{_shown(words)}` failed: {_last_words(done.stderr or done.stdout)}")
    return done.stdout


def lines(*words: str) -> Iterator[str]:
    """Yield what a program writes, line by line, errors among them.

    Raises:
        ServingError: if it is not there.
    """
    need(words[0])
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        yield from process.stdout


@contextmanager
def reading(*words: str) -> Iterator[Iterator[str]]:
    """Yield the output of a program that goes on until it is told to end.

    Raises:
        ServingError: if it is not there.
    """
    need(words[0])
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        try:
            yield process.stdout
        finally:
            process.terminate()


def _shown(words: tuple[str, ...]) -> str:
    return shlex.join(words[:8]) + (" …" if len(words) > 8 else "")


def _last_words(text: str) -> str:
    return " ".join(text.split())[-LAST_WORDS:] or "it said nothing"
