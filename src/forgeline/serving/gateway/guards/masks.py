"""Tags in place of what the model need not know, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from forgeline.serving.gateway.guards.guard import Finding

# Like the data line's [EMAIL], which the model has learned to copy; there without a number.
TAG = re.compile(r"\[[A-Z][A-Z0-9_]{0,50}\]")
REMOVED = "[removed]"


class Masks:
    """The tags of one request, such as `[EMAIL_1]`, and what they stand for; nobody else's reply is restored by them.

    A value has one tag throughout the request, in each way that it is written. A tag that stands in the request
    already is never given, so that it comes back as it is. A tag without its number stands for the only value of its
    kind.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.values: dict[str, str] = {}  # by tag
        self._tags: dict[str, str] = {}  # by value
        self._taken = {tag for text in texts if "[" in text for tag in TAG.findall(text)}
        self._last: dict[str, int] = {}
        self._only: dict[str, str | None] = dict.fromkeys(self._taken)  # by tag without number

    def __bool__(self) -> bool:
        return bool(self.values)

    def tag(self, kind: str, value: str) -> str:
        """Return the tag of a value."""
        if value not in self._tags:
            number = self._last.get(kind, 0) + 1
            while (tag := f"[{kind.upper()}_{number}]") in self._taken:
                number += 1
            self._last[kind] = number
            self._tags[value], self.values[tag] = tag, value
            short = f"[{kind.upper()}]"
            self._only[short] = None if short in self._only else value
        return self._tags[value]

    def masked(self, text: str, findings: Sequence[Finding]) -> str:
        """Return a text with a tag in place of each finding."""
        return replaced(text, [(one, self.tag(one.kind, self.restored(text[one.start : one.end]))) for one in findings])

    def mask_known(self, text: str) -> str:
        """Return a text with tags in place of values that were found elsewhere in the request."""
        values = [value for value in sorted(self._tags, key=len, reverse=True) if value in text]
        if not values:
            return text
        either = "|".join(map(re.escape, values))
        pattern = re.compile(rf"{TAG.pattern}|(?<!\w)(?:{either})(?!\w)")
        return pattern.sub(lambda match: self._tags.get(match[0], match[0]), text)

    def restored(self, text: str) -> str:
        """Return a text with the values in place of their tags; other tags are text."""
        if not self.values or "[" not in text:
            return text
        return TAG.sub(lambda match: self.values.get(match[0]) or self._only.get(match[0]) or match[0], text)


class Restorer:
    """Restores a text that comes in parts: what may be the beginning of a tag waits for the rest."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._held = ""

    def feed(self, text: str, last: bool = False) -> str:
        """Return what can be told now; all of it with the last part."""
        text = self._held + text
        opening = -1 if last else text.rfind("[")
        begun = opening >= 0 and any(tag.startswith(text[opening:]) for tag in self._masks.values)
        self._held = text[opening:] if begun else ""
        return self._masks.restored(text.removesuffix(self._held))


def replaced(text: str, findings: Sequence[tuple[Finding, str]]) -> str:
    """Return a text with other texts in place of findings, which are in order; one within another goes with it."""
    parts, at = [], 0
    for (_, start, end), instead in findings:
        if start >= at:
            parts += [text[at:start], instead]
            at = len(text) if end is None else end
    return "".join([*parts, text[at:]])
