from multiprocessing import get_context

import pytest

from forgeline.errors import LedgerError
from forgeline.ledger import Ledger


def _append(path, count):
    for number in range(count):
        Ledger(path).append("promoted", version=number)


def test_entries_chain_and_survive_concurrent_writers(tmp_path):
    path = tmp_path / "ledger.jsonl"
    writers = [get_context("spawn").Process(target=_append, args=(path, 10)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [entry.number for entry in Ledger(path).verify()] == list(range(1, 31))


@pytest.mark.parametrize("tamper", ["alter", "remove", "reorder"])
def test_tampering_is_found_at_its_line(tmp_path, tamper):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for version in range(4):
        ledger.append("promoted", version=version)
    lines = ledger.path.read_text().splitlines()
    if tamper == "alter":
        lines[1] = lines[1].replace('"version":1', '"version":9')
    elif tamper == "remove":
        del lines[1]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    ledger.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(LedgerError, match="line 2 was altered, removed or reordered"):
        ledger.verify()


def test_a_broken_line_is_named(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("promoted", version=1)
    with ledger.path.open("a") as file:
        file.write('{"number": 2, "at"\n')
    with pytest.raises(LedgerError, match="line 2 is not a ledger entry"):
        ledger.entries()
