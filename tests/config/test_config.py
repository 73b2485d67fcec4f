from pathlib import Path

import pytest
import yaml

from forgeline.config import load
from forgeline.config.load import profiles
from forgeline.config.schema import SECTIONS
from forgeline.errors import ConfigError

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", [None, *profiles(PROJECT)])
def test_every_shipped_profile_is_valid(profile):
    assert load(PROJECT, profile=profile).profile == profile


def test_every_shipped_yaml_is_a_section_or_a_profile():
    shipped = {path.stem for path in (PROJECT / "configs").glob("*.yaml")}
    assert shipped == set(SECTIONS)


def test_overrides_have_the_last_word_over_profiles():
    config = load(PROJECT, profile="smoke", overrides=["train.max_examples=3", "train.lora.rank=4"])
    assert (config.train.max_examples, config.train.lora.rank) == (3, 4)
    assert config.train.batch_size == 8  # the profile's
    assert config.digest() != load(PROJECT, profile="smoke").digest()


def test_all_faults_are_told_at_once_with_place_key_legal_values_and_nearest_key():
    overrides = [
        "train.epoch=1",
        "train.dtype=bfloat",
        "evaluate.confidence=3",
        "policy.gates.x={evidence: blue, min: 1}",
    ]
    with pytest.raises(ConfigError) as told:
        load(PROJECT, overrides=overrides)
    message = str(told.value)
    assert "4 faults" in message
    assert "--set train.epoch=1: train.epoch: unknown key; legal: method, model" in message
    assert "did you mean epochs?" in message
    assert "'auto', 'bfloat16' or 'float32'; found 'bfloat'; did you mean bfloat16?" in message
    assert "evaluate.confidence: input should be less than 1; found 3" in message
    assert "policy.gates.x.evidence" in message and "did you mean bleu?" in message


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        (
            "train.learning_rat",
            "[1.0e-3]",
            "train.learning_rat: unknown key; legal: method, .*; did you mean learning_ra",
        ),
        ("train.lora.rnk", "[8]", "train.lora.rnk: unknown key; legal: rank, alpha, .*; did you mean rank"),
        ("learning_rate", "[1.0e-3]", "only keys of train can be searched; did you mean train.learning_rate"),
        ("evaluate.batch_size", "[8]", "only keys of train can be searched; did you mean train.batch_size"),
        ("train.epochs", "[1, 0]", "train.epochs: input should be greater than or equal to 1; found 0"),
        ("train.epochs", "{low: 1, high: 2.5}", "train.epochs: input should be a valid integer.*; found 2.5"),
        ("train.warmup", "{low: 0, high: 2}", "train.warmup: input should be less than or equal to 1; found 2.0"),
        ("train.method", "[lora, lorra]", "found 'lorra'; did you mean lora"),
        ("train.patience", "[2]", "patience counts validations: set validate_steps too"),
        ("train.epochs", "3", "train.epochs: input should be a valid dictionary or instance of Range; found 3"),
        ("train.epochs", "{low: 1, hih: 2}", "unknown key; legal: low, high, log; did you mean high"),
        ("train.warmup", "{low: 0, high: 1, log: true}", "low must be below high, and above 0 on a logarithmic scale"),
        ("train.epochs", "[]", "list should have at least 1 item"),
    ],
)
def test_a_search_space_that_would_fail_at_trial_7_is_told_at_once(key, values, told):
    with pytest.raises(ConfigError, match=f"--set sweep.space.*{told}"):
        load(PROJECT, overrides=[f"sweep.space={{{key}: {values}}}"])


def test_a_search_space_takes_what_the_key_takes():
    overrides = ["sweep.space.train.max_examples=[500, null]", "sweep.space.train.lora.targets=[all-linear, [q_proj]]"]
    space = load(PROJECT, overrides=overrides).sweep.space
    assert space["train.max_examples"] == [500, None]
    assert space["train.lora.targets"] == ["all-linear", ["q_proj"]]
    assert space["train.batch_size"] == [8, 16, 32]  # the file's
    assert load(PROJECT, overrides=overrides).digest() == load(PROJECT).digest()  # which shapes no version


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("train", None, "configs/train.yaml: the file is missing"),
        ("train", "a: [", "configs/train.yaml: not YAML"),
        ("train", "- a", "configs/train.yaml: expected keys and values, found list"),
        ("serve", "prot: 1", "configs/serve.yaml: serve.prot: unknown key; legal: host, port"),
        ("serve", "engine: {name: vlm}", "serve.engine: input tag 'vlm' found using 'name' does not match"),
        (
            "serve",
            "engine: {name: vllm, contxt: 9}",
            "serve.engine.contxt: unknown key; legal: name, environment, context",
        ),
        ("serve", "engine: {name: url, url: 'http://a', key: abc}", "serve.engine.key: string should match pattern"),
        ("serve", "scaling: {max_replicas: 1}", "max_replicas is 1, fewer than min_replicas, 2"),
        ("serve", "others: {spare: {name: url}}", "serve.others.spare.url: required key is missing"),
        ("serve", "others: {engine: {name: transformers}}", "others: engine is the name of the one that answers"),
        ("serve", "others: {../x: {name: transformers}}", "string should match pattern"),
        (
            "policy",
            "gates: {x: {evidence: bleu, against: bundle, min: 0}}",
            "only an engine is compared with its bundle",
        ),
        (
            "policy",
            "gates: {x: {evidence: bleu, min: 1}}\nadmission: {y: {approval: owner}}",
            "admission: y: bound a metric",
        ),
        (
            "policy",
            "gates: {x: {evidence: bleu, min: 1}}\nadmission: {y: {evidence: blue, min: 1}}",
            "policy.admission.y.evidence: nothing measures blue",
        ),
        ("policy", "gates: {x: {evidence: bleu}}", "policy.gates.x: value error, min, max or both must be given"),
    ],
)
def test_a_bad_file_is_named(tmp_path, file, text, told):
    for section in SECTIONS:
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / f"configs/{section}.yaml").write_text((PROJECT / f"configs/{section}.yaml").read_text())
    path = tmp_path / f"configs/{file}.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=told.replace("[", r"\[").replace(".", r"\.")):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"profile": "smok"},
            "no such profile; legal: cluster, compose, dpo, fsdp, gpu, gpus, kto, nodes, qlora, scratch, smoke; "
            "did you mean smoke?",
        ),
        ({"overrides": ["epochs"]}, "expected section.key=value"),
        ({"overrides": ["data.split.test=0.2"]}, "edit that file instead"),
    ],
)
def test_a_bad_option_is_explained(options, told):
    with pytest.raises(ConfigError) as error:
        load(PROJECT, **options)
    assert told in str(error.value)


def test_a_folder_without_a_project_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"configs/project.yaml is missing"):
        load()


def test_shipped_sources_pin_their_digests():
    data = yaml.safe_load((PROJECT / "configs/data.yaml").read_text())
    assert all("#sha256=" in uri for source in data["fetch"]["sources"].values() for uri in source["uri"])
