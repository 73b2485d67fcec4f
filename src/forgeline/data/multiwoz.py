"""The adapter `multiwoz_templates`: replies that people wrote, with slots filled from the databases."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forgeline.errors import DataError
from forgeline.lineage import value_digest

Entity = dict[str, str]
Templates = dict[str, dict[str, list[str]]]
Values = list[tuple[str, str | None]]  # slots in order, with what they are filled with, if anything

PLACEHOLDER = re.compile(r"#[A-Z]+-[A-Z]+-([A-Z]+)#")
FIELDS = {
    "Addr": "address", "Area": "area", "Arrive": "arriveBy", "Day": "day", "Depart": "departure",
    "Dest": "destination", "Fee": "entrance fee", "Food": "food", "Id": "trainID", "Leave": "leaveAt",
    "Name": "name", "Open": "openhours", "Phone": "phone", "Post": "postcode", "Price": "pricerange",
    "Stars": "stars", "Ticket": "price", "Time": "duration", "Type": "type",
}  # fmt: skip
LABELS = {"Addr": "address", "Depart": "from", "Dest": "to", "Id": "train", "Post": "postcode", "Ref": "reference"}
DRAWS = 20  # tries to give a chunk values that no earlier chunk has: some slots have few
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
COLOURS = ("black", "white", "red", "yellow", "blue", "grey")
MAKES = ("toyota", "skoda", "bmw", "honda", "ford", "audi", "lexus", "volvo", "volkswagen", "tesla")


def adapt_templates(
    files: list[tuple[str, Path]], system: str | None, max_references: int, seed: int
) -> list[dict[str, Any]]:
    """Return one raw record for each reply of a template file, given with its databases as (name, path).

    The templates of an act and its slots are dealt in chunks of up to `max_references`; the replies of
    a chunk share one set of values, and so one prompt. The databases are the files called `*_db.json`.

    Raises:
        DataError: for a file that is not JSON of the expected shape, or a missing database.
    """
    databases = {path.name.removesuffix("_db.json"): (name, path) for name, path in files if "_db" in path.name}
    world = World({domain: _read_entities(*file) for domain, file in databases.items()})
    rows = []
    for name, path in files:
        if "_db" not in path.name:
            for act, by_slots in _read_templates(name, path).items():
                rows += _adapt_act(act, by_slots, world, max_references, seed, name)
    for row in rows:
        if system:
            row["messages"].insert(0, {"role": "system", "content": system})
    return rows


def _adapt_act(
    act: str, by_slots: dict[str, list[str]], world: World, size: int, seed: int, source: str
) -> list[dict[str, Any]]:
    valued = {slot for group in by_slots.values() for text in group for slot in PLACEHOLDER.findall(text)}
    domain = act.partition("-")[0].lower()
    rows = []
    for slots, templates in by_slots.items():
        names = [slot for slot in slots.split(";") if slot not in {"", "none"}]
        order = list(range(len(templates)))
        random.Random(f"{seed}|{act}|{slots}").shuffle(order)
        chunks = -(-len(order) // size)
        used: list[Values] = []
        for chunk in range(chunks):
            chance = random.Random(f"{seed}|{act}|{slots}|{chunk}")
            for _ in range(DRAWS):
                facts = world.draw(domain, [slot for slot in names if slot.upper() in valued], chance)
                values = [(slot, facts[slot].pop(0) if slot in facts else None) for slot in names]
                if not facts or values not in used:
                    break
            used.append(values)
            key = value_digest([act, values])[:16]
            for index in order[chunk::chunks]:
                origin = {"source": source, "act": act, "slots": slots, "template": index}
                rows.append(
                    {
                        "id": value_digest([act, slots, index])[:16],
                        "messages": [
                            {"role": "user", "content": _prompt(act, values)},
                            {"role": "assistant", "content": _fill(templates[index], values)},
                        ],
                        "key": key,
                        "groups": {"act": act, "domain": domain},
                        "origin": origin,
                    }
                )
    return rows


def _prompt(act: str, values: Values) -> str:
    lines = [f"act: {act}"]
    for slot, value in values:
        label = LABELS.get(slot, slot.lower())
        lines.append(label if value is None else f"{label}: {value}")
    return "\n".join(lines)


def _fill(template: str, values: Values) -> str:
    """Put values in place of placeholders, in order; a slot's last value serves what is left over."""
    queues: dict[str, list[str]] = defaultdict(list)
    for slot, value in values:
        if value is not None:
            queues[slot.upper()].append(value)

    def value_of(match: re.Match[str]) -> str:
        queue = queues[match[1]]
        if not queue:
            return match[0]
        value = queue.pop(0) if len(queue) > 1 else queue[0]
        # People wrote "the #NAME#" of names with and without an article.
        return value.removeprefix("the ") if re.search(r"\bthe $", template[: match.start()], re.I) else value

    return PLACEHOLDER.sub(value_of, template)


