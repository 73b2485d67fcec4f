"""Every route is closed to those without its role, whatever its name is written like."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from house import ROLES, House
from scene import HELLO

from forgeline.serving.gateway.access import routes
from forgeline.serving.gateway.access.routes import ALL, RULES, admit, admit_model, entry
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError

MODEL = "reply-writer"
QUESTION = {"model": MODEL, "messages": HELLO, "max_tokens": 1}
OPEN = {"/healthz", "/readyz", "/", "/assets/*"}


def walked(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield all routes, those of included routers too."""
    for route in routes:
        yield from walked(route.original_router.routes) if hasattr(route, "original_router") else [route]


def served(house: House) -> list[tuple[str, str]]:
    """Return the methods and paths of the application, each parameter with something in its place."""
    return [
        (method, re.sub(r"\{[^}]*\}", "x1", route.path))
        for route in walked(house.app.routes)
        for method in getattr(route, "methods", None) or ("GET",)
    ]


def test_every_route_is_in_the_table(house: House) -> None:
    missing = [(method, path) for method, path in served(house) if method not in {"HEAD", *(entry(path) or ())}]
    assert not missing, f"add a rule to gateway/access/routes.py for {missing}"


def test_every_rule_is_for_a_route(house: House) -> None:
    there = served(house)
    for methods, path, _ in RULES:
        for method in methods.split():
            ways = [way for sort, way in there if sort == method]
            assert path in ways or any(path.endswith("*") and way.startswith(path[:-1]) for way in ways), (method, path)


def test_a_route_without_a_rule_is_closed_to_everybody(house: House) -> None:
    house.app.add_api_route("/v1/forgotten", lambda: "open", methods=["GET"])
    try:
        assert ("GET", "/v1/forgotten") in served(house)
        with pytest.raises(AssertionError, match="add a rule"):
            test_every_route_is_in_the_table(house)
        assert house.ask("GET", "/v1/forgotten").status == 401
        assert {house.ask("GET", "/v1/forgotten", key).status for key in house.keys.values()} == {404}
    finally:
        house.app.router.routes.pop()


def test_each_route_opens_to_its_roles_alone(house: House) -> None:
    for method, path in served(house):
        allowed = (entry(path) or {}).get("GET" if method == "HEAD" else method, frozenset())
        anonymous = house.ask(method, path)
        assert (anonymous.status == 401) == ("public" not in allowed), (method, path)
        for role, key in house.keys.items():
            answer = house.ask(method, path, key, {} if method == "POST" else None)
            assert (answer.status in {401, 403}) == (not allowed & {role, "public"}), (method, path, role)


def test_the_table_gives_each_role_what_it_needs_and_no_more() -> None:
    opened = {
        role: {path for _, path, roles in RULES if role in roles and "public" not in roles and roles != ALL}
        for role in ROLES
    }
    assert opened["reviewer"] == {"/v1/reviews", "/v1/reviews/*"}
    assert opened["operator"] == {
        *("/metrics", "/v1/status", "/v1/rollout", "/v1/rollout/*", "/v1/webhooks", "/v1/webhooks/*"),
    }
    assert opened["auditor"] == {"/v1/interactions", "/v1/interactions/*", "/v1/feedback"}
    assert opened["admin"] == set()  # it is in every rule
    assert {path for _, path, roles in RULES if "public" in roles} == OPEN
    assert not any("DELETE" in methods for methods, _, roles in RULES if "auditor" in roles)


