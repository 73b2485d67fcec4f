"""Many replies, token by token: one forward pass moves every conversation on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from forgeline.errors import ModelError
from forgeline.models import LanguageModel
from forgeline.serving.engines.pace import Pace

if TYPE_CHECKING:
    import torch

    from forgeline.serving.engines.rows import Run

    Switch = Callable[[torch.Tensor], None]

logger = logging.getLogger("forgeline.engine")

# New tokens of prompts in a pass: so many that a long prompt is read quickly, so few that the others hardly wait.
PROMPT_TOKENS = {"cpu": 128, "cuda": 2048}
LEAST = 16  # of them for each row, however many rows read a prompt
WORTH_COPYING = 8  # tokens
# The scores of two ways to compute the same differ by rounding, in bfloat16 by a hundredth of their range.
AGREEMENT = 0.05
PROBE = list(range(5, 69))


@dataclass(eq=False)
class Row:
    """A conversation: its tokens, its adapter's number, how many tokens have been read; `memory` is its decoder's.

    `apart` says that it is to be read as if nobody else were there, where that could make a difference.
    """

    tokens: list[int]
    adapter: int = 0
    apart: bool = False
    known: int = 0
    memory: Any = None


class Decoder(Protocol):
    """A model and the conversations that it moves on."""

    def room(self) -> bool:
        """Whether another conversation can join."""
        ...

    def join(self, tokens: list[int], adapter: int = 0, *, apart: bool = False) -> Row:
        """Take on a tokenised prompt."""
        ...

    def leave(self, row: Row) -> None:
        """Forget a conversation."""

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        ...

    def step(self) -> Iterator[tuple[Row, torch.Tensor]]:
        """Move all on; yield the next token's scores, in float32, for each whose tokens have all been read.

        Add the chosen token to the row, or let it leave, before the next step.
        """
        ...


def decoder(
    language_model: LanguageModel, rows: int, switch: Switch | None = None
) -> tuple[Decoder, Callable[[], None]]:
    """Return what decodes so many conversations, together where the model's layers allow it, and what ends it.

    `switch` is told, before each pass, which adapter each of its tokens is for. Meanwhile the model's weights are laid
    out for decoding; they can be used for other things again after the end.
    """
    from forgeline.serving.engines.packed import pack
    from forgeline.serving.engines.rows import in_rows

    expected = _probed(language_model, switch)
    undo = (pack(language_model.model), in_rows(language_model.model))

    def end() -> None:
        for back in undo:
            back()

    together = Together(language_model, rows, switch)
    try:
        if together.agrees(PROBE, expected):
            return together, end
    except Exception:  # nobody knows what an architecture of its own does with a plan
        logger.debug("the model does not decode in rows", exc_info=True)
    end()
    return InTurn(language_model, rows, switch), lambda: None


def _probed(language_model: LanguageModel, switch: Switch | None) -> torch.Tensor:
    import torch

    if switch:
        switch(torch.zeros(len(PROBE), device=language_model.device))
    with torch.inference_mode():
        whole = torch.tensor([PROBE], device=language_model.device)
        scores: torch.Tensor = language_model.model(input_ids=whole, use_cache=False).logits[0, -1].float()
    return scores


@dataclass(frozen=True)
class Reading:
    """Parts of prompts that another thread reads: whose turns they are, and the scores that it will give."""

    runs: list[Run]
    scores: Future[torch.Tensor]


class Together:
    """Conversations in the rows of one batch, of a model whose layers attend in rows.

    Where decoding is fastest if it leaves a processor idle (`pace`), that one reads the prompts meanwhile. A row that
    has ended stays readable: a prompt that begins as it does, with the same system turn or as the same conversation's
    next turn, takes over what they share; in bfloat16, where being read in other parts may change a reply, unless it is
    to be read apart.
    """

    def __init__(self, language_model: LanguageModel, rows: int, switch: Switch | None) -> None:
        import torch

        from forgeline.serving.engines.rows import Cache

        self._switch = switch
        self._model = language_model.model
        self._device = language_model.device
        self._processors = torch.get_num_threads()
        self.pace = Pace(self._processors)
        self._reader = ThreadPoolExecutor(1, "engine-reader")  # which has no thread until it is asked
        self._reading: Reading | None = None
        self._rounds = language_model.model.dtype is torch.bfloat16
        self._cache = Cache(rows)
        self._places = rows
        self._rows: dict[int, Row] = {}  # by place, the ended ones too
        self._active: list[Row] = []

    def agrees(self, tokens: list[int], expected: torch.Tensor) -> bool:
        """Say whether a prompt that is read in parts gets the scores that it gets at once, but for rounding."""
        settings = self._model.config.get_text_config()
        if not set(getattr(settings, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
            return False
        row, half = self.join([]), len(tokens) // 2
        for part in tokens[:half], tokens[half:-1], tokens[-1:]:
            row.tokens += part
            ((_, found),) = self.step()
        self.leave(row)
        return bool((found - expected).abs().max() <= AGREEMENT * (expected.max() - expected.min()))

    def room(self) -> bool:
        """Whether another conversation can join."""
        return len(self._active) < self._places

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._active)

    def join(self, tokens: list[int], adapter: int = 0, *, apart: bool = False) -> Row:
        """Give a tokenised prompt a place."""
        taken = {row.memory for row in self._active}
        row = Row(list(tokens), adapter, apart)
        free = [place for place in range(self._places) if place not in taken]
        row.memory = max(free, key=lambda place: (self._shared(place, row), -place))
        self._active.append(row)
        return row

    def leave(self, row: Row) -> None:
        """Free a row's place."""
        if self._reading and any(run.row == row.memory for run in self._reading.runs):
            wait([self._reading.scores])  # nobody may begin in a place that is written to
        self._active.remove(row)

    def step(self) -> Iterator[tuple[Row, torch.Tensor]]:
        """Move all on; yield the next token's scores for each row whose tokens have all been read."""
        for row in self._active:
            if self._rows.get(row.memory) is not row:
                self._begin(row)
        runs = self._shares()
        new = [run for run in runs if run.count > 1]
        speaking = [run for run in runs if run.count == 1]
        # Adapters are switched for one pass at a time, so with them nothing is read beside.
        beside = self._switch is None and self.pace.fastest < self._processors
        if self._reading is None and not (new and beside):
            yield from self._moved(runs, self._scores(runs, None) if new else self._paced(runs))
            return
        if new and self._reading is None:
            idle = self._processors - (self.pace.fastest if speaking else 0)
            self._make_room(new)
            self._reading = Reading(new, self._reader.submit(self._scores, new, max(1, idle)))
        if speaking:
            self._make_room(speaking)
            yield from self._moved(speaking, self._scores(speaking, self.pace.fastest))
        if (reading := self._reading) and (reading.scores.done() or not speaking):
            self._reading = None
            yield from self._moved(reading.runs, reading.scores.result())

    def _shares(self) -> list[Run]:
        """Return what is read now of each row, in the order of places, but of those that are being read."""
        from forgeline.serving.engines.rows import Run

        taken = {run.row for run in self._reading.runs} if self._reading else set()
        rows = sorted((row for row in self._active if row.memory not in taken), key=lambda row: row.memory)
        pending = {row: len(row.tokens) - row.known for row in rows}
        reading = sum(count > 1 for count in pending.values())
        share = max(LEAST, PROMPT_TOKENS[self._device.type] // max(1, reading))
        return [Run(row.memory, row.known, min(count, share)) for row, count in pending.items()]

    def _make_room(self, runs: Sequence[Run]) -> None:
        """Let the rows be long enough: while another thread looks at them, they stay as they are."""
        width = max(run.width for run in runs)
        if self._reading and not self._cache.reaches(width):
            wait([self._reading.scores])
        self._cache.reach(width)

    def _scores(self, runs: Sequence[Run], threads: int | None) -> torch.Tensor:
        """Return the (runs, vocabulary) scores after each run's last token, from one pass over all."""
        import torch

        from forgeline.serving.engines.rows import Plan

        rows = [self._rows[run.row] for run in runs]
        ids = [token for row, run in zip(rows, runs, strict=True) for token in row.tokens[run.first :][: run.count]]
        with torch.inference_mode(), _few_threads(threads):
            plan = Plan(self._cache, runs, self._device)
            if self._switch:
                self._switch(torch.tensor([row.adapter for row in rows], device=self._device)[plan.owners])
            scores = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=plan.positions[None],
                use_cache=False,
                logits_to_keep=plan.ends,
                plan=plan,
            ).logits[0]
        if not plan.seen:
            raise ModelError(f"{type(self._model).__name__} computes its attention by itself.")
        found: torch.Tensor = scores.float()
        return found

    def _moved(self, runs: Sequence[Run], scores: torch.Tensor) -> Iterator[tuple[Row, torch.Tensor]]:
        """Yield the scores of the rows that have been read to their end; one that left meanwhile is not told."""
        for run, its_scores in zip(runs, scores, strict=True):
            row = self._rows[run.row]
            row.known += run.count
            if row.known == len(row.tokens) and row in self._active:
                yield row, its_scores

    def _begin(self, row: Row) -> None:
        """Let a row start from the longest beginning that any row has of its prompt."""
        own = row.memory
        lengths = {place: self._shared(place, row) for place in self._rows}
        best = max(lengths, key=lambda place: (lengths[place], place == own), default=own)
        row.known = lengths.get(best, 0)
        if best != own and row.known < WORTH_COPYING:
            row.known = 0
        elif best != own:
            self._cache.copy(best, own, row.known)
        self._rows[own] = row

    def _shared(self, place: int, row: Row) -> int:
        """Return how many of a row's first tokens, short of the last, are known in a place."""
        there = self._rows.get(place)
        if there is None or there.adapter != row.adapter or (self._rounds and row.apart):
            return 0
        limit = min(there.known, len(row.tokens) - 1)
        if there.tokens[:limit] == row.tokens[:limit]:
            return limit
        return next(number for number in range(limit) if there.tokens[number] != row.tokens[number])

    def _paced(self, runs: Sequence[Run]) -> torch.Tensor:
        """Return the scores after a token each, from a pass with as many threads as are fastest."""
        threads, began = self.pace.threads(), time.perf_counter()
        scores = self._scores(runs, threads)
        self.pace.took(time.perf_counter() - began)
        return scores

    def tune(self) -> None:
        """Find out how many processor threads decode fastest now; from then on that is looked at again by itself."""
        if self._device.type != "cpu":
            return
        joined = [self.join([place]) for place in range(self._places)]
        self.pace.begin()
        while self.pace.on_trial:
            for row, _scores in self.step():
                row.tokens.append(0)
        for row in joined:
            self.leave(row)


