"""A bundle of an approach says what the approach said when it was evaluated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
import uvicorn
from openai import OpenAI
from scene import LINEAGE, PROMPTS, free_port, running
from test_remote import asked, until

from forgeline.config import Config
from forgeline.config.schema import Prompt
from forgeline.errors import ServingError
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.subjects import Local
from forgeline.models import LanguageModel, load_base
from forgeline.prompting import Approach, Example, Prompter, Store
from forgeline.serving.bundle import build, load, verify
from forgeline.serving.engines import GenerationRequest, Piece, server
from forgeline.serving.engines.embedded import Embedded
from forgeline.serving.engines.remote import Endpoint, Remote
from forgeline.serving.engines.transformers import Rows
from forgeline.serving.parity import check

SHOWN = [Example("1", "a", "Hello here", "Good day!"), Example("2", "b", "Book a room", "For how many nights?")]
FACTS = ["restaurant; name: pizza hut", "table; for: 4"]


@pytest.fixture(scope="module")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    store = Store(Store.build(tmp_path_factory.mktemp("store") / "store.db", SHOWN, FACTS, embedded=False))
    follows = Approach(
        name="few_shot",
        model="base",
        prompt=Prompt(system="{{system}} Facts: {{facts}}"),
        prompt_version="prompts:/x/1",
        examples=1,
        facts=1,
        retriever="bm25",
        max_prompt_tokens=256,
    )
    return Prompter(follows, store)


@pytest.fixture(scope="module")
def base(config: Config) -> LanguageModel:
    return load_base(config.train, config.root)


@pytest.fixture(scope="module")
def approach_bundle(
    config: Config, base: LanguageModel, prompter: Prompter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle without weights: a base by reference, its tokenizer, the approach and its store."""
    tokenizer = tmp_path_factory.mktemp("tuned")
    base.tokenizer.save_pretrained(tokenizer)
    return build(config, tokenizer, LINEAGE, config.root / "bundles", prompter)


def test_a_served_approach_replies_as_it_was_evaluated(
    config: Config, base: LanguageModel, prompter: Prompter, approach_bundle: Path
) -> None:
    evaluated = Approached(Local("few_shot", base, 1), prompter).replies(PROMPTS, 8)
    plain = Local("plain", base, 1).replies(PROMPTS, 8)
    assert [reply.text for reply in evaluated] != [reply.text for reply in plain]
    with running(approach_bundle, config.root) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        options = {"model": LINEAGE["model"], "max_tokens": 8, "temperature": 0}
        served = [client.chat.completions.create(messages=prompt, **options) for prompt in PROMPTS]  # type: ignore[call-overload]
        *_, ended = client.chat.completions.create(messages=PROMPTS[1], stream=True, **options)  # type: ignore[call-overload]
        kept = httpx2.get(f"{url}/v1/interactions", params={"limit": 1}).json()["data"][0]
    assert [answer.choices[0].message.content.strip() for answer in served] == [reply.text for reply in evaluated]
    tokens = Approached(Local("few_shot", base, 1), prompter).prompt_tokens(PROMPTS)
    assert [answer.usage.prompt_tokens for answer in served] == tokens
    assert [answer.model_extra["forgeline"]["facts"] for answer in served] == [[], FACTS[1:]]
    assert ended.model_extra["forgeline"] == {**served[1].model_extra["forgeline"], "rung": "cache"}
    assert (kept["rung"], kept["facts"]) == ("cache", FACTS[1:])


def test_an_engines_own_server_tells_the_gateway_the_facts(config: Config, approach_bundle: Path) -> None:
    request = GenerationRequest(PROMPTS[1], max_tokens=3, temperature=0)

    async def main() -> list[Piece]:
        inside, port = Embedded("transformers", Rows(approach_bundle, config.root)), free_port()
        app = server.create_app(inside, verify(approach_bundle))
        serving = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        served = asyncio.create_task(serving.serve())
        engine = Remote("engine", Endpoint(url=f"http://127.0.0.1:{port}/v1", model=LINEAGE["model"]))
        await engine.start()
        await until(lambda: engine.ready, 60)
        pieces = await asked(engine, request)
        await engine.close()
        serving.should_exit = True
        await served
        return pieces

    pieces = asyncio.run(main())
    assert [piece.facts for piece in pieces] == [(FACTS[1],), *[()] * (len(pieces) - 1)]


def test_parity_goes_through_the_approach(
    config: Config, base: LanguageModel, prompter: Prompter, approach_bundle: Path
) -> None:
    report = check(base, approach_bundle, config.root, PROMPTS, 1e-3, 8, prompter)
    assert [comparison.prompt for comparison in report.comparisons] == PROMPTS
    with pytest.raises(ServingError, match="is not the model that was evaluated"):
        check(base, approach_bundle, config.root, PROMPTS, 1e-3, 8)


def test_a_tuned_model_keeps_its_adapter_beside_the_approach(
    config: Config, adapter: Path, model: LanguageModel, prompter: Prompter, bundle: Path
) -> None:
    tuned = Prompter(prompter.approach.model_copy(update={"model": "tuned"}), prompter.store)
    both = build(config, adapter, LINEAGE, config.root / "bundles", tuned)
    plain, with_approach = verify(bundle), verify(both)
    added = with_approach.files.keys() - plain.files.keys()
    assert added == {"approach/approach.json", "approach/store.db"}
    assert {name: with_approach.files[name] for name in plain.files} == plain.files
    check(model, both, config.root, PROMPTS, 1e-3, 8, tuned)


def test_an_altered_store_is_refused(config: Config, base: LanguageModel, prompter: Prompter, tmp_path: Path) -> None:
    base.tokenizer.save_pretrained(tmp_path / "tuned")
    damaged = build(config, tmp_path / "tuned", LINEAGE, tmp_path, prompter)
    (damaged / "approach/store.db").chmod(0o644)
    with (damaged / "approach/store.db").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ServingError, match=r"approach/store\.db was altered"):
        load(damaged, config.root)


def test_without_an_approach_a_folder_without_weights_is_no_bundle(
    config: Config, base: LanguageModel, tmp_path: Path
) -> None:
    base.tokenizer.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ServingError, match="is missing: train the model again"):
        build(config, tmp_path / "tuned", LINEAGE, tmp_path / "bundles")
