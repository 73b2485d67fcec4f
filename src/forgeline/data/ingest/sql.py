"""What a query of a database yields, as JSON lines, to be read like any other file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from forgeline.data.layout import SOURCE
from forgeline.errors import DataError, SourceError
from forgeline.sources.environment import expand, redact

ROWS = 1000  # fetched at a time
# Seconds to connect, and milliseconds that sent data may stay unacknowledged before the server counts as gone.
PATIENCE = {"connect_timeout": 15, "tcp_user_timeout": 60_000}


def query_rows(uri: str, query: str, root: Path, target: Path, limit: int | None = None) -> str:
    """Write the rows of a query into a file, one JSON object a line, and return the database's name.

    The server streams them; nothing is committed. What a database holds can change without any file
    changing: the query is asked whenever the stage runs, and DVC runs it when a file or key has changed
    (`dvc repro --force fetch` always does). Without ORDER BY, the order may differ from run to run.

    Raises:
        SourceError: for an address that is none, a missing driver, or no connection.
        DataError: with the database's own words for a query that fails, or a SQLite file outside data/source/.
    """
    from sqlalchemy import text

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    engine = _engine(uri, root)
    statement = text(query.replace(":", r"\:"))  # a colon is the query's own, never a parameter
    try:
        with _refusals_reported(uri, SourceError):
            connection = engine.connect().execution_options(stream_results=True, yield_per=ROWS)
        with connection, _refusals_reported(uri, DataError), partial.open("wb") as file:
            for row in islice(connection.execute(statement).mappings(), limit):
                file.write(orjson.dumps(dict(row), default=_plain, option=orjson.OPT_APPEND_NEWLINE))
            connection.rollback()
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
        engine.dispose()
    return redact(uri, uri)


def _engine(uri: str, root: Path) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(expand(uri))
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "sqlite":
            url = url.set(database=str(_sqlite_file(url.database or "", root)))
        return create_engine(url, connect_args=PATIENCE if url.drivername == "postgresql+psycopg" else {})
    except (ArgumentError, NoSuchModuleError) as fault:
        raise SourceError(
            f"{redact(uri, uri)} is not the address of a database: {redact(str(fault), uri)}. "
            "A source with `query` has one, such as postgresql://${env:DB_USER}:${env:DB_PASSWORD}@host/database."
        ) from None
    except ImportError as fault:
        raise SourceError(f"{redact(uri, uri)} needs a driver: `pip install {fault.name}`.") from None


def _sqlite_file(database: str, root: Path) -> Path:
    path = (root / database).resolve()
    if not path.is_relative_to((root / SOURCE).resolve()):
        raise DataError(f"{path} lies outside {SOURCE}/, so DVC would not see it change: move or copy it there.")
    if not path.is_file():
        raise SourceError(f"{path} does not exist: a SQLite database lies below {SOURCE}/, as sqlite:///{SOURCE}/….")
    return path


@contextmanager
def _refusals_reported(uri: str, family: type[SourceError | DataError]) -> Iterator[None]:
    """Turn a database's error into one sentence, in its own words."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as fault:
        own = fault.orig if isinstance(fault, DBAPIError) else fault
        said = re.sub(r"\s*\(Background on this error.*", "", " ".join(str(own).split())).rstrip(".")
        raise family(f"{redact(uri, uri)}: the database says: {redact(said, uri)}.") from None


def _plain(value: Any) -> str:
    """Return a decimal number, an address or bytes as text."""
    return bytes(value).decode("utf-8", errors="replace") if isinstance(value, bytes | memoryview) else str(value)
