"""Readers of every place where a secret could have been written: tables, Redis, files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow.parquet as pq
import redis
from psycopg.sql import SQL, Identifier

_TABLES = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'
"""


def in_tables(postgres_url: str) -> Iterator[tuple[str, bytes]]:
    """Yield every row of every table (Dagster's too) as text, with the table's name."""
    with psycopg.connect(postgres_url) as connection:
        for schema, table in connection.execute(_TABLES).fetchall():
            rows = connection.execute(SQL("SELECT t::text FROM {} AS t").format(Identifier(schema, table)))
            for (row,) in rows:
                yield f"table {schema}.{table}", row.encode()


def in_redis(redis_url: str) -> Iterator[tuple[str, bytes]]:
    """Yield every key with its value, for all types of values."""
    with redis.Redis.from_url(redis_url) as client:
        readers: Mapping[bytes, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"stream": lambda key: client.xrange(key),
        }
        for key in client.scan_iter():
            yield f"Redis key {key!r}", key + repr(readers[client.type(key)](key)).encode()


def in_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file's name and bytes, and the decompressed contents of Parquet files."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield str(path), str(path).encode() + path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield str(path), repr((table.schema.metadata, table.to_pylist())).encode()


def encodings(secret: str) -> set[bytes]:
    """Return the encodings in which a secret may have been written: plain, URL-encoded, hexadecimal."""
    return {secret.encode(), quote(secret, safe="").encode(), secret.encode().hex().encode()}


def find_leaks(secrets: Mapping[str, str], places: Iterator[tuple[str, bytes]]) -> list[str]:
    """Return which secret was found where, each place once, without the secret itself."""
    searched = {name: encodings(secret) for name, secret in secrets.items()}
    return sorted(
        {
            f"{name} in {where}"
            for where, content in places
            for name, encoded in searched.items()
            if any(encoding in content for encoding in encoded)
        }
    )
