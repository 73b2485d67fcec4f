from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from forgeline.sources import package


class Files:
    """What a loopback server offers, what it was asked, and after how many bytes it hangs up."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.content: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.break_at: int | None = None
        self.ranges = True


@pytest.fixture
def server() -> Iterator[Files]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            files.asked.append((self.path, wanted))
            body = files.content.get(self.path)
            if body is None:
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and files.ranges else 0
            if start and start >= len(body):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.end_headers()
            self.wfile.write(body[start : files.break_at])
            return None

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files = Files(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield files
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORGELINE_CACHE", str(tmp_path / "cache"))
    package._finder.cache_clear()
    return tmp_path / "cache"
