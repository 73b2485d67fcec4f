"""Personal data and secrets: found by patterns with validators, replaced by tags, by pseudonyms or by nothing."""

from forgeline.data.pii.finder import Find, Finder
from forgeline.data.pii.measure import measure
from forgeline.data.pii.replace import Masker

__all__ = ["Find", "Finder", "Masker", "measure"]
