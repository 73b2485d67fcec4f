from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from forgeline.config.schema import Data
from forgeline.data import table
from forgeline.data.fetch import fetch
from forgeline.data.multiwoz import adapt_templates
from forgeline.errors import DataError

HOTEL = {
    "name": "the inn",
    "area": "north",
    "type": "hotel",
    "stars": "4",
    "phone": "01223315702",
    "address": "1 a road",
}
TRAIN = {"trainID": "TR1", "day": "monday", "leaveAt": "05:00", "arriveBy": "05:51", "price": "23.60 pounds"}
DATABASES: dict[str, list[dict[str, Any]]] = {
    "hotel": [{**HOTEL, "name": f"inn {n}", "phone": f"0122331570{n}"} for n in range(8)],
    "train": [{**TRAIN, "trainID": f"TR{n}", "leaveAt": f"0{n}:00"} for n in range(1, 9)],
    "attraction": [{"name": "the park", "address": "mill yard, long road, north end", "entrance fee": "?"}],
    "restaurant": [{"name": "the spoon", "food": "thai"}],
}


def adapt(folder: Path, templates: dict[str, dict[str, list[str]]], seed: int = 1) -> list[dict[str, Any]]:
    contents: dict[str, Any] = {"templates.json": templates}
    contents |= {f"{name}_db.json": rows for name, rows in DATABASES.items()}
    for name, value in contents.items():
        (folder / name).write_text(json.dumps(value))
    return adapt_templates([(name, folder / name) for name in contents], "You help.", 5, seed)


def turns(row: dict[str, Any]) -> tuple[str, str]:
    assert row["messages"][0] == {"role": "system", "content": "You help."}
    return row["messages"][1]["content"], row["messages"][2]["content"]


def test_every_template_becomes_a_row_and_chunks_share_a_prompt(tmp_path: Path) -> None:
    replies = [f"{n} : #HOTEL-INFORM-NAME# , phone #HOTEL-INFORM-PHONE# ." for n in range(12)]
    rows = adapt(tmp_path, {"Hotel-Inform": {"Name;Phone;": replies}})
    assert sorted(row["origin"]["template"] for row in rows) == list(range(12))
    prompts = [turns(row)[0] for row in rows]
    assert sorted(prompts.count(prompt) for prompt in set(prompts)) == [4, 4, 4]
    for row in rows:
        prompt, reply = turns(row)
        number = re.search(r"name: inn (\d)\nphone: 0122331570(\d)$", prompt)
        assert number and number[1] == number[2] and f"inn {number[1]} , phone 0122331570{number[1]} ." in reply
        assert row["groups"] == {"act": "Hotel-Inform", "domain": "hotel"}
    assert len({row["key"] for row in rows}) == 3


def test_repeated_slots_are_different_entities_and_single_ones_are_shared(tmp_path: Path) -> None:
    one = "#HOTEL-INFORM-NAME# at #HOTEL-INFORM-PHONE#"
    text = f"{one} and {one} in #HOTEL-INFORM-AREA#"
    [row] = adapt(tmp_path, {"Hotel-Inform": {"Area;Name;Name;Phone;Phone;": [text]}})
    found = re.fullmatch(r"inn (\d) at 0122331570(\d) and inn (\d) at 0122331570(\d) in north", turns(row)[1])
    assert found and found[1] == found[2] != found[3] == found[4]


def test_slots_without_placeholder_are_named_and_placeholders_without_slot_stay(tmp_path: Path) -> None:
    rows = adapt(
        tmp_path,
        {
            "Hotel-Request": {"Area;Internet;": ["Where ?"]},
            "general-bye": {"none;": ["Bye ."]},
            "Train-Inform": {"Id;": ["#TRAIN-INFORM-ID# for #TRAIN-INFORM-REF#"]},
        },
    )
    assert [turns(row)[0] for row in rows[:2]] == ["act: Hotel-Request\narea\ninternet", "act: general-bye"]
    assert re.fullmatch(r"TR\d for #TRAIN-INFORM-REF#", turns(rows[2])[1])


def test_an_address_tagged_in_parts_is_cut_at_its_commas(tmp_path: Path) -> None:
    text = "At #ATTRACTION-INFORM-ADDR# , #ATTRACTION-INFORM-ADDR# ."
    [row] = adapt(tmp_path, {"Attraction-Inform": {"Addr;Addr;": [text]}})
    assert turns(row)[1] == "At mill yard , long road, north end ."


def test_the_seed_decides(tmp_path: Path) -> None:
    templates = {"Booking-Book": {"Ref;": ["#BOOKING-BOOK-REF#", "ref #BOOKING-BOOK-REF#"]}}
    assert adapt(tmp_path, templates) == adapt(tmp_path, templates) != adapt(tmp_path, templates, seed=2)


def test_fetch_writes_the_rows_as_parts(tmp_path: Path) -> None:
    folder = tmp_path / "data/source"
    folder.mkdir(parents=True)
    texts = {"Hotel-Inform": {"Name;": ["#HOTEL-INFORM-NAME# .", "It is #HOTEL-INFORM-NAME# ."]}}
    rows = adapt(folder, texts)
    uris = [f"data/source/{name}" for name in ("templates.json", *(f"{name}_db.json" for name in DATABASES))]
    sources = {"replies": {"uri": uris, "adapter": "multiwoz_templates", "license": "MIT"}}
    fetching = {"sources": sources, "system": "You help.", "seed": 1}
    config = Data.model_validate({"fetch": fetching, "assess": {"groups": {}, "associations": {}}})
    assert fetch(tmp_path, config)["sources"]["replies"]["rows"] == 2
    [part] = table.parts(tmp_path / "data/raw/replies")
    found = list(table.to_rows(table.read(part)))
    for row, expected in zip(found, rows, strict=True):
        origin = {**expected["origin"], "source": "data/source/templates.json"}
        assert row == {**expected, "origin": origin, "source": "replies", "references": [], "weight": 1.0}


def test_faulty_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"templates\.json: expected an object of acts"):
        adapt(tmp_path, [])  # type: ignore[arg-type]
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"lack the databases attraction_db\.json"):
        adapt_templates([("x.json", tmp_path / "x.json")], None, 5, 1)
