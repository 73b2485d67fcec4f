"""What every key of `configs/*.yaml` means. Each section is one file of the same name."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from forgeline.lineage import value_digest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A mapping that refuses keys it does not know and never changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def digest(self) -> str:
        """Return the sha256 of the section's values, defaults included."""
        return value_digest(self.model_dump(mode="json"))


# What is measured of a candidate: gates and success metrics are bounds on it.

Measure = Literal[
    "bleu", "chrf", "perplexity", "stop_rate", "test_prompts", "test_leakage", "unmasked_pii", "data_card",
    "counterfactual_gap", "association_gap", "tone_gap", "length_disparity", "label_disparity", "license_permits_use",
]  # fmt: skip


class Bound(Section):
    """The values that a piece of evidence may have, both ends included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_bound(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("min, max or both must be given")
        return self


# project.yaml: the use case and where its state lives


class Stores(Section):
    """The address of each kind of state; secrets are taken from the environment, never from here."""

    mlflow: str = "sqlite:///mlflow.db"
    ledger: str = "ledger.jsonl"


class Project(Section):
    """The use case: what the model is for, who answers for it, and when it is good enough."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    objective: str
    owner: str
    users: str
    use: Literal["commercial", "research"]
    risk_tier: Literal["minimal", "limited", "high"]
    human_review: str
    success: dict[Measure, Bound]
    seed: int = 17
    stores: Stores = Stores()


# data.yaml: the data line; DVC tracks these keys by name


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
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


# train.yaml: the base model and how it is tuned

Template = Annotated[str, Field(pattern=r"^configs/templates/[\w.-]+\.jinja$")]


class Model(Section):
    """The base model: any source the resolver knows, or a folder in the transformers layout.

    `chat_template` is a Jinja file of the project, for a tokenizer that has no template of its own, or a poor one.
    """

    source: str
    license: str
    trust_remote_code: bool = False
    chat_template: Template | None = None


Method = Literal[
    "lora",  # low-rank adapters beside frozen weights (Hu et al., 2021)
    "rslora",  # LoRA scaled by alpha / sqrt(rank), stable for large ranks (Kalajdzievski, 2023)
    "dora",  # LoRA of the direction, and a magnitude of its own (Liu et al., 2024)
    "qlora",  # LoRA beside weights of 4 or 8 bits (Dettmers et al., 2023)
    "full",  # every weight of the base model
    "scratch",  # every weight of a new model, from `scratch`, with a tokenizer of its own
    "dpo",  # a LoRA adapter, from pairs of a better and a worse completion (Rafailov et al., 2023)
    "kto",  # a LoRA adapter, from completions that people liked or did not (Ethayarajh et al., 2024)
]


class Lora(Section):
    """The low-rank adapter. `all-linear` finds every linear layer but the head, whatever the architecture."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Scratch(Section):
    """A new model: an architecture and its settings in transformers' terms, and the size of its vocabulary.

    What `settings` does not name has the architecture's own default.
    """

    architecture: str = "llama"
    settings: dict[str, bool | int | float | str] = {}
    vocabulary: Annotated[int, Field(ge=300)] = 8192  # 256 bytes, the special tokens, and merges
    chat_template: Template = "configs/templates/chatml.jinja"


class Preference(Section):
    """How closely DPO and KTO keep to the model they start from: the larger beta, the closer."""

    beta: Annotated[float, Field(gt=0)] = 0.1


class Distributed(Section):
    """One run on several processes. `nodes` above 1 wait for each other at `rendezvous`, host:port of the first.

    `ddp` keeps a whole model in each process, `fsdp` a share of it.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    processes: Positive = 1  # on each node: one a GPU
    nodes: Positive = 1
    rendezvous: str | None = None

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Distributed:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need rendezvous, the host:port of the first")
        return self


