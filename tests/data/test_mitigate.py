from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from forgeline.config import load
from forgeline.config.schema import Assess, Data, Mitigate
from forgeline.data import table
from forgeline.data.bias.exchange import Exchange
from forgeline.data.bias.gender import EnglishGender
from forgeline.data.mitigate import mitigate
from forgeline.records import Record

GENDER = EnglishGender([("Mary", "James"), ("Grace", "Will")])
LINES = (Path(__file__).parent / "gender_pairs.txt").read_text(encoding="utf-8").splitlines()
SHAPING, HELD_OUT = (
    [tuple(line.split(" | ")) for line in block.splitlines() if " | " in line]
    for block in "\n".join(LINES).split("## held out")
)


def right(pairs: Iterable[tuple[str, ...]]) -> float:
    """Return the share of sentences, of both directions, whose exchange is what was written by hand."""
    found = [GENDER.exchange(one).text == other for pair in pairs for one, other in (pair, pair[::-1])]
    return sum(found) / len(found)


def test_gender_is_exchanged_as_people_would() -> None:
    assert len(SHAPING) >= 40 and len(HELD_OUT) >= 40
    assert right(SHAPING) == 1.0
    assert right(HELD_OUT) >= 0.95


def test_exchanging_twice_gives_the_text_again() -> None:
    for text in (sentence for pair in SHAPING + HELD_OUT for sentence in pair):
        assert GENDER.exchange(GENDER.exchange(text).text).text == text


@pytest.mark.parametrize(
    ("text", "exchanged"),
    [
        ("HER coat, His hat, Herself!", "HIS coat, Her hat, Himself!"),
        ("his or her seat; him or her; his/her", "her or his seat; her or him; her/his"),
        ("Mr. Grey and Miss Hall miss her.", "Ms. Grey and Mr Hall miss him."),
        ("Mary will thank Will, by the grace of James.", "James will thank Grace, by the grace of Mary."),
        ("The king of kings cross, Lady Street and the Mother Teresa hall.", None),
        ("s/he, the others and Sheila", None),
    ],
)
def test_capitals_titles_names_and_twins(text: str, exchanged: str | None) -> None:
    assert GENDER.exchange(text).text == (exchanged or text)


@pytest.fixture(scope="module")
def shipped() -> Data:
    return load().data


def test_other_groups_are_exchanged_by_their_counterparts(shipped: Data) -> None:
    exchange = Exchange("origin", shipped.assess)
    found = exchange("An Italian place, a CHINESE one and an Indianapolis bar.", "european", "asian")
    assert found.text == "A Chinese place, an ITALIAN one and an Indianapolis bar."
    assert found.words == [("italian", "chinese"), ("chinese", "italian")]
    assert exchange(found.text, "european", "asian").text == "An Italian place, a CHINESE one and an Indianapolis bar."
    assert exchange("A Thai place", "asian", "african") == ("A Thai place", [])


def row(name: str, prompt: str, reply: str, **fields: Any) -> dict[str, Any]:
    turns = [("system", "He helps."), ("user", prompt), ("assistant", reply)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"id": name, "key": f"key-{name}", "messages": messages} | fields


def run(rows: list[dict[str, Any]], shipped: Data, settings: dict[str, Any], **assess: Any) -> tuple[list[Record], Any]:
    half = len(rows) // 2
    tables = [table.from_rows(rows[:half]), table.from_rows(rows[half:])]
    own = Assess.model_validate(shipped.assess.model_dump() | assess)
    config = shipped.model_copy(update={"mitigate": Mitigate.model_validate(settings), "assess": own})
    mitigated, report = mitigate(lambda: tables, config)
    again = [found for part in mitigated() for found in table.to_rows(part)]
    assert [found for part in mitigated() for found in table.to_rows(part)] == again  # it can be read again
    assert len({found["id"] for found in again}) == len(again)
    return [Record.model_validate(found) for found in again], report


def test_nothing_is_done_unless_it_is_asked_for(shipped: Data) -> None:
    def tables() -> list[Any]:
        raise AssertionError("read for nothing")

    assert mitigate(tables, shipped) == (tables, {})


def test_augmentation_adds_the_row_about_the_other_group(shipped: Data) -> None:
    rows = [
        row("a", "What did she say?", "Her bag is hers.", references=["She has her bag."], rejected="Ask her."),
        row("b", "Where?", "Here."),
        row("c", "Who?", "He is late."),
        row("d", "Who?", "She is late."),
    ]
    rows[0]["groups"] = {"gender": "female", "domain": "taxi"}
    records, report = run(rows, shipped, {"augment": ["gender"]})
    assert [record.id for record in records] == ["a", "b", "a+female-male", "c", "d"]  # c and d are each other's
    twin = records[2]
    assert [turn.content for turn in twin.messages] == ["He helps.", "What did he say?", "His bag is his."]
    assert (twin.references, twin.rejected) == (["He has his bag."], "Ask him.")
    assert (twin.key, twin.groups) == ("key-a", {"gender": "male", "domain": "taxi"})
    assert twin.origin == {"augmented": {"of": "a", "exchanged": ["female", "male"]}}
    assert report["rows"] == {"before": 4, "augmented": 1, "copied": 0, "removed": 0, "after": 5, "effective": 5.0}


