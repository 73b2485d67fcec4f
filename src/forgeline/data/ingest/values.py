"""The single values of a row: checked, or read from what a table's cell can hold."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from typing import Any, cast

import orjson

THUMBS = {"true": True, "1": True, "up": True, "false": False, "0": False, "down": False}
NAMES = {str: "text", bool: "", int: "the number", float: "the number", list: "a list", dict: "an object"}


class Misfit(ValueError):
    """A row that is not of its source's shape: which field, what was expected, what was found."""


def text_of(name: str, value: Any) -> str:
    """Return a text, or raise Misfit."""
    if not isinstance(value, str):
        raise Misfit(f"{name}: expected text, found {kind(value)}")
    return value


def name_of(name: str, value: Any) -> str:
    """Return what identifies something, as text; or raise Misfit."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Misfit(f"{name}: expected text, found {kind(value)}")
    return str(value)


def list_of(name: str, value: Any) -> list[Any]:
    """Return a list, or the list that a text holds as JSON; or raise Misfit."""
    value = _from_json(name, value)
    if not isinstance(value, list):
        raise Misfit(f"{name}: expected a list, found {kind(value)}")
    return value


def texts_of(name: str, value: Any) -> list[str]:
    """Return a list of texts, or the one that a text holds as JSON; or raise Misfit."""
    return [text_of(f"{name}[{place}]", text) for place, text in enumerate(list_of(name, value))]


def groups_of(name: str, value: Any) -> dict[str, str]:
    """Return a mapping to texts, or the one that a text holds as JSON; or raise Misfit."""
    value = _from_json(name, value)
    if not isinstance(value, dict):
        raise Misfit(f"{name}: expected an object, found {kind(value)}")
    return {group: str(one) for group, one in value.items() if one is not None}


def _from_json(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise Misfit(f"{name}: expected JSON, found {kind(value)}") from None


def thumb_of(_: str, value: Any) -> bool | None:
    """Return whether a thumb is up, or None for what is no thumb."""
    if isinstance(value, bool | int | float):
        return bool(value) if value in {0, 1} else None
    return THUMBS.get(value.strip().lower()) if isinstance(value, str) else None


def weight_of(_: str, value: Any) -> float | None:
    """Return a number above zero, or None for what is none."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def moment_of(value: Any) -> str | None:
    """Return an ISO 8601 time in UTC, so that times compare as text, or None for what is none.

    A time without a zone counts as UTC.
    """
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def absent(value: Any) -> bool:
    """Return whether there is nothing: null, or the NaN that tables have for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits of the sha256 of a value's JSON, equal for equal values.

    Raises:
        Misfit: for text that is not valid Unicode and numbers beyond 64 bits, which no record can hold.
    """
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)
    except TypeError as fault:
        raise Misfit(f"expected text in Unicode and numbers of up to 64 bits ({fault})") from None
    return hashlib.sha256(text).hexdigest()[:16]


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: a date or a decimal number of a table as text."""
    return cast(dict[str, Any], orjson.loads(orjson.dumps(value, default=str)))


def kind(value: Any) -> str:
    """Return what a value is, in a word or two and, if it is short, itself."""
    if absent(value):
        return "null" if value is None else "NaN"
    name = NAMES.get(type(value), type(value).__name__)
    if isinstance(value, str | int | float):
        return f"{name} {value!r:.40}".strip()
    return name if value else f"{name} with nothing in it"
