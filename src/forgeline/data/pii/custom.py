"""Recognisers of one's own, from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from forgeline.config.schema import PiiKind, Section
from forgeline.data.pii.recogniser import NEAR, Recogniser, Span, near
from forgeline.errors import ConfigError

TAKEN = {*get_args(PiiKind), "person"}
EXAMPLES = "luhn, verhoeff, iso7064.mod_97_10, ean, us.ssn"


class Custom(Section):
    """One recogniser: its name is its tag; `gate` is a text that every match contains, for speed."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    pattern: str
    validator: str | None = None
    context: tuple[str, ...] = ()
    gate: str = ""


def read_recognisers(path: Path) -> list[Recogniser]:
    """Return the recognisers of a YAML list of mappings.

    Raises:
        ConfigError: for a file that cannot be read or is not such a list, naming the recogniser and what is legal.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(f"{path}: not a readable YAML file (data.clean.pii.recognisers): {fault}.") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a list of recognisers, each with a name and a pattern.")
    found = []
    names: set[str] = set()
    for number, row in enumerate(rows, start=1):
        where = f"{path}, recogniser {row.get('name', number) if isinstance(row, dict) else number}"
        try:
            custom = TypeAdapter(Custom).validate_python(row)
        except ValidationError as faults:
            legal = ", ".join(Custom.model_fields)
            said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'row'}: {one['msg']}" for one in faults.errors())
            raise ConfigError(f"{where}: {said}. Its keys are {legal}.") from None
        if custom.name in TAKEN | names:
            raise ConfigError(f"{where}: the name is taken; choose one other than {', '.join(sorted(TAKEN | names))}.")
        names.add(custom.name)
        found.append(_compile(custom, where))
    return found


def _compile(custom: Custom, where: str) -> Recogniser:
    try:
        pattern = re.compile(custom.pattern)
    except re.error as fault:
        raise ConfigError(f"{where}: {custom.pattern!r} is not a regular expression of Python: {fault}.") from None
    if pattern.search(""):
        raise ConfigError(f"{where}: the pattern {custom.pattern!r} matches empty text; it must match a character.")
    valid = _validator(custom.validator, where) if custom.validator else None
    context = near("|".join(map(re.escape, custom.context))) if custom.context else None

    def find(text: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            start, end = match.span()
            if context and not context.search(text, max(0, start - NEAR), start):
                continue
            if start < end and (valid is None or valid(match[0])):
                yield start, end

    return Recogniser(custom.name, (re.escape(custom.gate),), find)


def _validator(name: str, where: str) -> Callable[[str], bool]:
    try:
        is_valid: Callable[[str], bool] = import_module(f"stdnum.{name}").is_valid
    except (ImportError, AttributeError):
        raise ConfigError(
            f"{where}: there is no validator {name}; a validator is a module of python-stdnum such as {EXAMPLES}."
        ) from None
    return is_valid
