"""Queries of real databases, and a real S3 protocol, as sources."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import running

from forgeline.config.schema import Data
from forgeline.data import table
from forgeline.data.fetch import fetch
from forgeline.data.ingest.preview import preview
from forgeline.errors import DataError, SourceError


def configured(**source: Any) -> Data:
    fetching = {"sources": {"rows": source}}
    return Data.model_validate({"fetch": fetching, "assess": {"groups": {}, "associations": {}}, "workers": 1})


def raw_rows(root: Path) -> list[dict[str, Any]]:
    return [row for part in table.parts(root / "data/raw") for row in table.to_rows(table.read(part))]


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    path = tmp_path / "data/source/shop.db"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tickets (n INTEGER, question TEXT, answer TEXT, asked TEXT)")
        rows = [(n, f"Question {n}?", f"Answer {n}." if n != 3 else None, "2024-05-01") for n in range(1, 2501)]
        database.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?)", rows)
    database.close()
    return "sqlite:///data/source/shop.db"


QUERY = "SELECT n AS id, question AS prompt, answer AS completion, asked AS time FROM tickets WHERE n > 0 ORDER BY n"


def test_sqlite_rows_are_read_anew_each_time(tmp_path: Path, sqlite: str) -> None:
    config = configured(uri=sqlite, query=QUERY)
    report = fetch(tmp_path, config)
    rows = raw_rows(tmp_path)
    assert report["rows"] == 2500 and report["sources"]["rows"]["shape"] == "prompt_completion"
    assert rows[0]["id"] == "1" and rows[0]["origin"] == {"source": sqlite, "line": 1}
    assert rows[0]["time"] == "2024-05-01T00:00:00+00:00"
    assert rows[2]["fault"] == f"{sqlite}, line 3: completion: expected text, found null"
    with sqlite3.connect(tmp_path / "data/source/shop.db") as database:
        database.execute("UPDATE tickets SET answer = 'New.' WHERE n = 3")
    assert fetch(tmp_path, config)["malformed"] == 0
    assert not (tmp_path / ".forgeline/data/spool").exists()
    seen = preview("rows", config.fetch.sources["rows"], tmp_path, 3)
    assert [row["id"] for row in seen.rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("uri", "query", "family", "sentence"),
    [
        ("sqlite:///data/source/shop.db", "SELEC 1", DataError, r'the database says: near "SELEC": syntax error\.$'),
        ("sqlite:///data/source/shop.db", "SELECT * FROM missing", DataError, r"says: no such table: missing\.$"),
        ("sqlite:///data/source/none.db", "SELECT 1", SourceError, r"none\.db does not exist"),
        ("sqlite:////etc/shop.db", "SELECT 1", DataError, "lies outside data/source/"),
        ("nonsense", "SELECT 1", SourceError, "is not the address of a database"),
        ("postgresql://me:${env:SHOP_SECRET}@127.0.0.1:1/shop", "SELECT 1", SourceError, "SHOP_SECRET is not set"),
        ("postgresql://me:hunter2@127.0.0.1:1/shop", "SELECT 1", SourceError, r"//me:\*\*\*@.*refused"),
        ("firebird://host/shop", "SELECT 1", SourceError, "is not the address of a database"),
    ],
)
def test_a_refused_query_is_one_sentence_in_the_databases_words(
    tmp_path: Path, sqlite: str, uri: str, query: str, family: type[Exception], sentence: str
) -> None:
    with pytest.raises(family, match=sentence) as fault:
        fetch(tmp_path, configured(uri=uri, query=query))
    assert "\n" not in str(fault.value) and "hunter2" not in str(fault.value)
    assert sqlite and not (tmp_path / "data/raw").exists()


# PostgreSQL


@pytest.fixture(scope="module")
def postgresql() -> Iterator[dict[str, str]]:
    with running() as server:
        yield {"SHOP_USER": "shop", "SHOP_PASSWORD": server.password, "SHOP_PORT": str(server.port)}


URI = "postgresql://${env:SHOP_USER}:${env:SHOP_PASSWORD}@127.0.0.1:${env:SHOP_PORT}/postgres"


@pytest.fixture
def shop(postgresql: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in postgresql.items():
        monkeypatch.setenv(name, value)
    return URI


def test_postgresql_rows_are_streamed_and_secrets_stay(tmp_path: Path, shop: str) -> None:
    query = """
        SELECT 'Is ' || n || ' 100% :even?' AS prompt, (n % 2 = 0)::text AS completion, n::numeric / 4 AS quarter,
               timestamptz '2024-05-01 10:00+02' AS created_at, jsonb_build_object('n', n) AS more, 'x'::bytea AS bytes,
               gen_random_uuid() IS NOT NULL AS known
        FROM generate_series(1, 3000) AS n WHERE 'a%' LIKE 'a%' ORDER BY n
    """
    report = fetch(tmp_path, configured(uri=shop, query=query))
    rows = raw_rows(tmp_path)
    assert report["rows"] == 3000 and report["malformed"] == 0
    assert rows[1]["messages"] == [
        {"role": "user", "content": "Is 2 100% :even?"},
        {"role": "assistant", "content": "true"},
    ]
    assert rows[1]["time"] == "2024-05-01T08:00:00+00:00"
    fields = rows[1]["origin"]["fields"]
    assert fields | {"quarter": 0.5} == {"quarter": 0.5, "more": {"n": 2}, "bytes": "x", "known": True}
    assert float(fields["quarter"]) == 0.5 and rows[1]["origin"]["source"] == URI
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"s3cret-word" not in written
    assert fetch(tmp_path, configured(uri=shop, query=query)) == report


def test_postgresql_errors_are_its_own_words(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r'the database says: relation "tickets" does not exist LINE 1'):
        fetch(tmp_path, configured(uri=shop, query="SELECT * FROM tickets"))
    halfway = "SELECT 'p' AS prompt, 'c' AS completion, 1 / (2500 - n) AS x FROM generate_series(1, 5000) AS n"
    with pytest.raises(DataError, match="the database says: division by zero"):
        fetch(tmp_path, configured(uri=shop, query=halfway))
    monkeypatch.setenv("SHOP_PASSWORD", "wrong-word")
    with pytest.raises(SourceError, match="password authentication failed") as fault:
        fetch(tmp_path, configured(uri=shop, query="SELECT 1"))
    assert "wrong-word" not in str(fault.value)
    assert not (tmp_path / "data/raw").exists() and not list(tmp_path.rglob("*.jsonl*"))


# S3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A bucket on a server that speaks S3."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("FORGELINE_CACHE", str(tmp_path / "cache")),
        ("BUCKET", "conversations"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="conversations")
    yield client
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_objects_of_a_bucket_are_a_source(tmp_path: Path, bucket: Any) -> None:
    for day in ("mon", "tue"):
        lines = "".join(json.dumps({"prompt": f"p {day} {n}", "completion": "c"}) + "\n" for n in range(50))
        bucket.put_object(Bucket="conversations", Key=f"{day}/rows.jsonl.gz", Body=gzip.compress(lines.encode()))
    report = fetch(tmp_path, configured(uri="s3://${env:BUCKET}/*/rows.jsonl.gz"))
    assert report["rows"] == 100 and report["sources"]["rows"]["format"] == ["jsonl (gzip)"]
    places = {row["origin"]["source"] for row in raw_rows(tmp_path)}
    assert places == {"s3://${env:BUCKET}/mon/rows.jsonl.gz", "s3://${env:BUCKET}/tue/rows.jsonl.gz"}
    with pytest.raises(SourceError, match=r"s3://\$\{env:BUCKET\}/\*\.csv names no object"):
        fetch(tmp_path, configured(uri="s3://${env:BUCKET}/*.csv"))
