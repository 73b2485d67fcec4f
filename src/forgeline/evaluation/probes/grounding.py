"""Values in replies that no given fact holds: numbers, times, prices, codes, and names of the training data."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from forgeline.data.values import loose_values
from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import read_records

WORD = re.compile(r"\w+(?:['’]\w+)*")


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
