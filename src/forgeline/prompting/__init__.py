"""What a caller's messages become before the chat template: a prompt's wording, retrieved examples and facts."""

from forgeline.prompting.approach import Approach, Messages, Prompter, Rewritten
from forgeline.prompting.store import Example, Store

__all__ = ["Approach", "Example", "Messages", "Prompter", "Rewritten", "Store"]
