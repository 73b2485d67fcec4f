"""What README and guides say can be typed, opened and found."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from forgeline.cli import app
from forgeline.config import load

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [path for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))) if path.exists()]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?:\.?\w[\w.-]*/)+(?:[\w.-]+)?|[\w-]+\.(?:md|py|ya?ml|toml|lock|ipynb|jsonl)")


def commands(path: Path) -> Iterator[list[str]]:
    """Yield every command of a document's shell blocks and code spans, as its words."""
    text = path.read_text(encoding="utf-8")
    blocks = [body for language, body in FENCE.findall(text) if language in {"bash", "sh", "console", ""}]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in [*lines, *SPAN.findall(FENCE.sub("", text))]:
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:  # an apostrophe in prose
            continue
        while words:
            end = next((place for place, word in enumerate(words) if word in {"|", "&&", ";", ">", ">>"}), len(words))
            if words[:end]:
                yield words[:end]
            words = words[end + 1 :]


def said(program: str) -> list[pytest.param]:
    """Return the commands of all documents that call a program, without its name."""
    found = {(path.name, tuple(words[1:])) for path in DOCUMENTS for words in commands(path) if words[0] == program}
    return [pytest.param(list(words), id=f"{name}: {shlex.join(words)}") for name, words in sorted(found)]


@pytest.mark.parametrize("words", said("forgeline"))
def test_the_command_line_understands_it(words: list[str]) -> None:
    words = [word for word in words if word != "--help"]  # which would answer, and leave
    if not words:
        return
    command, rest = typer.main.get_command(app), [*words]
    context = command.make_context("forgeline", [*words])
    while rest and hasattr(command, "resolve_command") and not rest[0].startswith("-"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, [*rest], parent=context)
    given = context.params
    load(PROJECT, profile=given.get("profile"), overrides=given.get("set_") or ())


@pytest.mark.parametrize("words", said("make"))
def test_make_has_the_target(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in words if "=" not in word} <= {*targets}


@pytest.mark.parametrize("words", said("dvc"))
def test_dvc_understands_it(words: list[str]) -> None:
    from dvc.cli.parser import get_main_parser

    get_main_parser().parse_args(words)


@pytest.mark.parametrize("words", said("python"))
def test_the_module_exists(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)  # where the commands are typed
    assert words[0] != "-m" or importlib.util.find_spec(words[1])


def references() -> list[pytest.param]:
    """Return the links of all documents, and the code spans that look like a file of the project."""
    found = set()
    for path in DOCUMENTS:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
        found |= {(path, path.parent / link) for link in links if link}
        found |= {(path, PROJECT / span) for span in SPAN.findall(text) if FILE.fullmatch(span)}
    return [pytest.param(target, id=f"{path.name}: {target.name}") for path, target in sorted(found)]


@pytest.mark.parametrize("target", references())
def test_the_file_exists_or_is_made_by_a_run(target: Path) -> None:
    if target.exists():
        return
    ignored = subprocess.run(["git", "check-ignore", "--quiet", str(target)], cwd=PROJECT, check=False)
    assert ignored.returncode == 0, f"{target} is neither in the project nor something that git ignores"
