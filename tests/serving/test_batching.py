"""Many requests in one batch: each gets what it gets alone, whoever joins or leaves beside it."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scene import HELLO, LINEAGE, make_adapter

from forgeline.config import Config
from forgeline.errors import ServingError
from forgeline.models import LanguageModel, encode_prompt, generate, load_tuned
from forgeline.serving import bundle as bundles
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused
from forgeline.serving.engines.decode import PROMPT_TOKENS, InTurn, Together, decoder
from forgeline.serving.engines.embedded import Embedded, Job
from forgeline.serving.engines.pace import Pace
from forgeline.serving.engines.rows import in_rows
from forgeline.serving.engines.transformers import ROWS, Rows, answer

SYSTEM = {"role": "system", "content": "You answer what the guests of a small hotel ask, in one plain sentence."}
WORDS = [
    "room",
    "train",
    "dinner",
    "north",
    "cheap",
    "museum",
    "taxi",
    "please",
    "Friday",
    "booking",
    "pool",
    "parking",
]


def requests(seed: int, number: int) -> list[GenerationRequest]:
    """Requests of all kinds and lengths; many share their system turn, one has a prompt of several parts."""
    dice = random.Random(seed)
    made = []
    for place in range(number):
        words = " ".join(dice.choices(WORDS, k=300 if place == 3 else dice.randint(1, 40)))
        messages = [SYSTEM, {"role": "user", "content": words}][dice.random() < 0.3 :]
        sampled = dice.random() < 0.4
        made.append(
            GenerationRequest(
                messages,
                max_tokens=dice.randint(1, 24),
                temperature=0.9 if sampled else 0.0,
                top_p=dice.choice([1.0, 0.8]),
                seed=dice.randint(0, 99) if sampled else None,
                stop=("e",) if dice.random() < 0.2 else (),
                logprobs=2 if dice.random() < 0.2 else None,
            )
        )
    return made


def said(pieces: list[Piece]) -> tuple[Any, ...]:
    return "".join(piece.text for piece in pieces), pieces[-1].finish_reason, pieces[-1].usage


@pytest.fixture(scope="module")
def batch(bundle: Path, root: Path) -> Rows:
    rows = Rows(bundle, root)
    rows.load()
    decoder = rows._served[None].decoder
    assert isinstance(decoder, Together)
    decoder._processors, decoder.pace = 2, Pace(1)  # one of two decodes, and the other reads the prompts
    return rows


def test_every_reply_is_the_same_alone_and_among_others(batch: Rows, model: LanguageModel) -> None:
    async def run() -> None:
        asked = requests(seed=11, number=26)
        dice, coming = random.Random(5), [Job(request) for request in asked]
        alive: list[Job] = []
        got: dict[Job, list[Piece]] = {job: [] for job in coming}
        dropped = {coming[6], coming[14]}
        todo, most = list(coming), 0
        while todo or alive:
            while todo and batch.room() and dice.random() < 0.4:
                alive.append(todo.pop(0))
                batch.add(alive[-1])
            most = max(most, len(alive))
            for job, piece in batch.step() if alive else ():
                assert isinstance(piece, Piece)
                got[job].append(piece)
                if piece.finish_reason:
                    alive.remove(job)
                elif job in dropped and len(got[job]) == 2:
                    alive.remove(job)
                    batch.drop(job)
        assert most == ROWS
        assert not batch.busy()
        for job, request in zip(coming, asked, strict=True):
            alone = answer(model, request)
            if job not in dropped:
                assert said(got[job]) == said(alone)
            assert [piece.text for piece in got[job]] == [piece.text for piece in alone[: len(got[job])]]

    asyncio.run(run())


def test_a_long_prompt_is_read_in_parts_while_others_speak(batch: Rows) -> None:
    async def run() -> None:
        short = Job(GenerationRequest(HELLO, max_tokens=40, temperature=0))
        long = Job(replace(short.request, messages=[{"role": "user", "content": "museum " * 4 * PROMPT_TOKENS["cpu"]}]))
        batch.add(short)
        list(batch.step())
        batch.add(long)
        for _ in range(4):
            assert [job for job, _ in batch.step()] == [short]
        batch.drop(short)
        batch.drop(long)

    asyncio.run(run())


def test_a_shared_beginning_is_read_once(model: LanguageModel) -> None:
    plain = in_rows(model.model)
    together = Together(model, rows=3, switch=None)
    first = encode_prompt(model.tokenizer, [SYSTEM, *HELLO])
    rows = [together.join(first)]
    list(together.step())
    rows.append(together.join([*first[:-6], *first[:5]]))  # beside the first, with another end
    together.leave(rows[0])
    rows.append(together.join([*first, 7, 8]))  # where the first was, as its next turn
    scores = dict(together.step())
    assert [row.known for row in rows] == [len(first), len(first) - 1, len(first) + 2]
    assert rows[2].memory == rows[0].memory
    plain()
    for row in rows[1:]:
        with torch.inference_mode():
            alone = model.model(input_ids=torch.tensor([row.tokens])).logits[0, -1]
        torch.testing.assert_close(scores[row], alone, atol=1e-4, rtol=1e-4)


def test_requests_in_the_engine_stream_side_by_side(bundle: Path, root: Path, model: LanguageModel) -> None:
    async def run() -> None:
        engine = Embedded("transformers", Rows(bundle, root))
        await engine.start()
        while not engine.ready:
            await asyncio.sleep(0.01)

        async def ask(request: GenerationRequest, leave_after: int = 1000) -> list[Piece]:
            pieces: list[Piece] = []
            async with aclosing(engine.generate(request)) as reply:
                async for piece in reply:
                    pieces.append(piece)
                    if len(pieces) == leave_after:
                        break
            return pieces

        endless = GenerationRequest(HELLO, max_tokens=3000, temperature=1.0, seed=1)
        asked = requests(seed=4, number=12)
        answers = await asyncio.gather(*(ask(endless, leave_after=3) for _ in range(ROWS)), *map(ask, asked))
        assert [said(pieces) for pieces in answers[ROWS:]] == [said(answer(model, request)) for request in asked]
        assert engine.depth == 0
        await engine.close()

    asyncio.run(run())


def test_log_probabilities_are_of_the_raw_distribution(model: LanguageModel) -> None:
    request = GenerationRequest(HELLO, max_tokens=4, temperature=1.7, seed=2, logprobs=3)
    pieces = answer(model, request)
    prompt = encode_prompt(model.tokenizer, HELLO)
    ids = list(prompt)
    for piece in pieces:
        (found,) = piece.logprobs
        with torch.inference_mode():
            expected = torch.log_softmax(model.model(input_ids=torch.tensor([ids])).logits[0, -1], dim=-1)
        top = expected.topk(3)
        assert [token for token, _ in found.top] == [model.tokenizer.decode(token) for token in top.indices]
        assert [logprob for _, logprob in found.top] == pytest.approx(top.values.tolist(), abs=1e-3)
        ids.append(next(n for n in expected.argsort(descending=True) if model.tokenizer.decode(n) == found.token))
        assert found.logprob == pytest.approx(float(expected[ids[-1]]), abs=1e-3)


def on_base(folder: Path, source: str) -> Path:
    """Say in an adapter's settings what it was made for, as tuning does."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": source}))
    return folder


