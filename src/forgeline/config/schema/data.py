"""data.yaml: the data line; DVC tracks these keys by name."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from forgeline.config.schema.section import Bound, Name, Positive, Section
from forgeline.lineage import value_digest

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "text"]
Shape = Literal["messages", "prompt_completion", "instruction", "sharegpt", "preference", "feedback", "text"]

Column = Literal[
    "messages", "prompt", "completion", "label", "chosen", "rejected", "conversations", "instruction", "input",
    "output", "text", "system", "id", "references", "weight", "key", "subject", "groups", "time",
]  # fmt: skip


class Source(Section):
    """One source of rows. Format and shape are detected unless they are given.

    `uri` is a path, glob or folder, or an address; with `query`, a database's. `${env:NAME}` in it stands for an
    environment variable. `columns` maps a record's field to the source's name for it. `weight` is the
    source's share of the training split relative to the other sources; without weights, every row is used.
    """

    uri: Annotated[list[str], Field(min_length=1)]
    adapter: Literal["records", "multiwoz_templates"] = "records"
    format: Format | None = None
    shape: Shape | None = None
    columns: dict[Column, str] = {}
    query: str | None = None
    weight: Annotated[float, Field(gt=0)] | None = None
    license: str | None = None

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Fetch(Section):
    """Where the raw rows come from, by name."""

    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    system: str | None = None
    seed: int = 17

    @model_validator(mode="after")
    def _weighs_all_or_none(self) -> Fetch:
        bare = [name for name, source in self.sources.items() if source.weight is None]
        if bare and len(bare) < len(self.sources):
            raise ValueError(f"a source's weight is relative to the others': {', '.join(bare)} needs one too")
        return self


Repair = Literal["encoding", "html", "spaces", "tokenisation"]
TextMeasure = Literal[
    "chars",  # Unicode characters
    "words",  # runs of non-space
    "word_chars",  # mean length of a word
    "symbols",  # share of characters that are neither letter, digit nor space
    "digits",  # share of characters that are digits
    "capitals",  # share of letters that are capitals
    "repeated_words",  # share of word 3-grams that came before in the text
    "repeated_lines",  # share of non-empty lines that came before in the text
    "pattern",  # matches of `pattern`
    "language",  # probability that the text is in one of `languages`; 1 below 20 letters
    "profanity",  # English words of the profanity list
    "toxicity",  # probability that the worst sentence is toxic, by a classifier blind to the names of groups
]


class Rule(Bound):
    """Rows whose measure lies outside the bounds go to quarantine, with the rule's name and the value.

    A dry rule counts what it would remove and removes nothing. `pattern` is a regular expression as Rust's
    `regex` reads it; `languages` are ISO 639 codes.
    """

    measure: TextMeasure
    over: Literal["completion", "prompt", "conversation"] = "completion"
    pattern: str | None = None
    languages: Annotated[list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]], Field(min_length=1)] | None = None
    dry_run: bool = False

    @field_validator("pattern")
    @classmethod
    def _looks_at_nothing_else(cls, value: str | None) -> str | None:
        if value and re.search(r"(?<!\\)(?:\\\\)*(?:\(\?<?[=!]|\\[1-9])", value):
            raise ValueError("look-around and back-references are not understood: match only what is wrong")
        return value

    @model_validator(mode="after")
    def _has_its_key(self) -> Rule:
        for measure, key in (("pattern", "pattern"), ("language", "languages")):
            if (self.measure == measure) != (getattr(self, key) is not None):
                raise ValueError(f"the measure {measure} and the key {key} go together")
        return self


class NearDuplicates(Section):
    """MinHash-LSH over character shingles of the normalised conversation, then the true Jaccard similarity.

    Two texts count as one from `threshold` on; `rows` hashes in each of `bands` bands find them.
    """

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.85
    shingle: Annotated[int, Field(ge=2, le=32)] = 5
    bands: Positive = 20
    rows: Positive = 6


PiiKind = Literal[
    "email", "phone", "card", "iban", "ip", "national_id", "url_credentials", "birth_date", "postcode", "secret"
]


class Pii(Section):
    """Which personal data and secrets are replaced, and by what.

    `regions` (ISO 3166) choose national forms of phones, ids and postcodes. `key` names the environment
    variable with the key of the pseudonyms. `recognisers` is a YAML file of one's own patterns, in the
    folder that DVC watches. `names` also looks for people's names, by a statistical model: slow, and
    often wrong.
    """

    kinds: list[PiiKind] = ["email", "phone", "card", "iban", "ip", "national_id", "url_credentials", "secret"]
    replace: Literal["tag", "pseudonym", "remove"] = "tag"
    regions: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = ["GB", "US"]
    key: str = "FORGELINE_PSEUDONYM_KEY"
    recognisers: Annotated[str, Field(pattern=r"^configs/recognisers/[\w.-]+\.ya?ml$")] | None = None
    names: bool = False


class Clean(Section):
    """What a row must be to stay; everything else is quarantined with its reason."""

    repair: list[Repair] = ["encoding", "html", "spaces", "tokenisation"]
    rules: dict[Name, Rule] = {}
    pii: Pii = Pii()
    near_duplicates: NearDuplicates | None = NearDuplicates()
    max_references: Positive = 5


class Association(Section):
    """Two word lists whose company with the groups is compared."""

    first: Annotated[list[str], Field(min_length=1)]
    second: Annotated[list[str], Field(min_length=1)]


class Assess(Section):
    """The groups and associations that the bias report looks for, as lower-case words.

    `slices` are fields of a record's groups that are reported on like groups that texts mention.
    `counterparts` say how a text about one group becomes the same text about another: rows of words that
    correspond, or the grammar of English gender for groups named female and male, which also exchanges
    the `names` (female, male). At most `sample` texts of a group are scored, chosen by their ids.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    groups: dict[str, dict[str, Annotated[list[str], Field(min_length=1)]]]
    associations: dict[str, Association]
    slices: list[str] = []
    counterparts: dict[str, Literal["english_gender"] | list[dict[str, str]]] = {}
    names: list[tuple[str, str]] = []
    scorers: list[Literal["sentiment", "toxicity"]] = ["sentiment"]
    sample: Positive = 4000

    @model_validator(mode="after")
    def _counterparts_fit(self) -> Assess:
        for category, rows in self.counterparts.items():
            groups = self.groups.get(category)
            if groups is None:
                raise ValueError(f"counterparts of {category}, which is none of the groups: {', '.join(self.groups)}")
            if rows == "english_gender":
                if set(groups) != {"female", "male"}:
                    raise ValueError(f"english_gender needs the groups female and male; {category} has others")
                continue
            words = [word for row in rows for word in row.values()]
            if unknown := {group for row in rows for group in row} - groups.keys():
                raise ValueError(f"counterparts of {category} name unknown groups: {', '.join(sorted(unknown))}")
            if repeated := {word for word in words if words.count(word) > 1}:
                raise ValueError(f"counterparts of {category} have a word twice: {', '.join(sorted(repeated))}")
        return self


