"""Whether a reply says the facts that its prompt gave."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from pydantic import validate_call

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import Mean, Table
from forgeline.evaluation.metrics.text import plain


class SlotErrorRate(Mean):
    """(missing + redundant slots) / slots, of the facts in the lines `label: value` of the last user turn.

    A slot is missing if the reply does not say its value word for word, whatever the case, spaces and a first
    "the"; a value that is said more often than the prompt gives it is redundant. A value from elsewhere is not
    seen, unless it stands in the place of one that is then missing. Lines without a value ask for something,
    and are no slots; nor are the labels to `ignore`. Statistics: errors, slots.
    """

    columns = ("predictions", "prompts")
    source = "Wen et al., Semantically Conditioned LSTM-based Natural Language Generation, 2015"
    better = "lower"

    @validate_call
    def __init__(self, ignore: list[str] | None = None) -> None:
        super().__init__()
        self.ignore = set(ignore or ())

    def statistics(self, predictions: list[str], prompts: list[str]) -> Table:
        """Return (missing + redundant, slots) for each reply.

        Raises:
            EvaluationError: if no prompt has a fact.
        """
        slots = [self._slots(prompt) for prompt in prompts]
        if not any(slots):
            raise EvaluationError("slot_error_rate reads facts from lines `label: value`, and no prompt has one.")
        pairs = zip(slots, predictions, strict=True)
        return np.array([(_errors(asked, reply), asked.total()) for asked, reply in pairs], dtype=float)

    def _slots(self, prompt: str) -> Counter[str]:
        """Return how often a prompt gives each value."""
        lines = (line.partition(": ") for line in prompt.splitlines())
        facts = (plain(value) for label, _, value in lines if value.strip() and label.strip() not in self.ignore)
        return Counter(value.removeprefix("the ") for value in facts)


def _errors(slots: Counter[str], reply: str) -> int:
    said = Counter(_mentions(slots, plain(reply)) if slots else ())
    return ((slots - said) + (said - slots)).total()


def _mentions(values: Iterable[str], text: str) -> list[str]:
    """Return each mention of a value, the longest where values overlap; 2 is not mentioned in 12 or 2:30."""
    either = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    return re.findall(rf"(?<!\w)(?<!\d[.:,])(?:{either})(?!\w|[.:,]\d)", text)