def test_augmentation_takes_the_difference_between_groups_away(shipped: Data) -> None:
    rows = [row(f"f{n}", str(n), "She is sorry.") for n in range(40)] + [
        row(f"m{n}", str(n), "He is fine.") for n in range(60)
    ]
    _, report = run(rows, shipped, {"augment": ["gender"]})
    before, after = report["before"]["gates"], report["after"]["gates"]
    assert before["tone_gap"] > 0.2 and after["tone_gap"] == 0 and before["association_gap"] == 1
    shares = {found["group"]: found["share"] for found in report["after"]["representation"]}
    assert shares["female"] == shares["male"] == 0.5
    assert any(finding.startswith("Tone gap: 0.") for finding in report["findings"])


def test_augmentation_gives_every_group_every_context(shipped: Data) -> None:
    rows = [row(f"{n}", f"{n}", f"An Italian place, number {n}.") for n in range(10)]
    records, report = run(rows, shipped, {"augment": ["origin"]})
    words = Counter(record.completion.split()[1] for record in records)
    assert words == {"Italian": 10, "Chinese": 10, "Eritrean": 10, "Mexican": 10}
    assert report["rows"]["augmented"] == 30


def labelled() -> list[dict[str, Any]]:
    counts = {("web", True): 30, ("web", False): 10, ("phone", True): 5, ("phone", False): 55}
    return [
        row(f"{group}{label}{n}", f"{n}", "It is here.", label=label, groups={"channel": group}, weight=1.0 + n % 2)
        for (group, label), count in counts.items()
        for n in range(count)
    ] + [row("bare", "x", "It is here.", weight=5.0)]


def test_after_reweighing_group_and_label_are_independent(shipped: Data) -> None:
    rows = labelled()
    records, report = run(rows, shipped, {"reweigh": {"group": "channel"}}, slices=["channel"])
    weights: Counter[tuple[str, bool | None]] = Counter()
    for record in records:
        weights[record.groups.get("channel", "none"), record.label] += record.weight  # type: ignore[assignment]
    assert weights["none", None] == 5.0
    share = {group: weights[group, True] / (weights[group, True] + weights[group, False]) for group in ("web", "phone")}
    assert share["web"] == pytest.approx(share["phone"])
    assert sum(weights.values()) == pytest.approx(sum(found["weight"] for found in rows))
    assert report["before"]["dependence"] > 0.4 and report["after"]["dependence"] == 0
    assert report["before"]["gates"]["label_disparity"] > 0.6 and report["after"]["gates"]["label_disparity"] == 0
    squares = sum(record.weight**2 for record in records)
    assert report["rows"]["effective"] == pytest.approx(sum(weights.values()) ** 2 / squares, abs=0.05)


@pytest.mark.parametrize(
    ("to", "sizes", "cost"),
    [
        ("smallest", {"web": 40, "phone": 40, None: 1}, {"removed": 20, "copied": 0}),
        ("largest", {"web": 60, "phone": 60, None: 1}, {"removed": 0, "copied": 20}),
    ],
)
def test_resampling_makes_groups_equal(
    shipped: Data, to: str, sizes: dict[str | None, int], cost: dict[str, int]
) -> None:
    rows = [{**found, "weight": 1.0} for found in labelled()]
    records, report = run(rows, shipped, {"resample": {"group": "channel", "to": to}})
    assert Counter(record.groups.get("channel") for record in records) == sizes
    assert {name: report["rows"][name] for name in cost} == cost
    repeated = Counter(record.key for record in records).values()
    assert report["rows"]["effective"] == pytest.approx(len(records) ** 2 / sum(n * n for n in repeated), abs=0.05)
    shuffled, _ = run(rows[::-1], shipped, {"resample": {"group": "channel", "to": to}})
    assert {record.id for record in shuffled} == {record.id for record in records}


def test_mentioned_groups_can_be_balanced_and_steps_follow_each_other(shipped: Data) -> None:
    rows = [row(f"f{n}", str(n), "She is here.", label=n % 2 > 0) for n in range(8)]
    rows += [row(f"m{n}", str(n), "He is there.", label=n % 4 > 0) for n in range(20)]
    rows += [row("both", "x", "She and he."), row("none", "x", "It.")]
    settings = {"resample": {"group": "gender", "to": "smallest"}, "reweigh": {"group": "gender"}}
    records, report = run(rows, shipped, settings)
    said = Counter(record.completion for record in records)
    assert said == {"She is here.": 8, "He is there.": 8, "She and he.": 1, "It.": 1}
    assert report["after"]["dependence"] == 0 and report["rows"]["removed"] == 12


def test_augmenting_what_has_no_counterparts_is_refused(shipped: Data) -> None:
    with pytest.raises(ValueError, match=r"mitigate.augment needs assess.counterparts of height"):
        Data.model_validate(shipped.model_dump() | {"mitigate": {"augment": ["height"]}})
