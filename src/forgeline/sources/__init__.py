"""One resolver for data and models: any reference becomes local, verified paths."""

from forgeline.sources.cache import cache_root
from forgeline.sources.resolve import locate, resolve

__all__ = ["cache_root", "locate", "resolve"]
