"""Wordings in MLflow's prompt registry: a new version only for a new text, and old ones to go back to."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from forgeline.config import load
from forgeline.config.schema import Prompt
from forgeline.errors import RegistryError
from forgeline.registry import prompts

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shipped = load(PROJECT).project
        stores = shipped.stores.model_copy(update={"mlflow": f"sqlite:///{folder}/mlflow.db"})
        yield shipped.model_copy(update={"stores": stores})


def test_only_a_new_text_is_a_new_version(project):
    first = prompts.register(project, "polite", Prompt(system="{{system}} Be polite."))
    assert first == "prompts:/reply-writer-polite/1"
    assert prompts.register(project, "polite", Prompt(system="{{system}} Be polite.")) == first
    second = prompts.register(project, "polite", Prompt(system="{{system}} Be very polite."))
    assert second == "prompts:/reply-writer-polite/2"
    assert prompts.load(project, first) == (Prompt(system="{{system}} Be polite."), first)
    prompts.mark(project, first)
    assert prompts.load(project, "prompts:/reply-writer-polite@recommended")[1] == first


def test_a_candidate_can_name_a_registered_version(project):
    address = prompts.register(project, "short", Prompt(user="Short: {{question}}"))
    config = load(PROJECT, overrides=[f"approaches.candidates.plain.prompt={address}"])
    found = prompts.approach(project, config.approaches, "plain")
    assert (found.prompt.user, found.prompt_version) == ("Short: {{question}}", address)
    wrong = load(PROJECT, overrides=[f"approaches.candidates.retrieval.prompt={address}"])
    with pytest.raises(RegistryError, match=r"has facts: 3, but the system turn of .* has no \{\{facts\}\}"):
        prompts.approach(project, wrong.approaches, "retrieval")


def test_a_prompt_that_is_not_there_or_not_ours_is_told(project):
    with pytest.raises(RegistryError, match="MLflow has no prompt prompts:/nobody/1"):
        prompts.load(project, "prompts:/nobody/1")
    prompts.register(project, "any", Prompt())  # connects
    MlflowClient().register_prompt("foreign", "Translate {{text}}")
    with pytest.raises(RegistryError, match="foreign/1 is no prompt that an approach can use"):
        prompts.load(project, "prompts:/foreign/1")
