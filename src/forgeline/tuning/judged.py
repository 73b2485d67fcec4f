"""From a split to what people judged: pairs of which they liked one better, and replies with a thumb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgeline.config.schema import Train
from forgeline.errors import DataError, TuningError
from forgeline.models import Example, encode_example
from forgeline.records import Message, Record, read_records
from forgeline.sample import sample


@dataclass(frozen=True)
class Judged(Example):
    """A tokenised record with the completion that people liked less, or whether they liked its own."""

    rejected: tuple[int, ...] = ()
    label: bool = True

    def __len__(self) -> int:
        """Return the tokens of its longest sequence."""
        return len(self.prompt) + max(len(self.completion), len(self.rejected))

    @property
    def tokens(self) -> int:
        """The tokens of all its sequences."""
        both = bool(self.rejected) + 1
        return len(self.prompt) * both + len(self.completion) + len(self.rejected)


@dataclass(frozen=True)
class Judgements:
    """The examples of a split, and the ids of their records."""

    examples: list[Judged]
    ids: list[str]


def read_judged(path: Path, tokenizer: Any, config: Train, limit: int | None, seed: int) -> Judgements:
    """Return a seeded sample of the records in a split that `config.method` can learn from.

    DPO takes those with a `rejected` completion, KTO those with a `label`. A pair whose two completions are
    the same says nothing and is left out; so are overlong records with `overlong: drop`.

    Raises:
        DataError: if none can be used, or records have weights, which TRL's losses do not know.
        TuningError: if a record is longer than `max_tokens`.
    """
    choose = _pairs if config.method == "dpo" else _thumbs
    records = choose(path, read_records(path))
    telling = [record for record in records if record.completion != record.rejected]
    if not telling:
        raise DataError(f"{path}: all {len(records)} pairs have the same reply as completion and as rejected.")
    weighted = [record.id for record in telling if record.weight != 1]
    if weighted:
        raise DataError(
            f"{path}: {len(weighted)} records have a weight other than 1 (the first is {weighted[0]}), which "
            f"{config.method} cannot follow: take `reweigh` out of mitigate in configs/data.yaml."
        )
    sampled = sample(telling, limit, seed)
    examples = {record.id: _encode(tokenizer, record) for record in sampled}
    fitting = {name: example for name, example in examples.items() if len(example) <= config.max_tokens}
    overlong = [name for name in examples if name not in fitting]
    if overlong and (config.overlong == "stop" or not fitting):
        raise TuningError(
            f"{path}: {len(overlong)} of {len(examples)} records are longer than train.max_tokens="
            f"{config.max_tokens} (the first is {overlong[0]}): raise it, or leave them out with train.overlong=drop."
        )
    for count, what in ((len(records) - len(telling), "equal pairs"), (len(overlong), "records that are too long")):
        if count:
            print(f"{path}: {count} {what} are left out")
    return Judgements(list(fitting.values()), list(fitting))


def _pairs(path: Path, records: list[Record]) -> list[Record]:
    found = [record for record in records if record.rejected is not None]
    if not found:
        raise DataError(
            f"{path}: none of {len(records)} records has a rejected completion, which dpo learns from: "
            "add a source with chosen and rejected replies to configs/data.yaml (docs/preferences.md)."
        )
    return found


def _thumbs(path: Path, records: list[Record]) -> list[Record]:
    found = [record.model_copy(update={"rejected": None}) for record in records if record.label is not None]
    if not found:
        raise DataError(
            f"{path}: none of {len(records)} records has a label, which kto learns from: "
            "add a source of replies with thumbs to configs/data.yaml (docs/preferences.md)."
        )
    return found


def _encode(tokenizer: Any, record: Record) -> Judged:
    own = encode_example(tokenizer, record)
    if record.rejected is None:
        return Judged(own.prompt, own.completion, label=bool(record.label))
    turn = Message(role="assistant", content=record.rejected)
    other = encode_example(tokenizer, record.model_copy(update={"messages": [*record.messages[:-1], turn]}))
    return Judged(own.prompt, own.completion, rejected=tuple(other.completion))
