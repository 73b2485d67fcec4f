"""From a form in optimise.yaml to a variant that lies there, and an engine that answers with it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path

from forgeline.config.schema import Config
from forgeline.config.schema.optimise import FormSettings, GgufForm, Merged, OnnxForm, OpenvinoForm, Pruned
from forgeline.config.schema.serve.engine import Supervision, Timeouts, Transformers
from forgeline.data.layout import SPLITS
from forgeline.errors import ServingError
from forgeline.evaluation.subjects import Subject
from forgeline.models import LanguageModel, encode_example
from forgeline.records import read_records
from forgeline.serving import bundle as bundles
from forgeline.serving import variant as variants
from forgeline.serving.admission import Asked
from forgeline.serving.bundle import Manifest
from forgeline.serving.edge import package as edge
from forgeline.serving.engines import openvino_variant
from forgeline.serving.engines.make import FOLDER, made
from forgeline.serving.engines.remote import Endpoint
from forgeline.serving.engines.supervised import Program, Supervised
from forgeline.serving.optimise import onnx, prune
from forgeline.serving.subjects import subject
from forgeline.serving.variant import Form

BUNDLE = "bundle"  # where a variant that is a bundle itself lies in its folder
TIMEOUTS = Timeouts(first=1200, between=600)  # all test prompts are asked at once, and nobody waits
PRUNING = "2"  # raise it when what `prune` does changes
HEARD = 64  # training conversations by which neurons are chosen


@dataclass(frozen=True)
class Candidate:
    """A variant to be measured: `bytes` on disk, what runs it, and how it is asked.

    `engine` is for callers at once, in a process of its own, `subject` for the test prompts and `alone` for the parity
    prompts one by one.
    """

    name: str
    folder: Path
    variant: variants.Variant | None
    bytes: int
    runtime: str
    engine: Callable[[], Supervised]
    subject: Callable[[], Subject]
    alone: Callable[[], Subject]


def parent(config: Config, bundle: Path, manifest: Manifest) -> Candidate:
    """Return the bundle itself, under our own engine; its size is that of adapter and base."""
    size = _size(bundle)
    if manifest.base_digest:
        size += sum(path.stat().st_size for path in bundles.verified_base(manifest, config.root).glob("*.safetensors"))
    return _served(config, "bundle", bundle, manifest, bundle, None, size)


def built(config: Config, bundle: Path, manifest: Manifest, name: str, form: FormSettings) -> Candidate:
    """Return a form's variant of a bundle, which is made if it is not there.

    Raises:
        ServingError: if it cannot be made, or what would run it is not there.
    """
    match form:
        case Merged() | Pruned():
            return _bundled(config, bundle, manifest, name, form)
        case OpenvinoForm():
            return _openvino(config, bundle, manifest, name, form)
        case OnnxForm():
            return _onnx(config, bundle, manifest, name, form)
        case GgufForm():
            return _gguf(config, bundle, manifest, name, form)
    raise ServingError(f"{name} is a recipe: there is nothing to measure.")


def _bundled(config: Config, bundle: Path, manifest: Manifest, name: str, form: Merged | Pruned) -> Candidate:
    """Return a variant that is a bundle of all its weights."""
    method = "scratch" if manifest.base is None else "full"
    base = {} if manifest.base is None else {"model": manifest.base}
    train = config.train.model_copy(update={"method": method, "dtype": manifest.dtype, **base})
    settings = config.model_copy(update={"train": train})

    def write(language_model: LanguageModel, out: Path) -> None:
        if form.kind == "magnitude":
            prune.by_magnitude(language_model.model, form.share)
        elif form.kind == "structured":
            records = read_records(config.root / SPLITS["train"])[:HEARD]
            examples = [encode_example(language_model.tokenizer, record) for record in records]
            heard = [[*example.prompt, *example.completion] for example in examples]
            prune.by_neurons(language_model.model, form.share, heard)
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            tuned = Path(scratch) / "tuned"
            language_model.model.save_pretrained(tuned)
            language_model.tokenizer.save_pretrained(tuned)
            lineage = manifest.lineage.model_dump()
            whole = bundles.build(settings, tuned, lineage, Path(scratch), bundles.prompter(bundle))
            out.mkdir()
            os.replace(whole, out / BUNDLE)

    weights = f"{form.kind}-{form.share}" if isinstance(form, Pruned) else manifest.dtype
    wanted = Form(form.kind, weights, PRUNING)
    folder = variants.make(wanted, bundle, manifest, config.root, write, config.serve.signing)
    variant = variants.verify(folder, manifest, config.serve.signing)
    whole = folder / BUNDLE
    # Its files are the variant's, whose signature was just asked for.
    return _served(config, name, whole, bundles.verify(whole, bundles.NOBODY), folder, variant, _size(whole))


def _served(
    config: Config,
    name: str,
    bundle: Path,
    manifest: Manifest,
    folder: Path,
    variant: variants.Variant | None,
    size: int,
) -> Candidate:
    """Return a bundle under our own engine."""

    def engine() -> Supervised:
        settings = Transformers(process=True, timeouts=TIMEOUTS)
        engine = made(settings, bundle, manifest, f"trial-{name}", config.serve)
        assert isinstance(engine, Supervised)  # noqa: S101
        return engine

    def asked() -> Subject:
        return subject(config, str(bundle.resolve()))

    runtime = f"transformers {installed('transformers')}, torch {installed('torch')}"
    return Candidate(name, folder, variant, size, runtime, engine, asked, asked)


def _openvino(config: Config, bundle: Path, manifest: Manifest, name: str, form: OpenvinoForm) -> Candidate:
    runtime = openvino_variant.runtime()
    environment = config.root / config.optimise.openvino
    folder = openvino_variant.export(bundle, manifest, config.root, environment, config.serve.signing, form.weights)
    return _tried(config, bundle, manifest, name, folder, "openvino", runtime)


def _onnx(config: Config, bundle: Path, manifest: Manifest, name: str, form: OnnxForm) -> Candidate:
    folder = onnx.export(bundle, manifest, config.root, config.serve.signing, form.weights)
    return _tried(config, bundle, manifest, name, folder, "onnx", onnx.runtime())


def _tried(
    config: Config, bundle: Path, manifest: Manifest, name: str, folder: Path, kind: str, runtime: str
) -> Candidate:
    """Return a variant that a process of ours runs (`trial`)."""
    command = (sys.executable, "-m", "forgeline.serving.optimise.trial", kind)
    paths = ("--bundle", str(bundle), "--variant", str(folder))
    start = _process(name, manifest.lineage.model, lambda port: [*command, *paths, "--port", str(port)])
    return _candidate(name, folder, variants.verify(folder, manifest, config.serve.signing), runtime, start)


def _gguf(config: Config, bundle: Path, manifest: Manifest, name: str, form: GgufForm) -> Candidate:
    runtime = llama(config.root / config.optimise.llama)
    if (bundle / bundles.APPROACH).is_dir():
        raise ServingError("A bundle with an approach rewrites each request in Python, which llama.cpp's runner lacks.")

    def write(language_model: LanguageModel, out: Path) -> None:
        edge.model_files(language_model, manifest, out, form.weights)

    signing = config.serve.signing
    folder = variants.make(edge.form(form.weights), bundle, manifest, config.root, write, signing)
    runner = config.root / config.optimise.llama / edge.RUNNER.name  # its packages are found beside it
    runner.write_text(edge.RUNNER.read_text(encoding="utf-8"), encoding="utf-8")
    command = ("node", str(runner.resolve()), "--folder", str(folder))
    start = _process(name, manifest.lineage.model, lambda port: [*command, "--port", str(port)])
    return _candidate(name, folder, variants.verify(folder, manifest, signing), runtime, start)


def llama(environment: Path) -> str:
    """Return which llama.cpp runs GGUF files in an environment.

    Raises:
        ServingError: if Node or its package is not there.
    """
    import shutil

    package = environment / "node_modules" / "node-llama-cpp" / "package.json"
    if not shutil.which("node") or not package.is_file():
        raise ServingError(
            f"llama.cpp is not there: install Node {edge.NODE}, then `npm install --ignore-scripts --omit=optional "
            f"--prefix {environment} node-llama-cpp@{edge.NODE_LLAMA} @node-llama-cpp/linux-x64@{edge.NODE_LLAMA}`, or "
            "what fits your processor."
        )
    return f"node-llama-cpp {json.loads(package.read_text(encoding='utf-8'))['version']}"


def _candidate(
    name: str, folder: Path, variant: variants.Variant, runtime: str, engine: Callable[[], Supervised]
) -> Candidate:
    size = sum((folder / path).stat().st_size for path in variant.files)
    return Candidate(
        name, folder, variant, size, runtime, engine, lambda: Asked(name, engine), lambda: Asked(name, engine, seed=0)
    )


def _process(name: str, model: str, command: Callable[[int], list[str]]) -> Callable[[], Supervised]:
    """Return what starts a server of a variant, once: one that ends is not started again."""
    endpoint = Endpoint(url="", model=model, timeouts=TIMEOUTS)
    log = Path.cwd() / FOLDER / f"trial-{name}.log"
    program = Program(command=command, endpoint=endpoint, log=log)
    return lambda: Supervised(name, program, Supervision(restarts=0), drain=1.0)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
