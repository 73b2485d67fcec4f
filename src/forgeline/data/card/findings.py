"""What was found of people in the data, and how the splits stand to each other: sections of the card."""

from __future__ import annotations

from typing import Any

from forgeline.data.layout import BENCHMARKS, FROZEN
from forgeline.page.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Intervals,
    Number,
    Points,
    Prose,
    Section,
    Table,
    count,
)

Facts = dict[str, Any]


def privacy(facts: Facts) -> Section:
    """Say what personal data was replaced, what is left, and how well the recognisers see."""
    clean, pii = facts["clean"], facts["config"]["clean"]["pii"]
    masked = sorted(clean["masked"].items(), key=lambda pair: (-pair[1], pair[0]))
    replaced = {
        "tag": "a tag of their kind",
        "pseudonym": "a pseudonym, the same for the same person",
        "remove": "nothing",
    }[pii["replace"]]
    words = (
        f"Looked for: {', '.join(pii['kinds']) or 'nothing'}; forms of {', '.join(pii['regions'])}; "
        f"{'with' if pii['names'] else 'without'} people's names. Replaced by {replaced}. Found again in the kept "
        f"rows: **{count(clean['unmasked_pii'])}**. Patterns with validators find forms, not meaning: what has no "
        "form, such as an address in words, stays."
    )
    blocks: list[Block] = [Prose(words)]
    if masked:
        blocks.append(Table(("kind", "replaced"), [(Code(kind), number) for kind, number in masked]))
    return Section("Personal data", blocks + _recognisers(facts["recognisers"]))


def _recognisers(measured: Facts) -> list[Block]:
    kinds = {**measured["kinds"], "all": measured["overall"]}
    rows: list[tuple[Cell, ...]] = [
        (Code(kind), one["planted"], *(_measured(one, name) for name in ("recall", "precision")))
        for kind, one in kinds.items()
    ]
    sentences = measured["sentences"]
    words = (
        f"What the recognisers find of {count(sentences['with'])} sentences with planted personal data and "
        f"{count(sentences['without'])} without, and how much of it is right, with intervals at 95 %. The set was "
        "written from published standards, not from the patterns; people's names and one's own recognisers have none."
    )
    missing = [
        f"Of {kind}, no form is known for {', '.join(regions)}." for kind, regions in measured["not_covered"].items()
    ]
    blocks: list[Block] = [Prose(words), Table(("kind", "planted", "recall", "precision"), rows)]
    return [*blocks, Points(missing)] if missing else blocks


def _measured(one: Facts, name: str) -> Number:
    """Return a share with its interval; a dash where there was nothing to measure."""
    if one[name] is None:
        return Number("–")
    low, high = one[f"{name}_interval"]
    return Number(f"{one[name]:.1%} ({low:.1%} to {high:.1%})")


def bias(facts: Facts) -> Section:
    """Say who is spoken of, in what company and in what tone, with intervals."""
    found = facts["bias"]
    words = (
        f"{count(found['replies'])} replies; intervals at {found['confidence']:.0%}, each for itself, without "
        "correction for the number of comparisons. Groups are known by the words of the configuration, which "
        "miss those who are spoken of in others."
    )
    shares = [
        (f"{row['category']}: {row['group']}", row["low"], row["share"], row["high"], True)
        for row in found["representation"]
    ]
    company = [
        (
            f"{row['group']} (n={count(row['n'])}): {row['example']} …",
            row["low"],
            row["difference"],
            row["high"],
            _sure(row),
        )
        for row in found["association"]
        if row["difference"] is not None
    ]
    telling = [
        (f"{row['group']} (n={count(row['n'])}): {row['word']}", row["low"], row["log_odds"], row["high"], True)
        for row in found["words"]
    ]
    same = [_scored(row, row["gap"]) for row in found["counterfactual"] if row["low"] is not None]
    tone = [_scored(row, row["difference"]) for row in found["tone"] if row["low"] is not None]
    blocks: list[Block] = [
        Prose(words),
        Chart(
            "bias.png",
            "Estimates with intervals; faint where the interval holds nought or the mentions are too few.",
            [
                Intervals("Replies that mention a group", "% of replies", _percent(shares)),
                Intervals("Words in their company, against other replies", "% points", _percent(company)),
            ],
        ),
    ]
    charts = [
        Intervals("Words that go with one group of a category", "log-odds", telling),
        Intervals("Scores of a reply, against the same reply said of others", "difference", same),
        Intervals("Scores of replies, against replies of others", "difference", tone),
    ]
    if telling or same or tone:
        caption = "Estimates with intervals; scores are less what the scorer gives the groups' words alone."
        blocks.append(Chart("gaps.png", caption, [chart for chart in charts if chart.rows]))
    gates: list[tuple[Cell, ...]] = [(Code(name), Number(f"{value:.3f}")) for name, value in found["gates"].items()]
    if gates:
        blocks += [Prose("What gates can bound:"), Table(("measure", "value"), gates)]
    return Section("Bias", [*blocks, Points(found["findings"])])


