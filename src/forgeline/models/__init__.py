"""Models: find, convert, load, save, prompt through the chat template, generate."""

from forgeline.models.generate import Reply, generate
from forgeline.models.load import LanguageModel, base_folder, base_name, load_base, load_tuned, load_whole, precision
from forgeline.models.save import save_tuned
from forgeline.models.template import Example, encode_example, encode_prompt, encode_text

__all__ = [
    "Example",
    "LanguageModel",
    "Reply",
    "base_folder",
    "base_name",
    "encode_example",
    "encode_prompt",
    "encode_text",
    "generate",
    "load_base",
    "load_tuned",
    "load_whole",
    "precision",
    "save_tuned",
]
