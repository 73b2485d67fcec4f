"""What the mitigations pass to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow

# Opens a split anew each time it is called, as tables of `table.SCHEMA`.
Tables = Callable[[], Iterable[pyarrow.Table]]
