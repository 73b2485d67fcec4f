"""What the card says: from facts to sections, in the order in which a reader asks."""

from __future__ import annotations

import re

from forgeline.data.card.distributions import TEXTS
from forgeline.data.card.findings import Facts, bias, mitigation, privacy, share, splits
from forgeline.data.layout import DECISIONS, QUARANTINE
from forgeline.page.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Example,
    Examples,
    Figures,
    Histogram,
    Number,
    Prose,
    Section,
    Table,
    count,
)

# What the line itself removes, whatever rules are configured.
OWN_RULES = {
    "malformed": "a row that cannot be read as a record",
    "empty": "nothing is left of the completion",
    "reviewer": "a person decided so",
    "exact_duplicate": "the same text as a kept row",
    "normalised_duplicate": "the same words as a kept row",
    "near_duplicate": "nearly the same text as a kept row",
    "over_reference_cap": "more replies to one prompt than are kept",
    "duplicate_id": "another kept row has this id",
}
CREDENTIALS = re.compile(r"//[^/@\s]+@")  # the card is shown to people who may not know them
SPOKEN = 8  # languages named before the rest are summed up


def sections(facts: Facts) -> list[Section]:
    """Return the whole card."""
    return [
        _overview(facts),
        _sources(facts),
        _cleaning(facts),
        Section("What each rule removed", _removed(facts)),
        _texts(facts),
        privacy(facts),
        bias(facts),
        *mitigation(facts),
        splits(facts),
        _people(facts),
        _version(facts),
    ]


def _overview(facts: Facts) -> Section:
    rows, splits = facts["clean"]["rows"], facts["split"]["rows"]
    numbers = [
        ("raw rows", count(rows["in"])),
        ("rows kept", count(rows["kept"])),
        ("prompts answered", count(facts["clean"]["prompts"])),
        *((f"{name} records", count(size)) for name, size in splits.items()),
        ("test records leaked", count(facts["split"]["test_leakage"])),
        ("personal data left", count(facts["clean"]["unmasked_pii"])),
    ]
    words = (
        "What the data are, where each row went and what was found. Written by the data line from its own reports: "
        f"edit `configs/data.yaml`, not this file. Dataset configuration `{facts['config_digest'][:12]}`."
    )
    return Section("At a glance", [Prose(words), Figures(numbers)])


def _sources(facts: Facts) -> Section:
    fetch = facts["fetch"]
    rows: list[tuple[Cell, ...]] = []
    places: list[tuple[Cell, ...]] = []
    for name, one in fetch["sources"].items():
        weight = "all rows" if one["weight"] is None else f"{one['weight']:g}"
        read = f"{', '.join(one['format'])} as {one['shape']}" if one["shape"] else "no files"
        counts = (one["files"], one["rows"], one["malformed"], one["erased"])
        rows.append((Code(name), one["license"] or "not stated", read, weight, *counts))
        places += [
            (Code(name), Code(CREDENTIALS.sub("//…@", uri))) for uri in facts["config"]["fetch"]["sources"][name]["uri"]
        ]
    words = f"{count(fetch['rows'])} rows were read, {count(fetch['malformed'])} of them malformed."
    if fetch["erased"]:
        words += f" {count(fetch['erased'])} more were left out because their subjects asked to be forgotten."
    headings = ("source", "licence", "read", "weight in training", "files", "rows", "malformed", "erased")
    return Section(
        "Sources and licences",
        [Prose(words), Table(headings, rows), Table(("source", "where it lies"), places)],
    )


def _cleaning(facts: Facts) -> Section:
    clean, config = facts["clean"], facts["config"]["clean"]
    rows, dry = clean["rows"], clean["dry"]
    reasons = sorted(clean["reasons"].items(), key=lambda pair: (-pair[1], pair[0]))
    fates = Bars(
        "What became of the raw rows",
        [
            ("kept", rows["kept"], share(rows["kept"], rows["in"]), "good"),
            ("merged into a twin", rows["merged"], share(rows["merged"], rows["in"]), "plain"),
            *((rule, removed, share(removed, rows["in"]), "lost") for rule, removed in reasons),
        ],
    )
    named = {**{rule: _meaning(settings) for rule, settings in config["rules"].items()}, **OWN_RULES}
    seen = [rule for rule in named if rule in config["rules"] or rule in clean["reasons"]]
    listed: list[tuple[Cell, ...]] = [
        (
            Code(rule),
            named.get(rule, ""),
            "dry run" if config["rules"].get(rule, {}).get("dry_run") else "removes",
            clean["reasons"].get(rule, dry.get(rule, 0)),
        )
        for rule in [*seen, *(rule for rule in clean["reasons"] if rule not in named)]
    ]
    near = config["near_duplicates"]
    alike = f"from a Jaccard similarity of {near['threshold']:g} on" if near else "not looked for"
    copies: list[tuple[Cell, ...]] = [
        ("the same text", clean["duplicates"]["exact"]),
        ("the same words, whatever the spacing, case and signs", clean["duplicates"]["normalised"]),
        (f"nearly the same text ({alike})", clean["duplicates"]["near"]),
    ]
    words = (
        f"Of {count(rows['in'])} raw rows, {count(rows['kept'])} were kept, {count(rows['quarantined'])} quarantined "
        f"and {count(rows['merged'])} merged into a kept twin: none was lost. Texts were repaired first "
        f"({', '.join(config['repair']) or 'nothing'}). Kept rows answer {count(clean['prompts'])} prompts, with "
        f"at most {config['max_references']} replies each. Every row that was removed lies in `{QUARANTINE}` with "
        "rule, score and, for a copy, the row that it repeats."
    )
    return Section(
        "Cleaning",
        [
            Prose(words),
            Chart("fate.png", "Rows by what became of them.", [fates]),
            Table(("rule", "removes a row for", "effect", "rows"), listed),
            Prose("Copies, merged into the best of them:"),
            Table(("copy", "rows"), copies),
        ],
    )


