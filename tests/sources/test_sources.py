from __future__ import annotations

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forgeline.config import load
from forgeline.errors import SourceError
from forgeline.sources import cache_root, locate, remote, resolve

BODY = os.urandom(3_500_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def left_over(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_paths_and_globs_are_relative_to_root_and_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("")
    assert resolve("*.jsonl", tmp_path) == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert resolve("file:c.txt", tmp_path) == resolve(f"file://{tmp_path}/c.txt", tmp_path) == [tmp_path / "c.txt"]


def test_a_missing_file_names_its_nearest_siblings(tmp_path: Path) -> None:
    (tmp_path / "replies.jsonl").write_text("")
    with pytest.raises(SourceError, match=r"reply\.jsonl does not exist.*holds replies\.jsonl"):
        resolve("reply.jsonl", tmp_path)
    with pytest.raises(SourceError, match=r"matches no file"):
        resolve("*.parquet", tmp_path)


def test_http_is_downloaded_once_and_then_needs_no_network(server: Any, tmp_path: Path) -> None:
    server.content["/a.bin"] = BODY
    reference = f"{server.url}/a.bin#sha256={DIGEST}"
    [path] = resolve(reference, tmp_path)
    assert path.read_bytes() == BODY and path.name == "a.bin"
    assert resolve(reference, tmp_path) == [path]
    assert len(server.asked) == 1


def test_http_must_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not pinned: add #sha256="):
        resolve("https://example.org/a.bin", tmp_path)
    with pytest.raises(SourceError, match="64 hexadecimal"):
        resolve("https://example.org/a.bin#sha256=12", tmp_path)


def test_an_interrupted_download_is_continued(server: Any, tmp_path: Path) -> None:
    server.content["/a.bin"], server.break_at = BODY, 2_500_000
    reference = f"{server.url}/a.bin#sha256={DIGEST}"
    with pytest.raises(SourceError, match="run again to continue"):
        resolve(reference, tmp_path)
    server.break_at = None
    [path] = resolve(reference, tmp_path)
    assert path.read_bytes() == BODY
    assert server.asked[1][1] is not None and int(server.asked[1][1][6:-1]) >= 1_000_000


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_that_does_not_fit_is_thrown_away(server: Any, tmp_path: Path, cache: Path, ranges: bool) -> None:
    server.content["/a.bin"], server.ranges = BODY, ranges
    part = cache / "files" / DIGEST[:2] / DIGEST / "a.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another file" * 100)
    [path] = resolve(f"{server.url}/a.bin#sha256={DIGEST}", tmp_path)
    assert path.read_bytes() == BODY


def test_a_part_longer_than_the_file_is_thrown_away(server: Any, tmp_path: Path, cache: Path) -> None:
    server.content["/a.bin"] = BODY
    part = cache / "files" / DIGEST[:2] / DIGEST / "a.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY + b"more")
    assert resolve(f"{server.url}/a.bin#sha256={DIGEST}", tmp_path)[0].read_bytes() == BODY


def test_a_digest_mismatch_says_both_and_keeps_nothing(server: Any, tmp_path: Path, cache: Path) -> None:
    server.content["/a.bin"] = b"something else"
    with pytest.raises(SourceError, match=f"has sha256 {hashlib.sha256(b'something else').hexdigest()}, but {DIGEST}"):
        resolve(f"{server.url}/a.bin#sha256={DIGEST}", tmp_path)
    assert left_over(cache) == []


def test_no_network_and_refusals_are_one_sentence(server: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="404"):
        resolve(f"{server.url}/absent#sha256={DIGEST}", tmp_path)
    with pytest.raises(SourceError, match=r"could not be read.*check the network"):
        resolve(f"http://127.0.0.1:9/a#sha256={DIGEST}", tmp_path)


def test_a_full_disk_says_what_is_free_and_needed(
    server: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content["/a.bin"] = BODY
    usage = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError, match=r"full \(1 MB free, 4 MB needed\)"):
        resolve(f"{server.url}/a.bin#sha256={DIGEST}", tmp_path)
    assert left_over(cache) == []


def test_a_disk_that_fills_up_meanwhile_keeps_nothing(
    server: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content["/a.bin"] = BODY

    def fill(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = open_path(self, mode, *arguments, **options)
        if self.suffix == ".part" and mode in {"wb", "r+b"}:
            file.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    open_path = Path.open
    monkeypatch.setattr(Path, "open", fill)
    with pytest.raises(SourceError, match="is full"):
        resolve(f"{server.url}/a.bin#sha256={DIGEST}", tmp_path)
    assert left_over(cache) == []


def test_two_processes_share_one_download(server: Any, tmp_path: Path) -> None:
    server.content["/a.bin"] = BODY
    program = (
        "import sys; from pathlib import Path; from forgeline.sources import resolve; resolve(sys.argv[1], Path())"
    )
    command = [sys.executable, "-c", program, f"{server.url}/a.bin#sha256={DIGEST}"]
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(server.asked) == 1


def test_fsspec_urls_are_cached_and_follow_changes(tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe("/rows/a.txt", b"one")
    files.pipe("/rows/b.txt", b"two")
    assert [path.read_bytes() for path in resolve("memory://rows/*.txt", tmp_path)] == [b"one", b"two"]
    files.pipe("/rows/a.txt", b"new")
    assert resolve("memory://rows/a.txt", tmp_path)[0].read_bytes() == b"new"
    pin = hashlib.sha256(b"new").hexdigest()
    assert resolve(f"memory://rows/a.txt#sha256={pin}", tmp_path)[0].read_bytes() == b"new"
    with pytest.raises(SourceError, match="but 0000"):
        resolve(f"memory://rows/a.txt#sha256={'0' * 64}", tmp_path)
    with pytest.raises(SourceError, match="names no object"):
        resolve("memory://rows/c.txt", tmp_path)


def test_a_missing_storage_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pip install gcsfs"):
        resolve("gs://bucket/rows.jsonl", tmp_path)
    with pytest.raises(SourceError, match="no known protocol"):
        resolve("gopher://rows", tmp_path)


def test_objects_keep_the_names_that_tell_them_apart(tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for day in ("mon", "tue"):
        files.pipe(f"/days/{day}/rows.txt", day.encode())
    found = locate("memory://days/*/rows.txt", tmp_path)
    assert [(name, path.read_text()) for name, path in found] == [
        ("memory:///days/mon/rows.txt", "mon"),
        ("memory:///days/tue/rows.txt", "tue"),
    ]


def test_secrets_are_taken_from_the_environment_and_never_said(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content["/t0ken/a.bin"] = BODY
    reference = f"{server.url}/${{env:SOURCE_TOKEN}}/%s#sha256={DIGEST}"
    with pytest.raises(SourceError, match=r"\$\{env:SOURCE_TOKEN\}.*SOURCE_TOKEN is not set: export it"):
        resolve(reference % "a.bin", tmp_path)
    monkeypatch.setenv("SOURCE_TOKEN", "t0ken")
    [(name, path)] = locate(reference % "a.bin", tmp_path)
    assert path.read_bytes() == BODY and name == f"{server.url}/${{env:SOURCE_TOKEN}}/a.bin"
    with pytest.raises(SourceError, match="404") as fault:
        resolve(reference % "b.bin", tmp_path)
    assert "t0ken" not in str(fault.value)
    with pytest.raises(SourceError, match=r"//me:\*\*\*@nowhere") as fault:
        resolve("gopher://me:hunter2@nowhere/a", tmp_path)
    assert "hunter2" not in str(fault.value)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    import s3fs

    monkeypatch.setattr(remote, "SILENCE", 0.1)
    monkeypatch.setitem(remote.PATIENCE["s3"]["config_kwargs"], "read_timeout", 0.1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield address
    s3fs.S3FileSystem.clear_instance_cache()


SILENT = [f"http://{{}}/a.bin#sha256={DIGEST}", "s3://bucket/rows.jsonl"]


@pytest.mark.parametrize("reference", SILENT, ids=["http", "s3"])
def test_a_remote_that_stops_answering_is_given_up(silence: str, tmp_path: Path, reference: str) -> None:
    with pytest.raises(SourceError, match=r"could not be read .*check the network"):
        resolve(reference.format(silence), tmp_path)


def distributions() -> tuple[bytes, bytes]:
    wheel, sdist = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/data/rows.json", "[1]")
    with tarfile.open(fileobj=sdist, mode="w:gz") as archive:
        for name, text in (("tiny-1.0/tiny/data/rows.json", b"[2]"), ("tiny-1.0/setup.py", b"raise SystemExit")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return wheel.getvalue(), sdist.getvalue()


@pytest.fixture
def index(server: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str, str]:
    wheel, sdist = distributions()
    pins = hashlib.sha256(wheel).hexdigest(), hashlib.sha256(sdist).hexdigest()
    names = "tiny-1.0-py3-none-any.whl", "tiny-1.0.tar.gz"
    links = "".join(f'<a href="/{name}#sha256={pin}">{name}</a>' for name, pin in zip(names, pins, strict=True))
    server.content |= {"/simple/tiny/": links.encode(), f"/{names[0]}": wheel, f"/{names[1]}": sdist}
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    return server, *pins


def test_the_digest_chooses_wheel_or_sdist(index: tuple[Any, str, str], tmp_path: Path) -> None:
    server, wheel, sdist = index
    for pin, text in ((wheel, "[1]"), (sdist, "[2]")):
        [path] = resolve(f"pypi://tiny==1.0/tiny/data/rows.json#sha256={pin}", tmp_path)
        assert path.read_text() == text and path.name == "rows.json"
    asked = len(server.asked)
    resolve(f"pypi://tiny==1.0/tiny/data/rows.json#sha256={wheel}", tmp_path)
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("pypi://tiny==1.0/tiny/data/rows.json", "not pinned: add #sha256="),
        ("pypi://tiny==1.0/tiny/data/row.json#sha256={wheel}", "has no member.*holds tiny/data/rows.json"),
        ("pypi://tiny==1.0/tiny/data/rows.json#sha256=" + "0" * 64, "no published file has the pinned sha256"),
        ("pypi://tiny==2.0/tiny/data/rows.json#sha256=" + "0" * 64, "no tiny==2.0. tiny holds 1.0"),
        ("pypi://absent==2.0/rows.json#sha256=" + "0" * 64, "no package absent"),
        ("pypi://tiny==1.0/../../etc/passwd#sha256={wheel}", "must stay inside"),
        ("pypi://tiny/rows.json#sha256={wheel}", "expected pypi://package==version"),
    ],
)
def test_faulty_package_references_say_what_to_do(
    index: tuple[Any, str, str], tmp_path: Path, reference: str, sentence: str
) -> None:
    with pytest.raises(SourceError, match=sentence):
        resolve(reference.format(wheel=index[1]), tmp_path)


def test_an_unreachable_index_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    with pytest.raises(SourceError, match="index cannot be reached"):
        resolve(f"pypi://tiny==1.0/rows.json#sha256={'0' * 64}", tmp_path)


def test_the_shipped_data_sources_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORGELINE_CACHE")
    paths = [resolve(uri, tmp_path)[0] for source in load().data.fetch.sources.values() for uri in source.uri]
    assert all(path.is_relative_to(cache_root()) and path.stat().st_size for path in paths)


def test_the_hub_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for reference in ("hf://owner/name", "hf://datasets/owner/name@main/rows.jsonl"):
        with pytest.raises(SourceError, match="not in the hub cache, and the hub cannot be reached"):
            resolve(reference, tmp_path)
    with pytest.raises(SourceError, match="expected hf://"):
        resolve("hf://name", tmp_path)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORGELINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/forgeline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "forgeline"
