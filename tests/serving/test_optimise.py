"""Variants of a real tiny bundle: what is taken out, written as GGUF, judged, measured and packaged for the edge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_openvino
from scene import HELLO, PROJECT, PROMPTS
from test_openvino import environment

from forgeline.config import Config
from forgeline.config.schema import Gate, Optimise
from forgeline.config.schema.optimise import TensorrtForm
from forgeline.errors import ServingError
from forgeline.models import LanguageModel, encode_prompt, generate
from forgeline.serving import variant as variants
from forgeline.serving.bundle import load, verify
from forgeline.serving.edge import package as edge
from forgeline.serving.optimise import kept, optimise, page_of, prune, report, tensorrt
from forgeline.serving.targets import Job, named

LLAMA = PROJECT / ".forgeline" / "engines" / "llama"


@pytest.fixture
def fresh(bundle: Path, root: Path) -> LanguageModel:
    """The bundle's model, to be changed."""
    return load(bundle, root)


@pytest.fixture
def judging(config: Config, tmp_path: Path) -> Config:
    """The configuration in a folder of its own, with three test prompts and any reply admitted."""
    (tmp_path / "base").symlink_to(config.root / "base")
    splits = tmp_path / "data" / "splits"
    splits.mkdir(parents=True)
    records = [
        {"id": str(n), "key": str(n), "messages": [*prompt, {"role": "assistant", "content": "We have a table."}]}
        for n, prompt in enumerate([*PROMPTS, [{"role": "user", "content": "Thanks"}]])
    ]
    for name in ("train", "test"):
        (splits / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    few = config.evaluate.model_copy(update={"max_new_tokens": 8, "min_examples": 3, "bootstrap_samples": 100})
    gates = {"close": Gate(evidence="bleu", against="bundle", margin=50)}
    policy = config.policy.model_copy(update={"admission": gates})
    return config.model_copy(update={"root": tmp_path, "evaluate": few, "policy": policy})


def said(model: LanguageModel, tokens: int = 12) -> list[str]:
    prompts = [encode_prompt(model.tokenizer, prompt) for prompt in PROMPTS]
    return [reply.text for reply in generate(model, prompts, tokens)]


def test_the_least_neurons_go_and_what_they_did_not_say_stays(fresh: LanguageModel) -> None:
    import torch

    with torch.no_grad():
        for layer in fresh.model.model.layers:
            layer.mlp.gate_proj.weight[3:99:3] = 0  # 32 of 128, which then say nothing
    before, weights = said(fresh), fresh.model.num_parameters()
    prune.by_neurons(fresh.model, 0.25, [encode_prompt(fresh.tokenizer, prompt) for prompt in PROMPTS])
    assert said(fresh) == before
    assert fresh.model.config.intermediate_size == 96
    assert weights - fresh.model.num_parameters() == 2 * 3 * 32 * 64


def test_the_smallest_weights_of_each_matrix_become_nought(fresh: LanguageModel) -> None:
    matrix = fresh.model.model.layers[0].mlp.up_proj.weight
    largest, head = matrix.abs().max().item(), fresh.model.lm_head.weight.clone()
    prune.by_magnitude(fresh.model, 0.3)
    assert (matrix == 0).float().mean().item() == pytest.approx(0.3, abs=0.001)
    assert matrix.abs().max().item() == largest
    assert (fresh.model.lm_head.weight == head).all()


@pytest.mark.parametrize(("weights", "apart"), [("f16", 0.005), ("q8_0", 0.05)])
def test_a_gguf_file_holds_the_same_model(
    bundle: Path, root: Path, fresh: LanguageModel, tmp_path: Path, weights: str, apart: float
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    edge.model_files(fresh, verify(bundle), tmp_path / "model", weights)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", gguf_file=edge.MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", gguf_file=edge.MODEL)
    prompt = encode_prompt(fresh.tokenizer, HELLO)
    assert encode_prompt(tokenizer, HELLO) == prompt
    with torch.inference_mode():
        ours, theirs = (model(torch.tensor([prompt])).logits for model in (fresh.model, again))
    assert (ours - theirs).std().item() < apart * ours.std().item()


def test_what_gguf_is_not_written_of_is_one_sentence(fresh: LanguageModel, tmp_path: Path) -> None:
    fresh.model.config.model_type = "mamba"
    with pytest.raises(ServingError, match="GGUF files are written of llama models here, and this is mamba"):
        edge.gguf.write(fresh, tmp_path / "model.gguf", "f16")


def test_the_recipe_is_read_by_the_shell_and_fits_the_model(fresh: LanguageModel) -> None:
    files = tensorrt.recipe(fresh.model.config, TensorrtForm(kind="tensorrt"), "reply-writer")
    assert "--max_seq_len 3072" in files["build.sh"] and "trtllm-serve engine" in files["serve.sh"]
    fresh.model.config.max_position_embeddings = 512
    assert (
        "--max_input_len 512 --max_seq_len 512"
        in tensorrt.recipe(fresh.model.config, TensorrtForm(kind="tensorrt"), "reply-writer")["build.sh"]
    )
    fresh.model.config.model_type = "mamba"
    with pytest.raises(ServingError, match=r"knows llama.*and this is mamba"):
        tensorrt.recipe(fresh.model.config, TensorrtForm(kind="tensorrt"), "reply-writer")


def test_variants_are_made_judged_measured_and_told_of(
    copied: Path, judging: Config, fresh: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judging.root)
    exported = judging.root / "exported"
    tiny_openvino.write(tiny_openvino.Tiny(len(fresh.tokenizer)), exported)
    forms = {
        "structured": {"kind": "structured", "share": 0.25},
        "gguf": {"kind": "gguf", "weights": "q8_0"},
        "int8": {"kind": "openvino", "weights": "int8"},
        "onnx": {"kind": "onnx", "weights": "fp32"},
        "tensorrt-llm": {"kind": "tensorrt"},
    }
    settings = Optimise.model_validate(
        {
            "rounds": 2,
            "clients": [1, 2],
            "prompts": 2,
            "max_tokens": 4,
            "variants": forms,
            "openvino": str(environment(judging.root, exported)),
        }
    )
    config = judging.model_copy(update={"optimise": settings})
    with pytest.raises(ServingError, match="run `forgeline optimise`"):
        kept(config.root, copied)
    found = {one.name: one for one in optimise(config, copied, PROMPTS[:1]).outcomes}
    assert [one.state for one in found.values()] == ["parent", "admitted", "absent", "admitted", "admitted", "recipe"]
    assert "npm install" in found["gguf"].why
    assert found["int8"].cost is not None and found["int8"].runtime.startswith("openvino-genai 2026")
    same = found["onnx"]
    assert same.difference is not None and same.difference.value == 0  # the bundle's replies, word for word
    assert same.runtime.startswith("onnxruntime-genai")
    smaller = found["structured"]
    assert smaller.cost is not None and smaller.difference is not None
    assert {clients: len(rates) for clients, rates in smaller.cost.rates.items()} == {1: 2, 2: 2}
    assert smaller.cost.memory > 100_000_000 and smaller.bytes > 0
    folder = Path(smaller.folder)
    assert variants.verify(folder, verify(copied)).digest == smaller.digest
    assert json.loads((folder / variants.TRIAL).read_text())["cost"]["rates"]["2"] == smaller.cost.rates[2]
    assert (config.root / found["tensorrt-llm"].folder / "build.sh").is_file()

    # What was measured of its replies is kept, and judged by another day's policy.
    admission = variants.known(folder)
    assert admission is not None and admission.refusal is None
    comparison = kept(config.root, copied)
    assert [row[1] for row in report.rows(comparison)] == [one.state for one in found.values()]
    page = report.write(comparison, page_of(config.root, copied)).read_text()
    assert page.count("<circle") == 8 and "structured" in page and "needs an NVIDIA GPU" in page


def test_an_edge_package_is_whole_and_only_of_what_was_admitted(copied: Path, judging: Config) -> None:
    manifest, target = verify(copied), named("edge")
    job = Job(judging, copied, manifest, smoke=lambda url: None)
    with pytest.raises(ServingError, match=r"no variant in q8_0 was made.*forgeline optimise"):
        target.plan(job)

    def write(language_model: LanguageModel, out: Path) -> None:
        edge.model_files(language_model, manifest, out, "q8_0")

    folder = variants.make(edge.form("q8_0"), copied, manifest, judging.root, write)
    variant = variants.verify(folder, manifest)
    measured = {"values": {}, "differences": {}, "replies": [], "measured": "", "runtime": "llama"}
    admission = variants.Admission(variant=variant.digest, **measured)
    for outcome, reason in (("fail", "bleu is worse"), ("pass", "bleu is as good")):
        held = variants.Held(gate="close", outcome=outcome, reason=reason)
        variants.save(folder, admission.model_copy(update={"verdicts": [held]}))
        if outcome == "fail":
            with pytest.raises(ServingError, match=r"targets\.edge\.weights: q8_0 may not serve: bleu is worse"):
                target.plan(job)
    plan = target.plan(job)
    assert "run.mjs" in plan.files and "policy.admission: bleu is as good" in [check.against for check in plan.checks]
    assert target.status(judging.root) is None
    facts = target.deploy(job, plan)
    place = Path(facts["folder"])
    told = json.loads((place / "manifest.json").read_text())
    assert told["bundle"] == manifest.digest and told["lineage"]["version"] == "3"
    assert {*told["files"]} == {path.name for path in place.iterdir()} - {"manifest.json"}
    assert target.status(judging.root).health == "ready"
    (place / "chat_template.jinja").write_text("altered")
    assert target.status(judging.root).health == "not ready"
    assert target.destroy(judging.root) == {"folder": str(place)} and not place.exists()


@pytest.mark.skipif(not LLAMA.is_dir() or not shutil.which("node"), reason="docs/optimise.md says how to get llama.cpp")
def test_the_runner_says_what_the_bundle_says(bundle: Path, root: Path, fresh: LanguageModel, tmp_path: Path) -> None:
    import subprocess

    place = edge.package(bundle, tmp_path / "package", root, "f16")
    (place / "node_modules").symlink_to(LLAMA / "node_modules")
    prompt = encode_prompt(fresh.tokenizer, HELLO)
    [expected] = generate(fresh, [prompt], 8)
    settings = json.loads((place / "generation.json").read_text())
    command = ["node", "run.mjs", "Hello there"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().startswith(expected.text[:12]) and settings["model"] == "reply-writer"
    (place / "chat_template.jinja").write_text("altered")
    refused = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 1 and "chat_template.jinja is not the file that was packaged" in refused.stderr
