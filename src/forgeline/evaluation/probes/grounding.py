"""Values in replies that no given fact holds: numbers, times, prices, codes, and names of the training data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import read_records

TIME = re.compile(r"(?<!\w)(\d{1,2}):(\d{2})(?!\d)|(?<!\w)(\d{1,2}) ?[ap]\.?m\b", re.IGNORECASE)
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.IGNORECASE)
VALUE = re.compile(r"[^\W_]*\d[^\W_]*(?:[.,]\d+)*")
WORD = re.compile(r"\w+(?:['’]\w+)*")
NUMBER, THOUSANDS = re.compile(r"\d+(?:[.,]\d+)?"), re.compile(r"\d{1,3}(?:,\d{3})")
GROUPED = re.compile(r"(?<=\d{3}) (?=\d{3})")
LONG = 5  # digits from which on a number is a code that may be written in groups
SPELT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def ungrounded(scene: Scene) -> Findings:
    """Return the share of replies that hold a value which no fact of the prompt holds.

    The replies are those of the evaluation report; without one, a sample of the test prompts is asked.
    Numbers in words are not looked at, and what is left out or wrongly related is not seen.
    """
    records = scene.sample(scene.test, scene.settings.ungrounded.sample)
    if scene.report:
        rows = {row.id for row in scene.report.rows}
        records = [record for record in scene.test if record.id in rows]
    if not records:
        return Findings(not_measured={"ungrounded": "the evaluation report is of other test prompts"})
    prompts = ["\n".join(turn["content"] for turn in record.prompt) for record in records]
    told = list(zip(prompts, scene.replies(records), strict=True))
    names = known_names(scene)
    found = [[*loose_values(reply, prompt), *loose_names(reply, prompt, names)] for prompt, reply in told]
    examples = [
        {"prompt": prompt, "reply": reply, "in no fact": ", ".join(values)}
        for (prompt, reply), values in zip(told, found, strict=True)
        if values
    ]
    return Findings(
        estimates={"ungrounded": scene.share([bool(values) for values in found])}, examples=examples[:EXAMPLES]
    )


def known_names(scene: Scene) -> frozenset[str]:
    """Return the proper names of the training prompts' facts, which are lines of a label, a colon and a value."""
    labels = {f"{label}: " for label in scene.settings.ungrounded.names}
    if not labels:
        return frozenset()
    lines = {
        line for record in read_records(scene.train) for turn in record.prompt for line in turn["content"].splitlines()
    }
    values = (line.removeprefix(label) for line in lines for label in labels if line.startswith(label))
    return frozenset(name for value in values if (name := _plain(value)) and not name[0].isdigit())


def loose_values(reply: str, prompt: str) -> Iterator[str]:
    """Yield the times, codes and numbers of a reply that its prompt lacks, whatever way they are written.

    Times are told to half a day, codes without spaces, and numbers by their value.
    """
    times = {_minutes(match) for match in TIME.finditer(prompt)}
    codes = " ".join("".join(filter(str.isalnum, line)).lower() for line in prompt.splitlines())
    numbers = {value for match in VALUE.finditer(TIME.sub(" ", prompt)) if (value := _number(match[0])) is not None}
    numbers |= {float(SPELT.index(word)) for word in WORD.findall(prompt.lower()) if word in SPELT}
    reply = GROUPED.sub("", reply)
    yield from (match[0] for match in TIME.finditer(reply) if _minutes(match) not in times)
    for match in VALUE.finditer(TIME.sub(" ", reply)):
        number = _number(match[0])
        code = "".join(filter(str.isalnum, match[0])).lower()
        if not (number in numbers if number is not None else code in codes):
            yield match[0]


def loose_names(reply: str, prompt: str, names: Collection[str]) -> Iterator[str]:
    """Yield the names in a reply of which its prompt lacks a word; the longest name counts, and none within it.

    Parts of a name, such as the lines of an address, may be facts of their own.
    """
    given, words = set(_plain(prompt).split()), _plain(reply).split()
    longest = max((name.count(" ") + 1 for name in names), default=0)
    start = 0
    while start < len(words):
        sizes = range(min(longest, len(words) - start), 0, -1)
        name = next((said for size in sizes if (said := " ".join(words[start : start + size])) in names), None)
        if name is not None and not given.issuperset(name.split()):
            yield name
        start += name.count(" ") + 1 if name else 1


def _plain(text: str) -> str:
    """Return the words of a text in lower case, without its first article."""
    return " ".join(WORD.findall(text.lower())).removeprefix("the ")


def _minutes(match: re.Match[str]) -> int:
    """Return a time as minutes of half a day."""
    return int(match[1] or match[3]) % 12 * 60 + int(match[2] or 0)


def _number(value: str) -> float | None:
    """Return what a number or ordinal amounts to; None for a code."""
    ordinal = ORDINAL.fullmatch(value)
    digits = ordinal[1] if ordinal else value
    if not NUMBER.fullmatch(digits) or sum(map(str.isdigit, digits)) >= LONG:
        return None
    return float(digits.replace(",", "" if THOUSANDS.fullmatch(digits) else "."))
