"""Import a package without something heavy that it can do without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(module: str) -> Iterator[None]:
    """Let imports of a module fail meanwhile, as if it were not installed; one that is there already stays."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what the import system takes for: there is none
    try:
        yield
    finally:
        del sys.modules[module]