def _scored(row: Facts, value: float) -> tuple[str, float, float, float, bool]:
    return f"{row['group']} (n={count(row['n'])}): {row['scorer']}", row["low"], value, row["high"], _sure(row)


def _sure(row: Facts) -> bool:
    """Return whether a difference is shown: nought is outside the interval, and the rows are enough."""
    return row["low"] * row["high"] > 0 and not row["verdict"].startswith("too few")


def _percent(
    rows: list[tuple[str, float, float, float, bool]],
) -> list[tuple[str, float, float, float, bool]]:
    return [(label, 100 * low, 100 * middle, 100 * high, sure) for label, low, middle, high, sure in rows]


def mitigation(facts: Facts) -> list[Section]:
    """Say what mitigation did to the training split and what it cost; nothing if there was none."""
    done = facts["split"]["mitigation"]
    if not done:
        return []
    rows: list[tuple[Cell, ...]] = [(name, round(value)) for name, value in done["rows"].items()]
    figures: list[tuple[Cell, ...]] = [
        (Code(name), Number(f"{value:.3f}"), Number(f"{done['after']['gates'][name]:.3f}"))
        for name, value in done["before"]["gates"].items()
        if name in done["after"]["gates"]
    ]
    blocks: list[Block] = [
        Prose("What was done to the training split alone, and what it cost in rows:"),
        Table(
            ("training rows", "number"),
            [*rows, ("left out because they repeat held-out rows", done["left_out_as_leaks"])],
        ),
        Table(("measure", "before", "after"), figures),
        Points(done["findings"]),
    ]
    return [Section("Mitigation", blocks)]


def splits(facts: Facts) -> Section:
    """Say how rows were dealt, and what the held-out sets have in common with the training rows."""
    split, config = facts["split"], facts["config"]["split"]
    how = {
        "hash": "by the hash of their keys and the seed, so that a new row never moves an old one",
        "stratified": f"so that each value of `{config['by']}` has its share of each split",
        "temporal": f"by their time: validation from {config['validation_from']}, test from {config['test_from']}",
    }[split["strategy"]]
    words = (
        f"Rows that share a key or a prompt are dealt together, {how} (seed {config['seed']}). `{FROZEN}` "
        f"holds {count(split['frozen']['keys'])} keys that are test keys for good; {count(split['frozen']['rows'])} "
        "rows have one."
    )
    rows: list[tuple[Cell, ...]] = [
        (name, split["dealt"][name], size, split["keys"][name]) for name, size in split["rows"].items()
    ]
    left = [
        (name.replace("_", " "), split["dealt"][name])
        for name in split["dealt"]
        if name not in split["rows"] and split["dealt"][name]
    ]
    blocks: list[Block] = [Prose(words), Table(("split", "rows dealt", "records", "keys together"), rows)]
    if left:
        blocks.append(Table(("left out of training", "rows"), list(left)))
    references = Bars(
        "Accepted replies per test prompt",
        [
            (replies, prompts, share(prompts, split["rows"]["test"]), "plain")
            for replies, prompts in split["test_references"].items()
        ],
    )
    blocks.append(Chart("split.png", "A test record is a prompt with all its accepted replies.", [references]))
    return Section("Splits and contamination", blocks + _contamination(split))


def _contamination(split: Facts) -> list[Block]:
    sets = {**split["leakage"], **{f"benchmark {name}": one for name, one in split["benchmarks"].items()}}
    kinds = ("key", "prompt", "conversation", "near_duplicate", "reply")
    rows: list[tuple[Cell, ...]] = [
        (name, one["records"], one["leaks"], *(one[kind] for kind in kinds), Number(f"{one['ngrams']['share']:.1%}"))
        for name, one in sets.items()
    ]
    words = (
        f"Held-out records that training rows repeat. **{count(split['test_leakage'])}** test records leak: their "
        "key, prompt or conversation is in another split. Nearly equal texts, shared replies and shared runs of "
        f"words are reported apart. A benchmark is a file below `{BENCHMARKS}`."
    )
    headings = ("held out", "records", "leaks", *(kind.replace("_", " ") for kind in kinds), "runs of words")
    findings = [f"{name.capitalize()}: {one['ngrams']['finding']}" for name, one in sets.items()]
    return [Prose(words), Table(headings, rows), Points(findings)]


def share(part: int, whole: int) -> str:
    """Return a count and what share of the whole it is."""
    return f"{count(part)}  {part / whole:.1%}" if whole else count(part)