def test_adapters_by_name_share_a_batch(bundle: Path, root: Path, config: Config, model: LanguageModel) -> None:
    folders = {f"a{seed}": on_base(make_adapter(root / "base", root / f"a{seed}", seed), "base") for seed in (7, 8)}
    folders["other"] = bundles.build(config, folders["a8"], {**LINEAGE, "version": "4"}, root / "bundles")
    rows = Rows(bundle, root, adapters={name: str(path) for name, path in folders.items()})
    rows.load()
    assert rows.models == ("a7", "a8", "other")

    async def run() -> None:
        names = ["a7", None, "a8", "a7", "other", None]
        jobs = [Job(replace(request, model=name)) for request, name in zip(requests(2, 6), names, strict=True)]
        got: dict[Job, list[Piece]] = {job: [] for job in jobs}
        for job in jobs:
            rows.add(job)
        while rows.busy():
            for job, piece in rows.step():
                assert isinstance(piece, Piece)
                got[job].append(piece)
        merged = {name: load_tuned(config.train, root / name, root) for name in ("a7", "a8")}
        alone = {None: model, **merged, "other": merged["a8"]}
        for job in jobs:
            assert said(got[job]) == said(answer(alone[job.request.model], job.request))
        with pytest.raises(RequestRefused, match="no model nobody"):
            rows.add(Job(replace(jobs[0].request, model="nobody")))

    asyncio.run(run())


