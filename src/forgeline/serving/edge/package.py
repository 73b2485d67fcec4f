"""A bundle for a device without Python: weights in one file, tokenizer, chat template, digests and a small runner."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.lineage import file_digest
from forgeline.models import LanguageModel
from forgeline.records import write_json
from forgeline.serving import signing as signatures
from forgeline.serving.bundle import APPROACH, NOBODY, Manifest, load, verify
from forgeline.serving.edge import gguf
from forgeline.serving.edge.gguf import GgufWeights
from forgeline.serving.variant import Form

RUNNER = Path(__file__).with_name("run.mjs")
NODE, NODE_LLAMA = "20", "3.22.1"  # the runner was tried with these
MODEL = "model.gguf"
MANIFEST = "manifest.json"
GGUF = "1"  # raise it when what is written as GGUF changes


def form(weights: GgufWeights) -> Form:
    """Return the form of the variant that a package in these weights holds."""
    return Form("gguf", weights, GGUF)


def model_files(language_model: LanguageModel, manifest: Manifest, folder: Path, weights: GgufWeights) -> None:
    """Write what the runner reads into a folder: `model.gguf`, `chat_template.jinja` and `generation.json`.

    Raises:
        ServingError: if the model is of a kind that is not written as GGUF here.
    """
    folder.mkdir()
    gguf.write(language_model, folder / MODEL, weights)
    (folder / "chat_template.jinja").write_text(language_model.tokenizer.chat_template, encoding="utf-8")
    write_json(folder / "generation.json", generation(language_model, manifest))


def package(
    bundle: Path, folder: Path, root: Path, weights: GgufWeights = "q8_0", system: str = "", signing: Signing = NOBODY
) -> Path:
    """Write a verified bundle as an edge package to a folder, whole or not at all; return the folder.

    The adapter is merged into the base, which is found below `root`. `system` is the system turn of the runner's
    command line. `manifest.json` names the bundle, its lineage, and a digest of each file, which the runner holds them
    against before it loads one; with `signing.key` it is signed.

    Raises:
        ServingError: if the bundle is altered or cannot be written as GGUF, or the folder is there already.
    """
    manifest = verify(bundle, signing)
    if (bundle / APPROACH).is_dir():
        raise ServingError("A bundle with an approach rewrites each request in Python, which an edge package lacks.")
    if folder.exists():
        raise ServingError(f"{folder} is there already: name another folder, or delete it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as name:
        out = Path(name) / "package"
        language_model = load(bundle, root, manifest)
        model_files(language_model, manifest, out, weights)
        write_json(out / "generation.json", generation(language_model, manifest) | {"system": system})
        language_model.tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
        for path, text in texts(manifest).items():
            (out / path).write_text(text, encoding="utf-8")
        files = {path.name: file_digest(path) for path in sorted(out.iterdir())}
        told = {"format": 1, "bundle": manifest.digest, "lineage": manifest.lineage.model_dump(), "weights": weights}
        write_json(out / MANIFEST, told | {"files": files})
        if signing.key:
            signatures.sign(out / MANIFEST, signing)
        shutil.copymode(bundle, out)
        os.replace(out, folder)
    return folder


def generation(language_model: LanguageModel, manifest: Manifest) -> dict[str, object]:
    """Return what the runner must know beside weights and template."""
    return {
        "model": manifest.lineage.model,
        "stop_ids": language_model.stop_ids,
        "max_tokens": manifest.sampling.max_tokens,
        "context": language_model.model.config.get_text_config().max_position_embeddings,
    }


def texts(manifest: Manifest) -> dict[str, str]:
    """Return the files of a package that are text: the runner, what it depends on, and how it is run."""
    lineage = manifest.lineage
    about = {
        "name": f"{lineage.model}-edge",
        "version": f"{lineage.version}.0.0",
        "private": True,
        "type": "module",
        "engines": {"node": f">={NODE}"},
        "dependencies": {"node-llama-cpp": NODE_LLAMA},
    }
    readme = f"""# {lineage.model} version {lineage.version}, for a device without Python

Needs Node {NODE} or newer. The last word names llama.cpp's build for your processor: `linux-x64` was run; there are
`linux-arm64`, `mac-arm64-metal`, `win-x64` and others.

    npm install --ignore-scripts --omit=optional --no-save @node-llama-cpp/linux-x64@{NODE_LLAMA}
    node run.mjs "a question"
    node run.mjs --port 8700      # then POST /v1/chat/completions on 127.0.0.1

`manifest.json` says what it was made of, and has a sha256 of each file: the runner refuses an altered one.
"""
    return {
        "run.mjs": RUNNER.read_text(encoding="utf-8"),
        "package.json": json.dumps(about, indent=2) + "\n",
        "README.md": readme,
    }
