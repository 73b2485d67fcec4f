import subprocess
import sys

import pytest

from forgeline.errors import DataError
from forgeline.lineage import code_digest, file_digest, git_revision, value_digest
from forgeline.records import read_records, write_jsonl

ROW = {"id": "a", "key": "k", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}


def test_records_round_trip(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, [ROW]) == 1
    [record] = read_records(path)
    assert record.completion == "yo"
    assert record.prompt == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"id": "a"', "line 2: not JSON"),
        ("[]", "line 2: expected an object, found list"),
        ('{"id": "a", "key": "k", "messages": [{"role": "user", "content": "hi"}]}', "the last message must be"),
        (
            '{"id": "a", "key": "k", "messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}',
            "the last message must be the assistant's completion",
        ),
        ('{"id": "a", "key": "k", "messages": [], "extra": 1}', "line 2, messages"),
    ],
)
def test_a_malformed_record_is_named_by_line_and_field(tmp_path, line, told):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [ROW])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=told):
        read_records(path)


def test_a_missing_file_is_told_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataError, match="run `forgeline data`"):
        read_records(tmp_path / "none.jsonl")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [ROW])

    def rows():
        yield ROW
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert len(read_records(path)) == 1


def test_digests_follow_content_not_order(tmp_path):
    assert value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1}) != value_digest({"a": 2, "b": 1})
    (tmp_path / "x").write_text("1")
    (tmp_path / "y").write_text("1")
    assert file_digest(tmp_path / "x") == file_digest(tmp_path / "y")
    assert code_digest("data") != code_digest("models")


def test_revision_says_when_the_tree_is_dirty(tmp_path):
    assert git_revision(tmp_path) == "unversioned"
    for command in (["init", "-q"], ["add", "f"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        (tmp_path / "f").write_text("1")
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert not git_revision(tmp_path).endswith("-dirty")
    (tmp_path / "f").write_text("2")
    assert git_revision(tmp_path).endswith("-dirty")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("forgeline.cli", {"torch", "mlflow", "zenml", "dvc", "transformers", "pydantic"}),
        ("forgeline.data", {"torch", "mlflow", "zenml"}),
        ("forgeline.serving.gateway.app", {"torch", "mlflow", "zenml", "dvc"}),
        ("forgeline.prompting", {"torch", "mlflow", "zenml", "dvc", "transformers"}),
        ("forgeline.tuning", {"mlflow", "zenml", "dvc"}),
    ],
)
def test_a_room_imports_nothing_it_does_not_need(module, absent):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)
