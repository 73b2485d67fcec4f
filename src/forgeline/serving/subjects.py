"""Find what a reference names, so that anything can be evaluated by the same command."""

from __future__ import annotations

from pathlib import Path

from forgeline.config import catalogue
from forgeline.config.schema import Config, Model, Train
from forgeline.evaluation.approached import Approached
from forgeline.evaluation.subjects import Local, Subject, endpoint
from forgeline.models import LanguageModel, load_base, load_tuned
from forgeline.models.adapter import ADAPTER, base_of
from forgeline.registry import loading, versions
from forgeline.serving import bundle


def subject(config: Config, reference: str) -> Subject:
    """Return what a reference names, loaded and ready to be asked.

    | reference | meaning |
    |---|---|
    | `base` | the untouched base model of configs/train.yaml |
    | `champion`, `challenger`, `3` | a registered version, by alias or number |
    | `http://127.0.0.1:8600/v1`, `…/v1#name` | a service that speaks the OpenAI chat API, and one of its models |
    | `.forgeline/bundles/1a2b…` | a bundle |
    | `runs/adapter` | an adapter's folder, on the base that it names |
    | `hf://owner/name+runs/adapter` | an adapter on a base that is named here |
    | `runs/merged`, `hf://owner/name@revision` | a whole model in the transformers layout |
    | `smollm2-135m` | a model of configs/models |

    Raises:
        ForgelineError: if there is nothing of that name, or it does not load.
    """
    if reference.startswith(("http://", "https://")):
        return endpoint(reference)
    folder = config.root / reference
    if not _is_model(config, reference):
        return loading.subject(config, versions.get(config.project, reference), reference)
    local = Local(reference, _model(config, reference), config.evaluate.batch_size)
    prompter = bundle.prompter(folder)
    return Approached(local, prompter) if prompter else local


def _is_model(config: Config, reference: str) -> bool:
    """Say whether a reference names a model; else it is a version's number or alias."""
    known = reference == "base" or reference in catalogue.names(config.root)
    return known or bool({"/", "+"} & set(reference)) or (config.root / reference).is_dir()


def _model(config: Config, reference: str) -> LanguageModel:
    root, train = config.root, config.train
    base, plus, adapter = reference.rpartition("+")
    folder = root / reference
    match reference:
        case "base":
            return load_base(train, root)
        case _ if plus:
            return load_tuned(_on(train, _named(root, base)), root / adapter, root)
        case _ if (folder / bundle.MANIFEST).is_file():
            return bundle.load(folder, root, bundle.verify(folder, config.serve.signing))
        case _ if (folder / ADAPTER).is_file():
            return load_tuned(_on(train, _named(root, base_of(folder))), folder, root)
        case _:
            return load_base(_on(train, _named(root, reference)), root)


def _named(root: Path, name: str) -> Model:
    """Return a model of the catalogue, or one that is named by where it lies."""
    if name in catalogue.names(root):
        return Model.model_validate(catalogue.as_model(root, name))
    return Model(source=name, license="unknown")


def _on(train: Train, model: Model) -> Train:
    """Return settings that load another model, as it is."""
    return train.model_copy(update={"model": model, "method": "lora"})
