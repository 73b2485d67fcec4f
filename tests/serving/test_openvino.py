"""The openvino engine: a real tiny model under the real OpenVINO, from an exporter's stand-in to admission and reply.

Where the exporter's environment is, the real exporter is run too.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_openvino
from scene import HELLO, PROJECT, PROMPTS
from test_remote import asked, until

from forgeline.config import Config
from forgeline.config.schema import Gate
from forgeline.config.schema.serve import Signing
from forgeline.config.schema.serve.engine import Openvino
from forgeline.errors import ServingError
from forgeline.models import LanguageModel, encode_prompt
from forgeline.serving import admission
from forgeline.serving import variant as variants
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.engines import Engine, GenerationRequest, Piece, RequestRefused, openvino_variant
from forgeline.serving.engines.embedded import Embedded
from forgeline.serving.engines.make import made
from forgeline.serving.engines.openvino import Continuous
from forgeline.serving.signing import make_key

ENVIRONMENT = PROJECT / ".forgeline" / "engines" / "openvino-export"
installed = pytest.mark.skipif(
    not ENVIRONMENT.is_dir(), reason=f"{ENVIRONMENT} is not there: docs/engines.md says how to make it"
)
ASKED = GenerationRequest(HELLO, 12, 0.0)
OTHERS = [GenerationRequest([{"role": "user", "content": f"Tell me of {n}"}], 20 + n, 0.7) for n in range(6)]


@pytest.fixture(scope="module")
def tiny(model: LanguageModel) -> tiny_openvino.Tiny:
    return tiny_openvino.Tiny(len(model.tokenizer))


@pytest.fixture(scope="module")
def exported(tiny: tiny_openvino.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_openvino.write(tiny, folder)
    return folder


def environment(root: Path, exported: Path, release: str = openvino_variant.RELEASE) -> Path:
    """An exporter's environment whose Python gives every model the same export."""
    where = root / "exporter"
    metadata = where / "lib" / "python3.11" / "site-packages" / f"optimum_intel-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: optimum-intel\nVersion: {release}\n")
    (where / "bin").mkdir()
    python = where / "bin" / "python"
    python.write_text(f'#!/bin/sh\ntest -f "$3/model.safetensors" && cp -r "{exported}" "$4"\n')
    python.chmod(0o755)
    return where


@pytest.fixture
def manifest(copied: Path) -> Manifest:
    return verify(copied)


@pytest.fixture
def variant(copied: Path, manifest: Manifest, root: Path, exported: Path, tmp_path: Path) -> Path:
    return openvino_variant.export(copied, manifest, root, environment(tmp_path, exported))


@pytest.fixture
def judging(config: Config, root: Path) -> Config:
    """The configuration with a test split of three prompts."""
    split = root / "data" / "splits" / "test.jsonl"
    split.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {"id": str(n), "key": str(n), "messages": [*prompt, {"role": "assistant", "content": "We have a table."}]}
        for n, prompt in enumerate([*PROMPTS, [{"role": "user", "content": "Thanks"}]])
    ]
    split.write_text("".join(json.dumps(record) + "\n" for record in records))
    few = config.evaluate.model_copy(update={"max_new_tokens": 8, "min_examples": 3, "bootstrap_samples": 100})
    return config.model_copy(update={"evaluate": few})


def asking(config: Config, **gates: Gate) -> Config:
    return config.model_copy(update={"policy": config.policy.model_copy(update={"admission": gates})})


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    await engine.start()
    try:
        await until(lambda: engine.ready or engine.failure is not None, 60)
        assert engine.failure is None
        yield engine
    finally:
        await engine.close()


def engine_of(variant: Path, bundle: Path) -> Embedded:
    return Embedded("openvino", Continuous(variant, variants.verify(variant, verify(bundle)), bundle))


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_it_says_what_the_model_says_to_the_bundles_own_prompt(
    variant: Path, copied: Path, tiny: tiny_openvino.Tiny, model: LanguageModel
) -> None:
    prompt = encode_prompt(model.tokenizer, HELLO)
    said = tiny.greedy(prompt, 12)

    async def main() -> None:
        async with started(engine_of(variant, copied)) as engine:
            reply = await asked(engine, ASKED)
            assert text(reply) == model.tokenizer.decode(said)
            assert [piece.usage.completion_tokens for piece in reply] == list(range(1, 13))
            assert (reply[-1].usage.prompt_tokens, reply[-1].finish_reason) == (len(prompt), "length")
            stop = text(reply)[20:25]
            ended = await asked(engine, replace(ASKED, stop=(stop,)))
            assert text(ended) == text(reply)[: text(reply).index(stop)]
            assert ended[-1].finish_reason == "stop"
            with pytest.raises(RequestRefused, match="the model holds 4096 in all"):
                await asked(engine, replace(ASKED, max_tokens=4096))
            with pytest.raises(RequestRefused, match="no model polite here"):
                await asked(engine, replace(ASKED, model="polite"))
            assert (engine.depth, engine.models, engine.gives_logprobs) == (0, (), False)

    asyncio.run(main())


