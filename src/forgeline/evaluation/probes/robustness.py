"""How much worse replies get when the same is asked with typos, in capitals, or in other words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from forgeline.evaluation.bootstrap import Estimate, paired_difference
from forgeline.evaluation.metrics import Chrf
from forgeline.evaluation.probes.scene import Findings, Scene
from forgeline.evaluation.subjects import Messages
from forgeline.records import Record

WORD = re.compile(r"[^\W\d_]{4,}")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEAR = {
    letter: "".join(
        row[at] for row in ROWS[max(0, number - 1) : number + 2] for at in (place - 1, place, place + 1)
        if 0 <= at < len(row) and row[at] != letter
    )
    for number, keys in enumerate(ROWS)
    for place, letter in enumerate(keys)
}  # fmt: skip
NAMES = ("robustness_typos", "robustness_case", "robustness_paraphrase")


class Asked(NamedTuple):
    """A test record, its prompt in another form, and the reply to the prompt as it is."""

    record: Record
    prompt: Messages
    plain: str


def robustness(scene: Scene) -> Findings:
    """Return, for each way to ask, chrF (0 to 100) of the replies less that of the replies to the plain prompts.

    Intervals are of the paired bootstrap over prompts. Replies to capitals are compared without regard to
    case. Digits are never changed: they would be other facts.
    """
    settings = scene.settings.robustness
    records = scene.sample([record for record in scene.test if record.prompt], settings.sample)
    if not records:
        return Findings(not_measured=dict.fromkeys(NAMES, "the test records have no prompts"))
    chance = random.Random(scene.settings.seed)
    ways = {
        "robustness_typos": lambda prompt: changed(prompt, lambda text: mistyped(text, settings.typos, chance)),
        "robustness_case": lambda prompt: changed(prompt, str.upper),
        "robustness_paraphrase": lambda prompt: changed(
            prompt, lambda text: reworded(text, settings.paraphrases), system=True
        ),
    }
    plain, found = scene.replies(records), Findings()
    for name, change in ways.items():
        asked = [Asked(record, change(record.prompt), reply) for record, reply in zip(records, plain, strict=True)]
        asked = [one for one in asked if one.prompt != one.record.prompt]
        if not asked:
            found.not_measured[name] = f"no prompt of {len(records)} is changed by it (probes.robustness)"
            continue
        replies = scene.ask([one.prompt for one in asked])
        found.estimates[name] = lost(scene, asked, replies, str.lower if name == "robustness_case" else str)
        found.examples += [
            {"prompt": one.prompt[-1]["content"], "reply": reply, "to the plain prompt": one.plain}
            for one, reply in list(zip(asked, replies, strict=True))[:2]
        ]
    return found


def lost(scene: Scene, asked: Sequence[Asked], replies: Sequence[str], fold: Callable[[str], str]) -> Estimate:
    """Return the difference in chrF that the other prompts make, of texts that are folded first."""
    metric, settings = Chrf(), scene.settings
    references = [[fold(text) for text in one.record.references or [one.record.completion]] for one in asked]
    after = metric.statistics([fold(reply) for reply in replies], references)
    before = metric.statistics([fold(one.plain) for one in asked], references)
    found = paired_difference(metric, after, before, settings.bootstrap_samples, settings.confidence, settings.seed)
    return Estimate.model_validate(found.model_dump(include={*Estimate.model_fields}))


def changed(prompt: Messages, change: Callable[[str], str], system: bool = False) -> Messages:
    """Return a prompt with its user turns changed, and its system turn if asked for."""
    roles = {"user", "system"} if system else {"user"}
    return [{**turn, "content": change(turn["content"])} if turn["role"] in roles else turn for turn in prompt]


def mistyped(text: str, share: float, chance: random.Random) -> str:
    """Return a text where a share of the words has one typo: a near key, letters swapped, one lost or doubled."""

    def typo(match: re.Match[str]) -> str:
        word = match[0]
        if chance.random() >= share:
            return word
        place = chance.randrange(1, len(word) - 1)
        near = chance.choice(NEAR.get(word[place].lower(), word[place]))
        swapped = word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]
        return chance.choice(
            (
                word[:place] + near + word[place + 1 :],
                swapped,
                word[:place] + word[place + 1 :],
                word[:place] + word[place] + word[place:],
            )
        )

    return WORD.sub(typo, text)


def reworded(text: str, paraphrases: Mapping[str, str]) -> str:
    """Return a text with other words for the phrases it has, the longest first; what was put in is left alone."""
    if not paraphrases:
        return text
    longest = sorted(paraphrases, key=len, reverse=True)
    phrases = "|".join(map(re.escape, longest))
    return re.sub(rf"(?<!\w)(?:{phrases})", lambda match: paraphrases[match[0]], text)