class Train(Section):
    """The tuning run.

    `batch_size` is the number of examples of an optimiser step; `micro_batch` how many of them are computed
    at once, which changes nothing but memory and speed: `auto` takes as many as fit. `start` is what to go on
    from: the number or alias of a version, or an adapter's folder, written with a slash. Records longer than
    `max_tokens` stop the run, or are left out with `overlong: drop`. The validation loss is taken every
    `validate_steps` and at the end; after `patience` of them without a better one training stops, and the
    best weights count.
    """

    method: Method = "lora"
    model: Model
    start: str | None = None
    lora: Lora = Lora()
    quantization: Literal["nf4", "int8"] = "nf4"  # of the base weights under qlora
    scratch: Scratch = Scratch()
    preference: Preference = Preference()
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_examples: Positive | None = None
    max_tokens: Positive = 512
    overlong: Literal["stop", "drop"] = "stop"
    epochs: Positive = 1
    batch_size: Positive = 16
    micro_batch: Positive | Literal["auto"] = "auto"
    activation_checkpointing: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    distributed: Distributed = Distributed()
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_steps: Positive = 25
    validate_steps: Positive | None = None
    patience: Positive | None = None

    @property
    def bits(self) -> Literal["none", "nf4", "int8"]:
        """How the base weights are quantised."""
        return self.quantization if self.method == "qlora" else "none"

    @model_validator(mode="after")
    def _patience_has_validations(self) -> Train:
        if self.patience is not None and self.validate_steps is None:
            raise ValueError("patience counts validations: set validate_steps too")
        return self


# cost.yaml: what a run is charged for


class Cost(Section):
    """Prices by the hour of the machines that runs may be on, the one in use, and where its power comes from.

    `country` is an ISO 3166 three-letter code: it decides the carbon of a kilowatt-hour.
    """

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    machine: str
    prices: dict[str, Annotated[float, Field(ge=0)]]
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "GBR"

    @model_validator(mode="after")
    def _machine_has_a_price(self) -> Cost:
        if self.machine not in self.prices:
            raise ValueError(f"prices has no {self.machine}: it has {', '.join(self.prices)}")
        return self


# sweep.yaml: the hyper-parameters that a search tries


class Range(Section):
    """Values from low to high, on a logarithmic scale with `log`; whole numbers where the key takes no others."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on a logarithmic scale")
        return self


# Brackets mark a branch of a union: the path in a message leaves them out.
Choice = Annotated[
    Annotated[Range, Tag("[range]")] | Annotated[list[Any], Tag("[values]"), Field(min_length=1)],
    Discriminator(lambda given: "[values]" if isinstance(given, list) else "[range]"),
]


class Sweep(Section):
    """A search for the train settings with the lowest validation loss.

    `space` holds, by dotted key as in --set, the values to try: a range, or a list.
    """

    trials: Positive = 12
    seed: int = 17
    space: Annotated[dict[str, Choice], Field(min_length=1)]


# evaluate.yaml: how candidates are scored


class Evaluate(Section):
    """Greedy replies to the frozen test prompts, and how sure their scores are."""

    max_prompts: Positive | None = None
    max_new_tokens: Positive = 64
    batch_size: Positive = 32
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    sample_rows: Positive = 50


# policy.yaml: what a candidate must show to be promoted


class Gate(Bound):
    """One rule over one piece of evidence, or over its difference to the base or the champion.

    With `confident`, the whole confidence interval must lie within the bounds; an interval that
    straddles a bound is unknown, and unknown blocks.
    """

    evidence: Measure
    against: Literal["base", "champion"] | None = None
    confident: bool = False


class Policy(Section):
    """Every gate must pass before the champion alias moves."""

    gates: Annotated[dict[str, Gate], Field(min_length=1)]


# serve.yaml: the deployment


class Sampling(Section):
    """Generation settings used when a request names none; temperature 0 is greedy."""

    max_tokens: Positive = 96
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Parity(Section):
    """How closely a bundle must repeat the model that was evaluated."""

    prompts: Positive = 4
    tolerance: Annotated[float, Field(ge=0)] = 1e-3


class Serve(Section):
    """The local target and the gateway's limits. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8600
    sampling: Sampling = Sampling()
    max_queue: Positive = 32
    max_body: Positive = 1_000_000
    request_timeout: Annotated[float, Field(gt=0)] = 120.0
    drain_timeout: Annotated[float, Field(gt=0)] = 30.0
    parity: Parity = Parity()


class Config(Section):
    """The whole configuration and the folder it was read from."""

    root: Path
    profile: str | None = None
    project: Project
    data: Data
    train: Train
    evaluate: Evaluate
    policy: Policy
    serve: Serve
    cost: Cost
    sweep: Sweep

    def digest(self) -> str:
        """Return the sha256 of every value that shapes a version, wherever the project lies."""
        return value_digest(self.model_dump(mode="json", exclude={"root", "profile", "cost", "sweep"}))


SECTIONS = ("project", "data", "train", "evaluate", "policy", "serve", "cost", "sweep")
