"""The page that the gateway serves: chat, reviews and status, as static files and one answer about the use case."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from forgeline.page.style import PALETTE
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.web.settings import Page, page, stored_page

__all__ = ["Page", "page", "router", "stored_page"]

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class _File:
    """A static file as it goes out."""

    plain: bytes
    packed: bytes
    type: str
    tag: str


def router(page: Callable[[], Page]) -> APIRouter:
    """Return the routes `/`, `/assets/*` (both open to anyone) and `/page/settings` (any role), of the page as it is.

    Of the caller in `request.state.caller`, the page is told the id and the roles; without one, none.
    """
    routes = APIRouter()
    known = _files()

    @routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(http: Request) -> Response:
        return _sent(known["index.html"], http)

    @routes.api_route("/assets/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(name: str, http: Request) -> Response:
        if name not in known:
            raise ApiError(404, f"The page has no file {name}.", "not_found")
        return _sent(known[name], http)

    @routes.get("/page/settings")
    async def settings(http: Request) -> dict[str, Any]:
        caller = getattr(http.state, "caller", None)
        who = {"id": caller.id, "roles": sorted(caller.roles)} if caller else {"id": "", "roles": []}
        return {**page().model_dump(mode="json"), "caller": who}

    return routes


def _files() -> dict[str, _File]:
    texts = {"palette.css": PALETTE.encode()}
    for path in (files(__package__) / "assets").iterdir():
        texts[path.name] = path.read_bytes()
    return {name: _file(name, content) for name, content in texts.items()}


def _file(name: str, content: bytes) -> _File:
    kind = TYPES[name.rpartition(".")[2]]
    return _File(content, gzip.compress(content, mtime=0), kind, hashlib.sha256(content).hexdigest()[:32])


def _sent(file: _File, http: Request) -> Response:
    packed = "gzip" in http.headers.get("accept-encoding", "")
    tag = f'"{file.tag}{"-gzip" if packed else ""}"'
    headers = {
        "ETag": tag,
        "Vary": "Accept-Encoding",
    }
    if tag in http.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(file.packed if packed else file.plain, headers=headers, media_type=file.type)