def _meaning(rule: Facts) -> str:
    """Return a configured rule in words: what it measures and what stays."""
    bounds = [f"{word} {rule[end]:g}" for end, word in (("min", "under"), ("max", "over")) if rule[end] is not None]
    what = rule["measure"].replace("_", " ")
    more = (
        f" {rule['pattern']}" if rule["pattern"] else f" in {', '.join(rule['languages'])}" if rule["languages"] else ""
    )
    return f"{what}{more} of the {rule['over']} {' or '.join(bounds)}"


def _removed(facts: Facts) -> list[Block]:
    if not facts["removed"]:
        return [Prose("No rule removed a row.")]
    blocks: list[Block] = [
        Prose("Two rows of each rule at most, those whose ids have the smallest digests; long texts are cut.")
    ]
    for rule, rows in facts["removed"].items():
        entries = []
        for row in rows:
            heading = ": ".join(part for part in (row["id"], row["detail"]) if part)
            texts = [("prompt", row["prompt"]), ("completion", row["completion"]), ("kept instead", row["twin"])]
            entries.append(Example(heading, [(name, text) for name, text in texts if text]))
        blocks.append(Examples(rule, entries))
    return blocks


def _texts(facts: Facts) -> Section:
    sample, spoken = facts["languages"]["sample"], facts["languages"]["counts"]
    rest = sum(rows for _, rows in spoken[SPOKEN:])
    shown = [*spoken[:SPOKEN], *([(f"{len(spoken) - SPOKEN} more", rest)] if rest else [])]
    languages = Bars(
        f"Language of completions, {count(sample)} rows drawn by hash",
        [(code, rows, share(rows, sample), "plain") for code, rows in shown],
    )
    measured = [(text, unit, facts["lengths"][text][unit]) for text in TEXTS for unit in facts["lengths"][text]]
    lengths: list[tuple[Cell, ...]] = [
        (
            f"{text}, {unit}",
            one["rows"],
            Number(f"{one['mean']:,}"),
            *(one[mark] for mark in ("least", "median", "p95", "p99", "most")),
        )
        for text, unit, one in measured
    ]
    histograms = [
        Histogram(f"{text.capitalize()}, {unit}", unit, one["width"], one["shares"], one["beyond"])
        for text, unit, one in measured
    ]
    words = (
        "Lengths are of the kept rows, without the system turn. Words and signs are runs of letters and digits, and "
        "single other signs; they are **not a model's tokens**. The language is "
        "told by a small statistical model, which errs on short texts and lists of names."
    )
    return Section(
        "Language, length and words",
        [
            Prose(words),
            Chart("texts.png", "Language of a sample, and lengths of all kept rows.", [languages, *histograms]),
            Table(("text", "rows", "mean", "least", "median", "95 %", "99 %", "most"), lengths),
        ],
    )


def _people(facts: Facts) -> Section:
    people = facts["people"]
    if not people["people"]:
        return Section(
            "People in the loop", [Prose("Nobody has judged single rows yet: `forgeline data export` sends them out.")]
        )
    words = (
        f"{count(people['people'])} people judged single rows; their newest decisions hold and are kept, with who and "
        f"when, in `{DECISIONS}`."
    )
    said: list[tuple[Cell, ...]] = [
        ("keep, whatever the rules say", people.get("keep", 0)),
        ("drop", people.get("drop", 0)),
        ("edit the completion", people.get("edit", 0)),
    ]
    return Section("People in the loop", [Prose(words), Table(("decision", "rows"), said)])


def _version(facts: Facts) -> Section:
    words = (
        "The version is the content: these digests change with any byte of the splits and any setting that shapes them."
    )
    rows: list[tuple[Cell, ...]] = [(f"{name} split, sha256", Code(digest)) for name, digest in facts["splits"].items()]
    rows.append(("data configuration, sha256", Code(facts["config_digest"])))
    return Section("Version", [Prose(words), Table(("what", "digest"), rows)])
