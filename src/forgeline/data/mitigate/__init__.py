"""Mitigation of bias in the training split: augmentation, resampling, reweighing.

For the split stage::

    tables, report = mitigate(train_tables, config)

`train_tables` is a function that opens the training split anew each time it is called and yields Arrow
tables of `table.SCHEMA`; `tables` is another such function. Nothing is held but a few bytes a row, and
the split is read several times. Without mitigation in the configuration both are the same function and
the report is empty. Keys stay: a new row never straddles splits. Texts may change, so leaks are
looked for afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow

from forgeline.config.schema import Data

Tables = Callable[[], Iterable[pyarrow.Table]]


def mitigate(tables: Tables, config: Data) -> tuple[Tables, dict[str, Any]]:
    """Return the training split as `config.mitigate` wants it, and the report: before, after and the cost in rows."""
    if config.mitigate == type(config.mitigate)():
        return tables, {}
    raise NotImplementedError