def test_a_seed_repeats_whoever_else_is_there(variant: Path, copied: Path) -> None:
    drawn = replace(ASKED, temperature=1.0, top_p=0.9, seed=-7)

    async def main() -> None:
        async with started(engine_of(variant, copied)) as engine:
            alone, other = text(await asked(engine, drawn)), text(await asked(engine, replace(drawn, seed=8)))
            replies = await asyncio.gather(*(asked(engine, each) for each in [*OTHERS, drawn, *OTHERS, drawn]))
            assert text(replies[len(OTHERS)]) == text(replies[-1]) == alone != other
            assert [reply[-1].usage.completion_tokens for reply in replies[: len(OTHERS)]] == [20, 21, 22, 23, 24, 25]
            free = replace(drawn, seed=None)
            assert text(await asked(engine, free)) != text(await asked(engine, free))

    asyncio.run(main())


def test_who_leaves_is_forgotten(variant: Path, copied: Path) -> None:
    """Also one with a seed, for whom all others would wait."""

    async def main() -> None:
        async with started(engine_of(variant, copied)) as engine:
            for seed in (None, 5):
                async with aclosing(engine.generate(replace(ASKED, max_tokens=4000, seed=seed))) as reply:
                    await anext(reply)
                assert len(await asked(engine, ASKED)) == 12
            assert engine.depth == 0

    asyncio.run(main())


def test_a_variant_is_named_by_what_it_is_made_of_and_made_once(
    variant: Path, copied: Path, manifest: Manifest, root: Path, tmp_path: Path
) -> None:
    assert variant.parent == copied.parent and variant.name.startswith(f"{manifest.digest[:16]}-openvino-")
    assert not any(path.stat().st_mode & 0o222 for path in variant.iterdir())
    assert not list(copied.parent.glob(".partial-*"))
    shutil.rmtree(tmp_path / "exporter")
    assert openvino_variant.export(copied, manifest, root, tmp_path / "exporter") == variant
    said = variants.verify(variant, manifest)
    assert (said.bundle, said.context, said.weights) == (manifest.digest, 4096, "int8_asym")
    (variant / "openvino_model.bin").chmod(0o644)
    (variant / "openvino_model.bin").write_bytes(b"other weights")
    with pytest.raises(ServingError, match=r"openvino_model\.bin was altered.*deploy again"):
        openvino_variant.export(copied, manifest, root, tmp_path / "exporter")


def test_a_variant_is_signed_as_its_bundle_is(
    copied: Path, manifest: Manifest, root: Path, exported: Path, tmp_path: Path
) -> None:
    public, _ = make_key(tmp_path / "key")
    asked = Signing(key=str(tmp_path / "key"), trusted=(str(public),), required=True)
    where = environment(tmp_path, exported)
    variant = openvino_variant.export(copied, manifest, root, where, asked)
    said = variants.verify(variant, manifest, asked)
    altered = said.model_copy(update={"context": 8192})
    (variant / "variant.json").chmod(0o644)
    (variant / "variant.json").write_text(
        altered.model_copy(update={"digest": altered.expected_digest()}).model_dump_json()
    )
    with pytest.raises(ServingError, match=r"variant\.json was altered after key"):
        openvino_variant.admitted(copied, manifest, asked)
    (variant / "signature.json").unlink()
    with pytest.raises(ServingError, match="is not signed"):
        openvino_variant.export(copied, manifest, root, where, asked)


