"""Base models: find, convert, load, prompt through the chat template, generate."""

from forgeline.models.generate import Reply, generate
from forgeline.models.load import LanguageModel, base_folder, load_base, load_tuned, precision
from forgeline.models.template import Example, encode_example, encode_prompt

__all__ = [
    "Example",
    "LanguageModel",
    "Reply",
    "base_folder",
    "encode_example",
    "encode_prompt",
    "generate",
    "load_base",
    "load_tuned",
    "precision",
]