class World:
    """The databases that values are drawn from: entities by domain, each a mapping of strings."""

    def __init__(self, databases: dict[str, list[Entity]]) -> None:
        missing = {"attraction", "hotel", "restaurant", "train"} - databases.keys()
        if missing:
            names = ", ".join(f"{name}_db.json" for name in sorted(missing))
            raise DataError(f"The sources lack the databases {names}: add them to data.fetch.sources.")
        self.databases = databases

    def draw(self, domain: str, slots: list[str], chance: random.Random) -> dict[str, list[str]]:
        """Return a list of values for each slot, one for each time it is asked for.

        The k-th values of all slots describe one entity; entities agree on what is asked for once.
        """
        wanted = Counter(slots)
        table = self._table(domain, wanted, chance)
        entities = _pick(table, wanted, chance) if table else []
        facts = {}
        for slot, count in wanted.items():
            field = FIELDS.get(slot, "")
            if entities and field in entities[0]:
                facts[slot] = [entity[field] for entity in entities[:count]]
            else:
                facts[slot] = [self._invent(slot, chance) for _ in range(count)]
        if wanted["Addr"] > 1 and wanted["Name"] < 2:  # one place whose address was tagged part by part
            facts["Addr"] = _address_parts(table, wanted["Addr"], entities[0]) or facts["Addr"]
        if domain == "taxi" and {"Leave", "Arrive"} <= wanted.keys():
            facts["Leave"], facts["Arrive"] = sorted([facts["Leave"], facts["Arrive"]])
        return facts

    def _table(self, domain: str, wanted: Counter[str], chance: random.Random) -> list[Entity]:
        if domain == "booking":
            domain = (
                "hotel"
                if wanted["Stay"]
                else "restaurant"
                if wanted["Time"]
                else chance.choice(["hotel", "restaurant"])
            )
        fields = [FIELDS[slot] for slot in wanted if slot in FIELDS]
        rows = self.databases.get(domain, [])
        known = [field for field in fields if any(field in row for row in rows)]
        return [row for row in rows if all(field in row for field in known)] if known else []

    def _invent(self, slot: str, chance: random.Random) -> str:
        """Return a value that no database holds."""
        inventions: dict[str, Callable[[], str]] = {
            "Arrive": lambda: _time(chance),
            "Car": lambda: f"{chance.choice(COLOURS)} {chance.choice(MAKES)}",
            "Choice": lambda: str(chance.randint(2, 24)),
            "Day": lambda: chance.choice(DAYS),
            "Depart": lambda: self._place(chance),
            "Dest": lambda: self._place(chance),
            "Leave": lambda: _time(chance),
            "People": lambda: str(chance.randint(2, 8)),
            "Phone": lambda: f"07{chance.randrange(10**9):09d}",
            "Ref": lambda: "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=8)),
            "Stay": lambda: str(chance.randint(2, 5)),
            "Ticket": lambda: f"{chance.randrange(440, 9000) / 100:.2f} pounds",
            "Time": lambda: _time(chance),
        }
        return inventions[slot]()

    def _place(self, chance: random.Random) -> str:
        return chance.choice(self.databases[chance.choice(["attraction", "hotel", "restaurant"])])["name"]


def _pick(table: list[Entity], wanted: Counter[str], chance: random.Random) -> list[Entity]:
    """Return as many entities as the most wanted slot needs: alike where asked once, else different."""
    shared = [FIELDS[slot] for slot, count in wanted.items() if count == 1 and FIELDS.get(slot) in table[0]]
    varied = [FIELDS[slot] for slot, count in wanted.items() if count > 1 and FIELDS.get(slot) in table[0]]
    picked = [chance.choice(table)]
    alike = [row for row in table if all(row[field] == picked[0][field] for field in shared)]
    for _ in range(max(wanted.values()) - 1):
        new = [row for row in alike if all(row[field] != one[field] for field in varied for one in picked)]
        picked.append(chance.choice(new or [row for row in alike if row not in picked] or table))
    return picked


def _address_parts(table: list[Entity], count: int, first: Entity) -> list[str] | None:
    """Return an address cut at its commas into `count` parts, if the databases have such a one."""
    for row in [first, *table]:
        parts = row["address"].split(", ")
        if len(parts) >= count:
            return [*parts[: count - 1], ", ".join(parts[count - 1 :])]
    return None


def _time(chance: random.Random) -> str:
    return f"{chance.randrange(5, 24):02d}:{chance.randrange(0, 60, 15):02d}"


def _read_templates(name: str, path: Path) -> Templates:
    templates = _read_json(name, path)
    if not isinstance(templates, dict) or not all(isinstance(group, dict) for group in templates.values()):
        raise DataError(f"{name}: expected an object of acts, each an object of slots and their replies.")
    return templates


def _read_entities(name: str, path: Path) -> list[Entity]:
    """Return a database's rows, less what they do not know."""
    rows = _read_json(name, path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name}: expected a list of objects.")
    return [
        {field: value for field, value in row.items() if isinstance(value, str) and value not in {"", "?"}}
        for row in rows
    ]


def _read_json(name: str, path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as fault:
        raise DataError(f"{name}: not JSON: {fault}.") from None