@contextmanager
def _few_threads(threads: int | None) -> Iterator[None]:
    """Let this thread compute with so many, and others as they did."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InTurn:
    """Conversations that each have a cache of the model's own kind, and take turns."""

    def __init__(self, language_model: LanguageModel, rows: int, switch: Switch | None) -> None:
        self._switch = switch
        self._model = language_model.model
        self._device = language_model.device
        self._places = rows
        self._active: list[Row] = []
        accepted = signature(self._model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in accepted else "past_key_values"  # Mamba's name for it

    def room(self) -> bool:
        """Whether another conversation can join."""
        return len(self._active) < self._places

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._active)

    def join(self, tokens: list[int], adapter: int = 0, *, apart: bool = False) -> Row:
        """Give a tokenised prompt a cache of its own."""
        from transformers import DynamicCache

        row = Row(list(tokens), adapter, apart, memory=DynamicCache(config=self._model.config))
        self._active.append(row)
        return row

    def leave(self, row: Row) -> None:
        """Forget a conversation."""
        self._active.remove(row)

    def step(self) -> Iterator[tuple[Row, torch.Tensor]]:
        """Move every conversation on by itself; its prompt is read at once."""
        import torch

        # An index, not the number 1: a slice of the hidden states is multiplied 20 times slower on a processor.
        last = torch.tensor([-1], device=self._device)
        for row in list(self._active):
            new = torch.tensor([row.tokens[row.known :]], device=self._device)
            cache = {self._cache_name: row.memory}
            if self._switch:
                self._switch(torch.full(new[0].shape, row.adapter, device=self._device))
            with torch.inference_mode():
                output = self._model(input_ids=new, **cache, use_cache=True, logits_to_keep=last)
            row.known = len(row.tokens)
            yield row, output.logits[0, -1].float()
