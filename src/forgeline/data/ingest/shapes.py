"""The shapes that rows come in, told by their fields, and how each becomes a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from forgeline.config.schema import Column, Shape
from forgeline.data.ingest.values import (
    Misfit,
    absent,
    digest,
    groups_of,
    kind,
    list_of,
    moment_of,
    name_of,
    plain,
    text_of,
    texts_of,
    thumb_of,
    weight_of,
)
from forgeline.data.text import normalise

Turns = list[dict[str, str]]

# What a row of each shape must have. A row that fits several is of the first.
FIELDS: dict[Shape, tuple[str, ...]] = {
    "messages": ("messages",),
    "preference": ("chosen", "rejected"),
    "feedback": ("prompt", "completion", "label"),
    "prompt_completion": ("prompt", "completion"),
    "sharegpt": ("conversations",),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
# What else belongs to the turns.
MORE: dict[Shape, tuple[str, ...]] = {
    "preference": ("prompt", "system"), "feedback": ("system",), "prompt_completion": ("system",),
    "sharegpt": ("system",), "instruction": ("input", "system"),
}  # fmt: skip
# What records have besides, and how it is read. A label or a weight may be another thing: then it is None.
OPTIONAL: dict[str, Callable[[str, Any], Any]] = {
    "id": name_of, "key": name_of, "subject": name_of, "references": texts_of, "rejected": text_of,
    "label": thumb_of, "weight": weight_of, "groups": groups_of,
}  # fmt: skip
TIMES = ("time", "timestamp", "created_at")
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
}  # fmt: skip
TOOLS = ("tool", "tool_call", "function", "function_call", "observation")


def shape_of(row: dict[str, Any]) -> Shape | None:
    """Return the shape that a row's fields tell, if any."""
    for shape, fields in FIELDS.items():
        if all(field in row for field in fields) and (shape != "feedback" or thumb_of("", row["label"]) is not None):
            return shape
    return None


def detect(values: Iterable[Any], columns: Mapping[Column, str]) -> Shape | None:
    """Return the shape of most of the values that have one; the first of `FIELDS` wins a draw."""
    found = Counter(shape_of(renamed(value, columns)) for value in values if isinstance(value, dict))
    return max(FIELDS, key=lambda shape: found[shape]) if found.keys() - {None} else None


def renamed(row: dict[str, Any], columns: Mapping[Column, str]) -> dict[str, Any]:
    """Return a row with the fields of `columns` under a record's names; they displace others of that name."""
    if not columns:
        return row
    given = {field: name for field, name in columns.items() if name in row}
    taken = {*given, *given.values()}
    return {name: value for name, value in row.items() if name not in taken} | {
        field: row[name] for field, name in given.items()
    }


def adapter(shape: Shape, columns: Mapping[Column, str], system: str | None) -> Callable[[Any], dict[str, Any]]:
    """Return the function that makes a row a record in the form of `data.table`, or raises Misfit.

    What is missing is derived: the id from the row, the key from the normalised prompt (of a text, from
    the text), the system turn from the row's `system`, else from the one given. Fields with no place in a
    record are kept under the origin's `fields`; of a turn, role and content alone are.
    """
    read = READERS[shape]
    turn_fields = {*FIELDS[shape], *MORE.get(shape, ())}

    def adapt(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Misfit(f"expected an object, found {kind(value)}")
        row = renamed(value, columns)
        if any(field not in row for field in FIELDS[shape]):
            raise Misfit(f"expected {' and '.join(FIELDS[shape])}; found {', '.join(row) or 'no field'}")
        record = read(row)
        turns: Turns = record["messages"]
        if turns[-1]["role"] != "assistant":
            raise Misfit(f"{FIELDS[shape][0]}: expected the assistant's turn last, found the {turns[-1]['role']}'s")
        record["id"] = digest(value)
        record["key"] = digest(normalise(_prompt_of(turns)))
        record["origin"] = {}
        if others := [name for name in row if name not in turn_fields]:
            _take_fields(record, {name: row[name] for name in others if not absent(row[name])})
        own = row.get("system") if "system" in turn_fields else None
        said = system if absent(own) else text_of("system", own)
        if said and shape != "text" and all(turn["role"] != "system" for turn in turns):
            turns.insert(0, _turn("system", said))
        return record

    return adapt


def _prompt_of(turns: Turns) -> str:
    # The system turn is configuration: editing it must not move a row to another split.
    return " ".join(turn["content"] for turn in turns[:-1] or turns if turn["role"] != "system")


def _take_fields(record: dict[str, Any], fields: dict[str, Any]) -> None:
    """Put what a row says beside its turns where it belongs in the record."""
    for name, read in OPTIONAL.items():
        if name in fields and (value := read(name, fields[name])) is not None:
            record[name] = value
            del fields[name]
    for name in TIMES:
        if name in fields and (moment := moment_of(fields[name])) is not None:
            record["time"] = moment
            del fields[name]
            break
    if isinstance(fields.get("origin"), dict):
        record["origin"] = fields.pop("origin")
    if fields:
        record["origin"] = {**record["origin"], "fields": plain(fields)}


def _messages(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": _turns("messages", row["messages"])}


def _sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": _turns("conversations", row["conversations"])}


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*_said("user", "prompt", row), *_said("assistant", "completion", row)]}


