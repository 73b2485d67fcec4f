"""Google Cloud by its own client: requests are held against the discovery documents that it ships.

Credentials are Application Default Credentials; nothing here reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Check
from forgeline.serving.targets.clouds import wait

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
MISSING = "The Google targets need its client: pip install 'forgeline[google]'."
TIMEOUT = 300  # seconds, for one call
Schemas = dict[str, tuple[str, str]]
"""For each file, the API whose document has its schema, and the schema's name."""


@lru_cache
def document(api: str) -> dict[str, Any]:
    """Return the discovery document of an API, such as run.v2."""
    try:
        from googleapiclient.discovery_cache import get_static_doc
    except ModuleNotFoundError:
        raise ServingError(MISSING) from None
    name, _, version = api.partition(".")
    found: dict[str, Any] = json.loads(get_static_doc(name, version))
    return found


def check(files: dict[str, str], schemas: Schemas) -> tuple[list[Check], list[str]]:
    """Hold each file against its schema; return why they are valid, and the faults."""
    from jsonschema import Draft202012Validator

    checks, faults = [], list[str]()
    for path, (api, name) in schemas.items():
        validator = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": _closed(api)})
        for error in validator.iter_errors(json.loads(files[path])):
            faults.append(f"{path}: {error.json_path.removeprefix('$').lstrip('.')}: {error.message}")
        checks.append(Check(path, f"{name} of {api}'s discovery document, revision {document(api)['revision']}"))
    return checks, faults


def transport() -> Any:
    """Return an HTTP client with the credentials of this machine."""
    try:
        import google.auth
        import google_auth_httplib2
        import httplib2
    except ModuleNotFoundError:
        raise ServingError(MISSING) from None
    credentials, _ = google.auth.default(scopes=[SCOPE])
    return google_auth_httplib2.AuthorizedHttp(credentials, http=httplib2.Http(timeout=TIMEOUT))


def sdk(api: str, region: str | None = None) -> Any:
    """Return the client of an API, at a region's own address if it has them."""
    from googleapiclient.discovery import build_from_document

    told = document(api)
    where = {"api_endpoint": told["rootUrl"].replace("https://", f"https://{region}-")} if region else {}
    return build_from_document(told, http=transport(), client_options=where)


@contextmanager
def spoken(target: str) -> Iterator[None]:
    """Turn what the client raises into a sentence."""
    from google.auth.exceptions import GoogleAuthError
    from googleapiclient.errors import Error, HttpError
    from httplib2 import HttpLib2Error

    try:
        yield
    except GoogleAuthError as fault:
        why = str(fault).splitlines()[0].rstrip(".")
        raise ServingError(
            f"The {target} target cannot ask Google: {why}: run `gcloud auth application-default login`, or give this "
            "machine a service account."
        ) from fault
    except HttpError as fault:
        raise ServingError(f"Google refused it ({fault.resp.status}): {fault.reason.rstrip('.')}.") from fault
    except (Error, HttpLib2Error, OSError) as fault:
        raise ServingError(f"The {target} target cannot reach Google: {fault}") from fault


def found(request: Any) -> dict[str, Any] | None:
    """Return what a request gets, None if it is not there."""
    from googleapiclient.errors import HttpError

    try:
        got: dict[str, Any] = request.execute()
    except HttpError as fault:
        if fault.resp.status == 404:
            return None
        raise
    return got


def done(what: str, operations: Any, begun: dict[str, Any], every: float) -> dict[str, Any]:
    """Return the response of a long-running operation once it is done.

    Raises:
        ServingError: if it failed.
    """

    def look() -> dict[str, Any] | None:
        seen: dict[str, Any] = operations.get(name=begun["name"]).execute()
        return seen if seen.get("done") else None

    over = begun if begun.get("done") else wait(what, look, every)
    if error := over.get("error"):
        raise ServingError(f"{what}: {error.get('message', error)}")
    response: dict[str, Any] = over.get("response", {})
    return response


def tail(project: str, selected: str, lines: int) -> Iterator[str]:
    """Yield the last lines of Cloud Logging that a filter selects."""
    asked = {
        "resourceNames": [f"projects/{project}"],
        "filter": selected,
        "orderBy": "timestamp desc",
        "pageSize": min(lines, 1000),
    }
    entries = sdk("logging.v2").entries().list(body=asked).execute().get("entries", [])
    for entry in reversed(entries[:lines]):
        told = entry.get("textPayload") or json.dumps(entry.get("jsonPayload", entry.get("httpRequest", {})))
        yield f"{entry['timestamp']} {told.rstrip()}\n"


@lru_cache
def _closed(api: str) -> dict[str, Any]:
    """Return an API's schemas as JSON Schema that forbids what it does not name, and what only the service may set."""
    return {name: _schema(schema) for name, schema in document(api)["schemas"].items()}


def _schema(told: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in told:
        return {"$ref": f"#/$defs/{told['$ref']}"}
    kept: dict[str, Any] = {key: told[key] for key in ("type", "enum", "pattern") if key in told and told[key] != "any"}
    if "items" in told:
        kept["items"] = _schema(told["items"])
    if "properties" in told:
        settable = {key: part for key, part in told["properties"].items() if not part.get("readOnly")}
        kept |= {"properties": {key: _schema(part) for key, part in settable.items()}, "additionalProperties": False}
    elif "additionalProperties" in told:
        kept["additionalProperties"] = _schema(told["additionalProperties"])
    return kept