TRICKS = [
    *("//v1/models", "/v1//models", "/v1/models/", "/v1/models//", "/V1/models", "/v1/Models", "/v1/./models"),
    *("/v1/../metrics", "/v1/%2e%2e/metrics", "/healthz/../metrics", "/healthz/%2e%2e/metrics", "/assets/../metrics"),
    *("/assets/..%2fmetrics", "/assets/%2e%2e/metrics", "/assets/a/../../metrics", "/assets/..", "/assets/", "/assets"),
    *("/healthz/", "/healthz%00", "/healthz;/metrics", "/healthz%3b", "/healthz%2f..%2fmetrics", "/metrics%20"),
    *("/metrics%0a", "/%6detrics/", "\\metrics", "/v1/models%ff", "/v1/modelſ".encode().decode("latin-1")),
    *("/v1/files/../../metrics", "/v1/files/%2e%2e/%2e%2e/metrics", "/v1/files/a%00b", "/v1/files//"),
    "*",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_way_of_writing_a_path_gets_past(house: House, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "OPTIONS", "TRACE", "DELETE", "get", "CONNECT", "X" * 20):
        assert raw(house, method, path, None) in {400, 401}, (method, path)
    assert raw(house, "GET", path, house.keys["caller"]) in {400, 403, 404}


def raw(house: House, method: str, path: str, key: str | None) -> int:
    """Return the status that a request line gets exactly as it is written."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{house.port}\r\nconnection: close\r\n"
    head += f"authorization: Bearer {key}\r\n" if key else ""
    with socket.create_connection(("127.0.0.1", house.port), timeout=30) as connection:
        connection.sendall(f"{head}\r\n".encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


def test_an_encoded_name_is_the_name(house: House) -> None:
    assert house.ask("GET", "/%6detrics").status == 401
    assert house.ask("GET", "/%6detrics", house.keys["caller"]).status == 403
    assert house.ask("GET", "/%6detrics", house.keys["operator"]).status == 200
    assert house.ask("GET", "/metrics?/healthz").status == 401


def test_what_is_unknown_is_told_only_to_those_who_are_known(house: House) -> None:
    closed = house.ask("GET", "/nowhere")
    assert (closed.status, closed.code) == (401, "missing_credentials")
    assert closed.headers["www-authenticate"] == 'Bearer realm="forgeline"'
    assert set(json.loads(closed.text)["error"]) == {"message", "type", "param", "code"}
    assert house.ask("GET", "/nowhere", house.keys["caller"]).status == 404
    wrong_method = house.ask("GET", "/v1/chat/completions", house.keys["caller"])
    assert (wrong_method.status, wrong_method.headers["allow"]) == (405, "POST")
    no_such_route = house.ask("DELETE", "/v1/files/x1/content", house.keys["caller"])  # files/* may DELETE
    assert (no_such_route.status, no_such_route.headers["allow"]) == (405, "GET")
    assert no_such_route.code == wrong_method.code == "method_not_allowed"
    refused = house.ask("GET", "/v1/chat/completions", house.keys["auditor"])
    assert (refused.status, refused.code) == (403, "insufficient_role")
    assert "caller or admin" in refused.text
    assert house.ask("GET", "/nowhere", "none").code == "missing_credentials"  # as clients send it that must send one
    # a wrong key is told so where nobody need have one: it would otherwise be tried there, unseen
    assert house.ask("GET", "/healthz", "fl_wrong").status == 401


def test_the_caller_reaches_the_route(house: House) -> None:
    assert house.ask("POST", "/v1/chat/completions", house.keys["caller"], QUESTION).status == 200
    assert house.ask("POST", "/v1/chat/completions", None, QUESTION).status == 401


def test_a_key_may_be_for_some_models_only() -> None:
    somebody = Caller("k", "shop", frozenset({"caller"}), frozenset({"a"}))
    admit_model(somebody, "a")
    admit_model(Caller("k", "shop", frozenset({"caller"})), "b")
    with pytest.raises(ApiError, match="not for the model `b`"):
        admit_model(somebody, "b")


def test_somebody_without_a_role_is_known_but_gets_nothing() -> None:
    with pytest.raises(ApiError, match="needs the role caller or admin"):
        admit(Caller("oidc:x", "shop", frozenset()), "GET", "/v1/models")


def test_websockets_are_closed(house: House) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    key = base64.b64encode(b"sixteen bytes...").decode()
    assert house.ask("GET", "/v1/models", house.keys["admin"], sec_websocket_key=key, **upgrade).status == 403


def test_the_table_says_one_thing_of_each_path() -> None:
    named = [(method, path) for methods, path, _ in RULES for method in methods.split()]
    assert len(set(named)) == len(named)
    below = list(routes.BELOW)  # the first that fits counts: what is within another must come before it
    assert not any(later.startswith(earlier) for at, earlier in enumerate(below) for later in below[at + 1 :])