@pytest.mark.parametrize(
    ("release", "method", "said"),
    [
        (
            None,
            "lora",
            r"holds no optimum-intel.*`python -m venv .*` and `.*bin/pip install --no-deps -r deploy/openvino",
        ),
        ("1.15.0", "lora", "holds optimum-intel 1.15.0, not the release"),
        (openvino_variant.RELEASE, "qlora", "cannot be merged for OpenVINO: set serve.engine.name to transformers"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    copied: Path, root: Path, exported: Path, tmp_path: Path, release: str | None, method: str, said: str
) -> None:
    where = environment(tmp_path, exported, release) if release else tmp_path / "exporter"
    manifest = verify(copied).model_copy(update={"method": method})
    with pytest.raises(ServingError, match=said):
        openvino_variant.export(copied, manifest, root, where)
    assert not openvino_variant.form("int8").folder(copied, manifest).exists()


def test_an_exporter_that_fails_leaves_nothing(copied: Path, root: Path, tmp_path: Path) -> None:
    where = environment(tmp_path, tmp_path / "nothing")
    with pytest.raises(ServingError, match=r"cannot be exported for OpenVINO.*last words: .*nothing"):
        openvino_variant.export(copied, verify(copied), root, where)
    assert not list(copied.parent.glob("*openvino*")) and not list(copied.parent.glob(".partial-*"))


def test_only_what_the_gates_admit_may_serve(
    copied: Path, manifest: Manifest, judging: Config, exported: Path, tmp_path: Path
) -> None:
    settings = Openvino(name="openvino", process=False, environment=str(environment(tmp_path, exported)))
    with pytest.raises(ServingError, match=r"was not exported for OpenVINO.*forgeline deploy"):
        made(settings, copied, manifest)
    variant = openvino_variant.export(copied, manifest, judging.root, tmp_path / "exporter")
    for process in (False, True):
        with pytest.raises(ServingError, match=r"Nothing says that .* may serve.*were not compared"):
            made(settings.model_copy(update={"process": process}), copied, manifest)

    strict = asking(
        judging, stops=Gate(evidence="stop_rate", min=0.9), close=Gate(evidence="bleu", against="bundle", margin=50)
    )
    refused = admission.admit(strict, copied, settings, PROMPTS)
    assert [held.outcome for held in refused.verdicts] == ["fail", "pass"]
    assert refused.refusal is not None and "stop_rate is 0.00" in refused.refusal
    with pytest.raises(ServingError, match=r"may not serve: stop_rate is 0\.00.*all of it must be at least 0\.9"):
        made(settings, copied, manifest)

    # What was measured is kept and judged anew; another prompt or OpenVINO, and it is measured again.
    variants.save(variant, refused.model_copy(update={"replies": ["kept", "kept"]}))
    lenient = asking(
        judging, stops=Gate(evidence="stop_rate", max=0.9), close=Gate(evidence="bleu", against="bundle", margin=50)
    )
    admitted = admission.admit(lenient, copied, settings, PROMPTS)
    assert (admitted.refusal, admitted.replies) == (None, ["kept", "kept"])
    assert made(settings, copied, manifest).name == "openvino"
    assert len(admission.admit(lenient, copied, settings, PROMPTS[:1]).replies) == 1

    for other in ({"runtime": "2025.1"}, {"variant": "0" * 64}):
        variants.save(variant, admitted.model_copy(update=other))
        with pytest.raises(ServingError, match="Nothing says that"):
            made(settings, copied, manifest)


def test_the_deployment_line_stops_at_a_refusal_and_writes_it_down(
    copied: Path, judging: Config, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zenml.utils.source_utils import set_custom_source_root

    from forgeline.registry.promotion import ledger
    from forgeline.serving.parity import Comparison, ParityReport

    monkeypatch.syspath_prepend(PROJECT)
    set_custom_source_root(str(PROJECT))  # as the package of pipelines does
    from steps.deployment import admit_engine

    compared = [Comparison(prompt=prompt, reference="a", bundle="a", logit_difference=0) for prompt in PROMPTS]
    parity = ParityReport(tolerance=0, max_tokens=8, comparisons=compared)
    engine: dict[str, Any] = {"name": "openvino", "environment": str(environment(tmp_path, exported))}
    assert admit_engine.entrypoint(str(copied), parity, judging) == ["a", "a"]

    def serving(rule: Gate) -> Config:
        serve = judging.serve.model_validate(judging.serve.model_dump() | {"engine": engine})
        return asking(judging, rule=rule).model_copy(update={"serve": serve, "root": tmp_path})

    (tmp_path / "data").symlink_to(judging.root / "data")
    (tmp_path / "base").symlink_to(judging.root / "base")
    with pytest.raises(ServingError, match=r"not admitted: stop_rate is 0\.00.*What is deployed stays"):
        admit_engine.entrypoint(str(copied), parity, serving(Gate(evidence="stop_rate", min=0.9)))
    expected = admit_engine.entrypoint(str(copied), parity, serving(Gate(evidence="stop_rate", max=0.9)))
    assert len(expected) == 2 and expected != ["a", "a"]
    entries = ledger(serving(Gate(evidence="stop_rate", max=0.9))).entries()
    assert [entry.action for entry in entries] == ["not_admitted", "admitted"]
    assert entries[0].facts["verdicts"][0]["outcome"] == "fail"


@installed
def test_the_real_exporter_writes_what_the_engine_serves(copied: Path, root: Path) -> None:
    variant = openvino_variant.export(copied, verify(copied), root, ENVIRONMENT)

    async def main() -> None:
        async with started(engine_of(variant, copied)) as engine:
            assert len(await asked(engine, ASKED)) == 12

    asyncio.run(main())
