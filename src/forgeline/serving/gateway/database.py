"""How the gateway's database is reached, SQLite or PostgreSQL, and which of its faults may pass."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Dialect, Engine, Executable, MetaData, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from forgeline.errors import ServingError
from forgeline.lineage import value_digest
from forgeline.sources.environment import expand, shown

METADATA = MetaData()  # every room of the gateway adds its tables
TABLES_LOCK = 8_600_001  # any number that every gateway takes
# What may pass: busy, locked, out of memory, read-only, interrupted, I/O, full, cannot open, protocol;
# and in PostgreSQL: connection, transaction rollback, resources, lock not available, operator, system.
PASSING_SQLITE = {5, 6, 7, 8, 9, 10, 13, 14, 15}
PASSING_STATES = ("08", "40", "53", "55P03", "57", "58")


class StoreFailed(ServingError):
    """The database could not be asked."""


def connect(address: str, timeout: float) -> Engine:
    """Return an engine for an address; no statement on PostgreSQL takes longer than `timeout` seconds.

    Raises:
        StoreFailed: if it is not the address of a database.
    """
    try:
        url = make_url(expand(address))
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise StoreFailed(
            f"serve.store: {shown(address)} is not the address of a database, such as sqlite:///.forgeline/gateway.db "
            "or postgresql://${env:DB_USER}:${env:DB_PASSWORD}@host/gateway."
        ) from None
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    wait = round(timeout * 1000)
    patience = {"tcp_user_timeout": wait, "options": f"-c statement_timeout={wait}"}
    patience["connect_timeout"] = max(2, round(timeout))
    url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    return create_engine(url, connect_args=patience, pool_pre_ping=True)


def is_sqlite(engine: Engine) -> bool:
    """Whether a database is a file of this machine."""
    return engine.dialect.name == "sqlite"


def prepare(engine: Engine, timeout: float) -> Path:
    """Create what tables are missing, and return how the names of the files beside the database begin.

    Raises:
        DBAPIError: if the database cannot be reached within `timeout` seconds.
        OSError: if it cannot be made.
    """
    beside = _beside(engine)
    beside.parent.mkdir(parents=True, exist_ok=True)
    if is_sqlite(engine):
        Path(str(engine.url.database)).touch(mode=0o600)
    with engine.begin() as connection:
        if is_sqlite(engine):
            connection.exec_driver_sql(f"PRAGMA busy_timeout={round(timeout * 1000)}")
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        else:  # one gateway at a time makes tables
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TABLES_LOCK})")
        begin(connection)
        METADATA.create_all(connection)
    engine.dispose()
    return beside


def begin(connection: Connection) -> None:
    """Begin to write."""
    if is_sqlite(connection.engine):  # no read may become a write that another process has overtaken
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def insert_new(connection: Connection, table: Table, columns: Iterable[str]) -> Executable:
    """Return an insert of rows with these columns that leaves a row alone that is there already."""
    return _insert_new(table, connection.dialect, tuple(columns))


@cache
def _insert_new(table: Table, dialect: Dialect, columns: tuple[str, ...]) -> Executable:
    insert = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
    # SQLAlchemy keeps no compiled statement that only one dialect has; to compile it takes longer than to execute it.
    compiled = insert(table).on_conflict_do_nothing().compile(dialect=dialect, column_keys=columns)
    return cast(Executable, compiled)


def passes(fault: Exception) -> bool:
    """Whether a later try of the same write may succeed."""
    if not isinstance(fault, DBAPIError):
        return False
    code = getattr(fault.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in PASSING_SQLITE
    state = getattr(fault.orig, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(PASSING_STATES))
    return fault.connection_invalidated or isinstance(fault, OperationalError | InterfaceError)


def _beside(engine: Engine) -> Path:
    if is_sqlite(engine):
        return Path(f"{engine.url.database}-spool")
    which = value_digest(engine.url.render_as_string(hide_password=True))[:12]
    return Path(f".forgeline/gateway-{which}-spool")


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions are begun where they are meant
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=200")