def test_an_adapter_that_cannot_share_is_refused_at_load(bundle: Path, root: Path, tmp_path: Path) -> None:
    def refusal(**adapters: Path) -> str:
        with pytest.raises(ServingError) as refused:
            Rows(bundle, root, adapters={name: str(path) for name, path in adapters.items()}).load()
        return str(refused.value)

    stranger = on_base(make_adapter(root / "base", tmp_path / "stranger", 9), "hf://somebody/else")
    assert "was made for hf://somebody/else, the served bundle for base" in refusal(stranger=stranger)
    assert "holds no adapter" in refusal(nothing=tmp_path)
    assert "is the bundle's own name" in refusal(**{LINEAGE["model"]: stranger})
    settings = json.loads((on_base(stranger, "base") / "adapter_config.json").read_text())
    (stranger / "adapter_config.json").write_text(json.dumps(settings | {"bias": "all"}))
    assert "more than a plain LoRA adapter" in refusal(biased=stranger)


@pytest.fixture(scope="module")
def strange(model: LanguageModel) -> LanguageModel:
    """A model that remembers by a state, not by keys and values."""
    from transformers import MambaConfig, MambaForCausalLM

    from forgeline.models.load import ready

    torch.manual_seed(3)
    settings = MambaConfig(
        vocab_size=len(model.tokenizer),
        hidden_size=32,
        state_size=4,
        num_hidden_layers=2,
        eos_token_id=model.tokenizer.eos_token_id,
        initializer_range=0.5,
    )
    settings.max_position_embeddings = 512
    return ready(MambaForCausalLM(settings), model.tokenizer, "cpu")


def test_a_model_without_attention_takes_turns(strange: LanguageModel) -> None:
    prompts = [encode_prompt(strange.tokenizer, messages) for messages in (HELLO, [SYSTEM, *HELLO])]
    expected = [generate(strange, [prompt], max_new_tokens=6)[0].text for prompt in prompts]
    turns, _ = decoder(strange, rows=2)
    assert isinstance(turns, InTurn)
    rows = [turns.join(prompt) for prompt in prompts]
    assert not turns.room()
    for _ in range(6):
        for row, scores in turns.step():
            row.tokens.append(int(scores.argmax()))
    replies = [row.tokens[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    assert [strange.tokenizer.decode(reply, skip_special_tokens=True).strip() for reply in replies] == expected


def test_in_bfloat16_only_a_request_with_a_seed_reads_a_shared_beginning_again(model: LanguageModel) -> None:
    half = replace(model, model=copy.deepcopy(model.model).bfloat16())
    read: list[int] = []
    half.model.get_input_embeddings().register_forward_hook(lambda layer, given, out: read.append(given[0].numel()))
    together, _ = decoder(half, rows=2)
    opening = list(range(5, 35))
    first = together.join([*opening, 40])
    list(together.step())
    together.leave(first)
    for apart, tokens in ((False, 1), (True, 31)):
        row = together.join([*opening, 50], apart=apart)
        list(together.step())
        assert read[-1] == tokens
        together.leave(row)
