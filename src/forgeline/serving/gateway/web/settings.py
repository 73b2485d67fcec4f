"""What the page is told of the use case: its names, its system turn, and forms for its prompts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from forgeline.config import Config
from forgeline.records import Record

LINE = re.compile(r"(\w[\w-]*)(?:: *(\S.*))?")
FACTS = 5  # of an example: more are harder to read than to write
SLOTS = 12  # names that are offered for one kind of prompt


class Form(BaseModel):
    """One kind of prompt: the names that go with it, the usual ones first, and an example.

    `bare` are those of the names that mostly stand without a value: what is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: str
    slots: list[str]
    bare: list[str] = []
    example: list[tuple[str, str]]


class Page(BaseModel):
    """The use case for its page.

    `kind` names the first line of every prompt, whose values the `forms` are; None where prompts are free text.
    `conversation` tells whether the model was trained to read earlier turns; else each question is sent alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    objective: str
    human_review: str
    system: str
    conversation: bool = False
    kind: str | None = None
    forms: list[Form] = []


def page(config: Config, records: Iterable[Record]) -> Page:
    """Return what a project's page is told; the forms are read off records of its training split."""
    asked = [[message for message in record.prompt if message["role"] != "system"] for record in records]
    kind, forms = _forms([messages[-1]["content"] for messages in asked if messages])
    return Page(
        title=config.project.name,
        objective=config.project.objective,
        human_review=config.project.human_review,
        system=config.data.fetch.system or "",
        conversation=any(len(messages) > 1 for messages in asked),
        kind=kind,
        forms=forms,
    )


def _forms(prompts: Sequence[str]) -> tuple[str | None, list[Form]]:
    """Return the name of the first line and the forms, if all prompts begin with it and are lines of names and values.

    A line is `name: value`, but for the first also a name alone.
    """
    read = [[LINE.fullmatch(line) for line in prompt.splitlines()] for prompt in prompts]
    lines = [[(match[1], match[2] or "") for match in found if match] for found in read]
    firsts = {(each[0][0], each[0][1] != "") if each else None for each in lines}
    if any(None in found for found in read) or len(firsts) != 1 or not (first := firsts.pop()) or not first[1]:
        return None, []
    facts: defaultdict[str, list[list[tuple[str, str]]]] = defaultdict(list)
    for (_, value), *others in lines:
        facts[value].append(others)
    return first[0], [_form(value, facts[value]) for value in sorted(facts)]


def _form(value: str, seen: list[list[tuple[str, str]]]) -> Form:
    names = Counter(name for facts in seen for name, _ in facts)
    bare = Counter(name for facts in seen for name, said in facts if not said)
    usual = [name for name, _ in names.most_common(SLOTS)]
    example = max(seen, key=_telling)
    return Form(
        value=value,
        slots=usual,
        bare=[name for name in usual if 2 * bare[name] > names[name]],
        example=example[:FACTS],
    )


def _telling(facts: list[tuple[str, str]]) -> int:
    """Return how many different names an example shows; none is shown that is long or has a value masked."""
    plain = len(facts) <= FACTS and not any(said.startswith("[") for _, said in facts)
    return len({name for name, _ in facts}) if plain else -1
