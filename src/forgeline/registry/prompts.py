"""The wordings of configs/approaches.yaml as versions in MLflow's prompt registry, and those kept there before."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from forgeline.config.schema import Approaches, Candidate, Project, Prompt
from forgeline.config.schema.approaches import REGISTERED
from forgeline.errors import RegistryError
from forgeline.prompting import Approach
from forgeline.registry.tracking import connect

RECOMMENDED = "recommended"


def approach(project: Project, approaches: Approaches, name: str) -> Approach:
    """Return a candidate with its prompt spelled out, as the registry has it; a new wording is registered.

    Raises:
        RegistryError: if the candidate names a registered prompt that is not there, or does not fit it.
    """
    candidate: Candidate = approaches.candidates[name]
    if candidate.prompt.startswith(REGISTERED):
        prompt, address = load(project, candidate.prompt)
        if prompt.takes_facts != bool(candidate.facts):
            raise RegistryError(
                f"approaches.candidates.{name} has facts: {candidate.facts}, but the system turn of {address} "
                f"{'has' if prompt.takes_facts else 'has no'} {{{{facts}}}}: change one of them."
            )
    else:
        prompt = approaches.prompts[candidate.prompt]
        address = register(project, candidate.prompt, prompt)
    return Approach(
        name=name,
        model=candidate.model,
        prompt=prompt,
        prompt_version=address,
        examples=candidate.examples,
        facts=candidate.facts,
        retriever=candidate.retriever,
        max_prompt_tokens=approaches.max_prompt_tokens,
    )


def register(project: Project, name: str, prompt: Prompt) -> str:
    """Return the address of a wording, prompts:/name/version: that of the newest version if it says the same."""
    client, registered = connect(project), f"{project.name}-{name}"
    newest = _found(client, f"{REGISTERED}{registered}@latest")
    if newest is not None and _wording(newest.template) == prompt.model_dump():
        return f"{REGISTERED}{registered}/{newest.version}"
    created = client.register_prompt(registered, _turns(prompt))
    return f"{REGISTERED}{registered}/{created.version}"


def load(project: Project, address: str) -> tuple[Prompt, str]:
    """Return a registered wording and its address by number, which no alias can move.

    Raises:
        RegistryError: if there is none, or it is not worded as a prompt of Forgeline is.
    """
    found = _found(connect(project), address)
    if found is None:
        raise RegistryError(f"MLflow has no prompt {address}: see those that it has with `mlflow ui`, under Prompts.")
    try:
        prompt = Prompt.model_validate(_wording(found.template))
    except ValidationError as error:
        raise RegistryError(
            f"{address} is no prompt that an approach can use ({error.errors()[0]['msg']}): it needs a system and a "
            "user turn."
        ) from error
    return prompt, f"{REGISTERED}{found.name}/{found.version}"


def mark(project: Project, address: str) -> None:
    """Point the alias `recommended` of a prompt at one of its versions."""
    name, _, version = address.removeprefix(REGISTERED).rpartition("/")
    connect(project).set_prompt_alias(name, RECOMMENDED, int(version))


def _found(client: MlflowClient, address: str) -> Any:
    try:
        return client.load_prompt(address, allow_missing=True, cache_ttl_seconds=0)
    except MlflowException as error:
        raise RegistryError(f"{address} cannot be read from MLflow: {error.message}") from error


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]


def _wording(template: str | list[dict[str, str]]) -> dict[str, str]:
    """Return the texts by role; a prompt of text alone is a user's turn."""
    if isinstance(template, str):
        return {"user": template}
    return {turn["role"]: turn["content"] for turn in template}