def _feedback(row: dict[str, Any]) -> dict[str, Any]:
    label = thumb_of("label", row["label"])
    if label is None:
        raise Misfit(f"label: expected true or false, found {kind(row['label'])}")
    return {**_pair(row), "label": label}


def _instruction(row: dict[str, Any]) -> dict[str, Any]:
    prompt = text_of("instruction", row["instruction"])
    if not absent(row.get("input")) and (given := text_of("input", row["input"])).strip():
        prompt = f"{prompt}\n\n{given}"
    return {"messages": [_turn("user", prompt), _turn("assistant", text_of("output", row["output"]))]}


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = (_said("assistant", name, row) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Misfit("chosen and rejected: expected the same turns before the last, found different ones")
    if rejected[-1]["role"] != "assistant":
        raise Misfit(f"rejected: expected the assistant's turn last, found the {rejected[-1]['role']}'s")
    if all(turn["role"] != "user" for turn in chosen):  # else they are whole conversations, whatever `prompt` says
        if "prompt" not in row:
            raise Misfit(f"expected prompt, or whole conversations; found {', '.join(row)}")
        chosen = [*_said("user", "prompt", row), *chosen]
    return {"messages": chosen, "rejected": rejected[-1]["content"]}


def _text(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [_turn("assistant", text_of("text", row["text"]))]}


READERS: dict[Shape, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "messages": _messages, "preference": _preference, "feedback": _feedback, "prompt_completion": _pair,
    "sharegpt": _sharegpt, "instruction": _instruction, "text": _text,
}  # fmt: skip


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _said(role: str, name: str, row: dict[str, Any]) -> Turns:
    """Return a field's text as a turn of a role, or the turns that it lists."""
    value = row[name]
    return _turns(name, value) if isinstance(value, list) else [_turn(role, text_of(name, value))]


def _turns(name: str, value: Any) -> Turns:
    """Return a list of turns in OpenAI's form or ShareGPT's, or JSON of one, as role and content."""
    turns = list_of(name, value)
    if not turns:
        raise Misfit(f"{name}: expected turns, found none")
    return [_read_turn(f"{name}[{place}]", turn) for place, turn in enumerate(turns)]


def _read_turn(place: str, turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise Misfit(f"{place}: expected an object with role and content, found {kind(turn)}")
    who, what = ("from", "value") if "from" in turn else ("role", "content")
    said, text = turn.get(who), turn.get(what)
    if str(said) in TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        raise Misfit(f"{place}: turns of tools and functions are not supported")
    if str(said) not in ROLES:
        raise Misfit(f"{place}.{who}: expected one of {', '.join(ROLES)}; found {kind(said)}")
    if isinstance(text, list):  # OpenAI's content parts
        parts = [part.get("text") if isinstance(part, dict) else part for part in text]
        text = "\n".join(text_of(f"{place}.{what}[{number}].text", part) for number, part in enumerate(parts))
    return _turn(ROLES[str(said)], text_of(f"{place}.{what}", text))