class Resample(Section):
    """As many rows of each group: those of larger groups left out, or those of smaller groups repeated."""

    group: str
    to: Literal["smallest", "largest"]


class Reweigh(Section):
    """Weights under which group and label are independent (Kamiran and Calders, 2012)."""

    group: str
    label: str = "label"


class Mitigate(Section):
    """What is done to the training split, in this order; nothing unless named.

    `augment` lists categories of `assess.counterparts`. A group, or the label, is a category of
    `assess.groups` (the group that a row mentions), a field of the records' groups, or `label`.
    """

    augment: list[str] = []
    resample: Resample | None = None
    reweigh: Reweigh | None = None


class Split(Section):
    """How rows are dealt to the splits, and what the training split must not repeat.

    Rows that share a key or a prompt are dealt together: by the hash of their keys and the seed (`hash`);
    so that each value of the records' group `by` has its share (`stratified`); or by the records' time
    (`temporal`: validation begins at `validation_from`, test at `test_from`). `benchmarks` names files
    below data/benchmarks/; with `decontaminate`, training rows that repeat one, or nearly, are left out.
    """

    strategy: Literal["hash", "stratified", "temporal"] = "hash"
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    seed: int = 17
    by: str | None = None
    validation_from: datetime | None = None
    test_from: datetime | None = None
    benchmarks: dict[Name, str] = {}
    decontaminate: bool = True
    near_duplicates: NearDuplicates = NearDuplicates()

    @model_validator(mode="after")
    def _has_what_the_strategy_needs(self) -> Split:
        for strategy, keys in (("stratified", ("by",)), ("temporal", ("validation_from", "test_from"))):
            for key in keys:
                if (self.strategy == strategy) != (getattr(self, key) is not None):
                    raise ValueError(f"the strategy {strategy} and the key {key} go together")
        if self.validation_from and self.test_from and _moment(self.validation_from) >= _moment(self.test_from):
            raise ValueError("validation_from must be before test_from")
        return self


def _moment(time: datetime) -> datetime:
    """Return a time with a zone: UTC if it names none."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class Data(Section):
    """The data line: fetch, clean, assess, split.

    `mitigate` belongs to the split stage and changes the training split alone. `engine` and `workers`
    say where the work runs; they change nothing of what it yields.
    """

    fetch: Fetch
    clean: Clean = Clean()
    assess: Assess
    mitigate: Mitigate = Mitigate()
    split: Split = Split()
    engine: Literal["local", "ray"] = "local"
    workers: Positive | None = None

    @model_validator(mode="after")
    def _augments_what_has_counterparts(self) -> Data:
        if unknown := set(self.mitigate.augment) - self.assess.counterparts.keys():
            raise ValueError(f"mitigate.augment needs assess.counterparts of {', '.join(sorted(unknown))}")
        return self

    def digest(self) -> str:
        """Return the sha256 of what shapes the data."""
        return value_digest(self.model_dump(mode="json", exclude={"engine", "workers"}))
