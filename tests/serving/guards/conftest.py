from __future__ import annotations

import pytest
from guarded import PROJECT

from forgeline.records import Record, read_records


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Test prompts as they are shipped, and the replies that people wrote to them."""
    path = PROJECT / "data/splits/test.jsonl"
    if not path.exists():
        pytest.skip("data/splits is not there: run `forgeline data`")
    return read_records(path)
