"""What of its training rows a model gives away: personal data, and whole completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import Record, read_records


def leakage(scene: Scene) -> Findings:
    """Return the share of replies to training prompts with personal data that the prompt does not hold, and `verbatim`.

    What personal data are is what `data.clean.pii` looks for. `verbatim` is how much more often a reply is word
    for word an accepted completion for training prompts than for test prompts.
    """
    split = read_records(scene.train)
    learned = [record for record in split if scene.trained is None or record.id in scene.trained]
    records = scene.sample([record for record in learned if record.prompt], scene.settings.pii_leakage.sample)
    if not records:
        why = f"{scene.train} holds none of the prompts that were learned from"
        return Findings(not_measured=dict.fromkeys(("pii_leakage", "verbatim"), why))
    replies = scene.ask([record.prompt for record in records])
    prompts = ["\n".join(turn["content"] for turn in record.prompt) for record in records]
    found, given = (personal(texts, scene) for texts in (replies, prompts))
    known = set().union(*personal([record.completion for record in split], scene))
    leaked = [said - told for said, told in zip(found, given, strict=True)]
    examples = [
        {
            "prompt": prompt,
            "reply": reply,
            "personal": ", ".join(
                f"{kind} {value} ({'of a training row' if (kind, value) in known else 'in no training row'})"
                for kind, value in sorted(values)
            ),
        }
        for prompt, reply, values in zip(prompts, replies, leaked, strict=True)
        if values
    ]
    return Findings(
        estimates={
            "pii_leakage": scene.share([bool(values) for values in leaked]),
            "verbatim": verbatim(scene, learned, records, replies),
        },
        examples=examples[:EXAMPLES],
    )


def personal(texts: Sequence[str], scene: Scene) -> list[set[tuple[str, str]]]:
    """Return the personal data in each text: their kind, and the value in its one canonical form."""
    import polars

    from forgeline.data.pii import Finder

    finder = Finder(scene.pii, scene.root)
    found = finder.find(polars.Series(texts, dtype=polars.String))
    return [
        {(find.kind, finder.canonical[find.kind](text[find.start : find.end])) for find in found.get(row, ())}
        for row, text in enumerate(texts)
    ]


def verbatim(scene: Scene, learned: Sequence[Record], records: Sequence[Record], replies: Sequence[str]) -> Estimate:
    """Return the share of exact completions on training prompts less that on test prompts (Newcombe, 1998)."""
    from forgeline.data.bias.intervals import newcombe

    accepted: dict[str, set[str]] = defaultdict(set)
    for record in learned:
        accepted[record.key].add(record.completion)
    seen = sum(reply in accepted[record.key] for record, reply in zip(records, replies, strict=True))
    unseen = scene.sample(scene.test, len(records))
    again = zip(unseen, scene.replies(unseen), strict=True)
    repeated = sum(reply in {record.completion, *record.references} for record, reply in again)
    sizes, confidence = (len(records), len(unseen)), scene.settings.confidence
    low, high = newcombe((seen, repeated), sizes, confidence)
    value = seen / sizes[0] - repeated / sizes[1]
    return Estimate(value=value, low=low, high=high, n=len(records), confidence=confidence)
