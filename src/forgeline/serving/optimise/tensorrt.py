"""A recipe for TensorRT-LLM: the files and commands that build and serve an engine on an NVIDIA GPU. It is not run.

Source of the commands: TensorRT-LLM's documented workflow, convert → build → serve.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from forgeline.config.schema.optimise import TensorrtForm
from forgeline.errors import ServingError

EXAMPLES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "phi3": "phi",
    "gemma3_text": "gemma",
}
BATCH, INPUT = 64, 2048  # requests at once, and tokens of a prompt, that the engine is built for


def recipe(config: Any, settings: TensorrtForm, model: str) -> dict[str, str]:
    """Return the recipe's files by name, of a model of this transformers configuration.

    Raises:
        ServingError: if TensorRT-LLM has no example for such a model, or it does not fit what the engine is built for.
    """
    text = config.get_text_config()
    if text.model_type not in EXAMPLES:
        raise ServingError(f"The recipe for TensorRT-LLM knows {', '.join(EXAMPLES)}, and this is {text.model_type}.")
    longest = min(INPUT + 1024, text.max_position_embeddings)
    build = f"""#!/usr/bin/env bash
# Run in NVIDIA's TensorRT-LLM release container, beside the folder `model`: `bundle/tuned` of the variant `merged`.
set -euo pipefail
examples=${{TRTLLM_EXAMPLES:-/app/tensorrt_llm/examples/models/core/{EXAMPLES[text.model_type]}}}
python3 "$examples/convert_checkpoint.py" --model_dir model --output_dir checkpoint --dtype {settings.dtype}
trtllm-build --checkpoint_dir checkpoint --output_dir engine --gemm_plugin {settings.dtype} \\
  --max_batch_size {BATCH} --max_input_len {min(INPUT, longest)} --max_seq_len {longest}
"""
    serve = f"""#!/usr/bin/env bash
# Then {model} answers as any OpenAI-compatible server does: serve.engine: {{name: url, url: http://HOST:8000/v1}}
set -euo pipefail
trtllm-serve engine --tokenizer model --backend tensorrt --host 0.0.0.0 --port 8000
"""
    files = {"build.sh": build, "serve.sh": serve}
    for name, script in files.items():
        _check(name, script)
    return files


def write(files: dict[str, str], folder: Path) -> None:
    """Write a recipe's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _check(name: str, script: str) -> None:
    """Have the shell read a script without running it."""
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServingError(f"{name} of the recipe for TensorRT-LLM is no shell script: {done.stderr.strip()}")
