"""Which role may do what: one table, and whatever is not in it is closed to everybody."""

from __future__ import annotations

import re
from typing import get_args

from forgeline.config.schema.serve.access import Role
from forgeline.serving.gateway.access.refusal import Unauthenticated, forbidden
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError

ALL = get_args(Role)
PUBLIC = ("public", *ALL)
# Methods, path, roles beside admin. A last `*` stands for one or more segments; HEAD goes with GET.
RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("GET", "/healthz", PUBLIC),
    ("GET", "/readyz", PUBLIC),
    ("GET", "/", PUBLIC),
    ("GET", "/assets/*", PUBLIC),
    ("GET", "/page/settings", ALL),
    ("GET", "/openapi.json", ALL),
    ("POST", "/v1/chat/completions", ("caller",)),
    ("GET", "/v1/models", ("caller",)),
    ("POST", "/v1/feedback", ("caller",)),
    ("GET", "/v1/feedback", ("auditor",)),
    ("GET POST", "/v1/batches", ("caller",)),
    ("GET POST", "/v1/batches/*", ("caller",)),
    ("GET POST", "/v1/files", ("caller",)),
    ("GET DELETE", "/v1/files/*", ("caller",)),
    ("GET", "/v1/reviews/tickets/*", ("caller",)),
    ("GET", "/v1/reviews", ("reviewer",)),
    ("GET POST", "/v1/reviews/*", ("reviewer",)),
    ("GET", "/metrics", ("operator",)),
    ("GET", "/v1/status", ("operator",)),
    ("GET POST", "/v1/rollout", ("operator",)),
    ("POST", "/v1/rollout/*", ("operator",)),
    ("GET POST", "/v1/webhooks", ("operator",)),
    ("GET POST PUT DELETE", "/v1/webhooks/*", ("operator",)),
    ("GET", "/v1/interactions", ("auditor",)),
    ("GET", "/v1/interactions/*", ("auditor",)),
)
Entry = dict[str, frozenset[str]]  # the roles that each method is open to
EXACT: dict[str, Entry] = {}
for methods, path, roles in RULES:
    EXACT.setdefault(path, {}).update({method: frozenset({*roles, "admin"}) for method in methods.split()})
BELOW = {path[:-1]: EXACT.pop(path) for path in tuple(EXACT) if path.endswith("/*")}
SEGMENTS = re.compile(r"(?!\.{1,2}(?:/|$))[\w.~:-]+(?:/(?!\.{1,2}(?:/|$))[\w.~:-]+)*", re.ASCII)


def entry(path: str) -> Entry | None:
    """Return what the table says of a path, exactly as it is asked for: nothing is decoded, folded or resolved."""
    if path in EXACT:
        return EXACT[path]
    for parent, found in BELOW.items():
        if path.startswith(parent) and SEGMENTS.fullmatch(path, len(parent)):
            return found
    return None


def admit(caller: Caller, method: str, path: str) -> None:
    """Let a request pass that the table allows.

    Raises:
        Unauthenticated: if it is not public and nobody knows who asks, whether or not there is such a path.
        ApiError: 403 without the role, 404 for a path that is not in the table, 405 for a method.
    """
    found, method = entry(path), "GET" if method == "HEAD" else method
    if found and "public" in found.get(method, ()):
        return
    if not caller.roles and caller.id == "anonymous":
        raise Unauthenticated("Send an API key: `Authorization: Bearer fl_…`.", "missing_credentials")
    if found is None:
        raise ApiError(404, "Not Found", "not_found")
    if not caller.roles & frozenset().union(*found.values()):
        raise forbidden(f"This needs the role {_named(found)}.")
    if method not in found:
        refusal = ApiError(405, "Method Not Allowed", "method_not_allowed")
        refusal.headers = {"Allow": ", ".join(sorted(found))}
        raise refusal
    if not caller.roles & found[method]:
        raise forbidden(f"This needs the role {_named({method: found[method]})}.")


def admit_model(caller: Caller, model: str) -> None:
    """Let a request for a model pass; raises ApiError 403 if the caller's key is for others only."""
    if caller.models and model not in caller.models:
        raise forbidden(f"This API key is not for the model `{model}`.", "model_not_allowed")


def _named(found: Entry) -> str:
    roles = frozenset().union(*found.values())
    return " or ".join(role for role in ALL if role in roles)
