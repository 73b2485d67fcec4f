"""Downloads over HTTP and through fsspec: resumed, checked, and published whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from forgeline.errors import SourceError
from forgeline.lineage import file_digest, value_digest
from forgeline.sources.cache import cache_root, disk_full, disk_space_reported, locked

CHUNK = 1 << 20
SILENCE = 20.0  # seconds without an answer, after which a remote counts as gone
# What the storage clients call it; theirs are a minute and more, times several tries.
PATIENCE: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": SILENCE / 2,
            "read_timeout": SILENCE,
            "retries": {"total_max_attempts": 1},  # the client around it tries again
        }
    }
}


# From an offset: where the bytes really start, the whole size if known, the chunks, what to close.
Attempt = Callable[[int], tuple[int, int | None, Iterator[bytes], Any]]


def resolve_http(reference: str) -> Path:
    """Return the cached file of an `http(s)://…#sha256=…` reference.

    Raises:
        SourceError: for a missing or different digest, and whatever stops the download.
    """
    url, pin = split_pin(reference)
    if pin is None:
        raise SourceError(
            f"{url} is not pinned: add #sha256=<digest> to it (`curl -sL {url} | sha256sum` prints the digest)."
        )
    return download(url, pin, Path(urlsplit(url).path).name or "download")


def resolve_remote(reference: str) -> list[tuple[str, Path]]:
    """Return the cached files of an fsspec URL or glob, each with the URL of its object.

    A pinned file is asked for once. One without a pin is asked each time whether it changed, so
    that what is used is what is there.

    Raises:
        SourceError: for an unknown protocol, a missing package, a missing object, a different digest.
    """
    url, pin = split_pin(reference)
    name = PurePosixPath(urlsplit(url).path or url).name
    if pin and (kept := _address(pin, name)).exists():
        return [(url, kept)]
    with _faults_of(url):
        filesystem, path = _open_filesystem(url)
        paths = sorted(map(str, filesystem.glob(path))) if "*" in path else [path]
        if not paths or not filesystem.exists(paths[0]):
            raise SourceError(f"{url} names no object: check the spelling and your right to read it.")
        if pin and len(paths) > 1:
            raise SourceError(f"{url} names {len(paths)} objects; a sha256 can pin only one.")
        return [(str(filesystem.unstrip_protocol(one)), _fetch_object(filesystem, one, url, pin)) for one in paths]


def split_pin(reference: str) -> tuple[str, str | None]:
    """Return a reference without its fragment, and the sha256 that the fragment pins, if any."""
    url, _, fragment = reference.partition("#")
    if not fragment:
        return url, None
    name, _, digest = fragment.partition("=")
    digest = digest.lower()
    if name != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise SourceError(f"{reference}: expected #sha256=<64 hexadecimal digits> after the address.")
    return url, digest


def download(url: str, pin: str, name: str, client: Any = None) -> Path:
    """Return the cached file of a URL, whose sha256 must be `pin`.

    An interrupted download is continued where the server can (HTTP Range), else begun again.
    `client` is an `unearth` HTTP client; a new one takes proxies and certificates from the environment.
    """
    import httpx2
    from unearth.fetchers import PyPIClient

    target = _address(pin, name)
    if target.exists():
        return target
    client = client or PyPIClient(timeout=SILENCE)

    def attempt(offset: int) -> tuple[int, int | None, Iterator[bytes], Any]:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        request = client.build_request("GET", url, headers=headers)
        response = client.send(request, stream=True, follow_redirects=True)
        if offset and response.status_code == 416:  # the server has no such range: what is here is no part of it
            response.close()
            return attempt(0)
        response.raise_for_status()
        start = offset if response.status_code == 206 else 0
        length = response.headers.get("Content-Length")
        return start, int(length) + start if length else None, response.iter_bytes(CHUNK), response

    try:
        return _receive(target, pin, url, attempt)
    except httpx2.HTTPStatusError as fault:
        raise SourceError(f"{url} answered {fault.response.status_code} {fault.response.reason_phrase}.") from None
    except httpx2.HTTPError as fault:
        raise SourceError(_unreachable(url, fault)) from None


def _fetch_object(filesystem: Any, path: str, url: str, pin: str | None) -> Path:
    size = filesystem.size(path)
    target = _address(pin or value_digest([url, path, str(filesystem.ukey(path))]), PurePosixPath(path).name)
    if target.exists():
        return target

    def attempt(offset: int) -> tuple[int, int | None, Iterator[bytes], Any]:
        file = filesystem.open(path, "rb")
        file.seek(offset)
        return offset, size, iter(lambda: file.read(CHUNK), b""), file

    return _receive(target, pin, url, attempt)


def _address(digest: str, name: str) -> Path:
    return cache_root() / "files" / digest[:2] / digest / name


def _receive(target: Path, pin: str | None, url: str, attempt: Attempt) -> Path:
    """Write what `attempt(offset)` yields after what is there already, check it, and publish it."""
    partial = target.with_name(target.name + ".part")
    with locked(target):
        if target.exists():  # another process was faster
            return target
        offset = partial.stat().st_size if partial.exists() else 0
        _write(partial, offset, url, attempt)
        if pin and offset and file_digest(partial) != pin:  # the part was of another file: begin again
            partial.unlink()
            _write(partial, 0, url, attempt)
        if pin and (found := file_digest(partial)) != pin:
            partial.unlink()
            raise SourceError(
                f"{url} has sha256 {found}, but {pin} is pinned: it is not the file that was reviewed, and was "
                "deleted. If the change is meant, pin the new digest."
            )
        os.replace(partial, target)
    return target


def _write(partial: Path, offset: int, url: str, attempt: Attempt) -> None:
    start, total, chunks, source = attempt(offset)
    try:
        missing = (total or 0) - start
        if missing > shutil.disk_usage(partial.parent).free:
            partial.unlink(missing_ok=True)
            raise disk_full(partial.parent, missing)
        with disk_space_reported(partial.parent, missing), partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            with _progress(partial.name.removesuffix(".part"), start, total) as advance:
                for chunk in chunks:
                    file.write(chunk)
                    advance(len(chunk))
    except SourceError:
        partial.unlink(missing_ok=True)  # a full disk needs the room
        raise
    finally:
        source.close()
    if total is not None and partial.stat().st_size < total:
        raise SourceError(f"{url} broke off at {partial.stat().st_size:,} of {total:,} bytes: run again to continue.")


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, completed=start, total=total)
        yield lambda count: progress.advance(task, count)


def _open_filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    protocol = url.partition("://")[0]
    if protocol not in known_implementations:
        raise SourceError(
            f"{url}: no known protocol {protocol}:// (known: file, hf, pypi, https, s3, gs, az, …; a database's "
            "address needs a `query` beside it)."
        )
    try:
        filesystem, path = url_to_fs(url, **PATIENCE.get(protocol, {}))
    except ImportError as fault:
        hint = known_implementations[protocol].get("err") or str(fault)
        package = known_implementations[protocol]["class"].partition(".")[0]
        raise SourceError(f"{protocol}:// needs a package: `pip install {package}` ({hint}).") from None
    return filesystem, str(path)


@contextmanager
def _faults_of(url: str) -> Iterator[None]:
    """Turn what a storage client raises into one sentence: each has its own family of errors."""
    try:
        yield
    except SourceError:
        raise
    except Exception as fault:
        raise SourceError(_unreachable(url, fault)) from fault


def _unreachable(url: str, fault: Exception) -> str:
    reason = " ".join(str(fault).split()) or type(fault).__name__
    return f"{url} could not be read ({reason}): check the network, proxy and credentials, then run again to continue."
