"""Fixtures for storage: a migrated PostgreSQL, a Redis and an S3 bucket."""

import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from redis.asyncio import Redis

from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline_tests.storage.sample_rows import KEPT_REPORT, REPORT, columns_of


@contextmanager
def database(postgres_url: str, template: str = "template1") -> Iterator[str]:
    """Create a copy of a database, yield its name, and drop it at the end."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        try:
            yield name
        finally:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def url_of(postgres_url: str, name: str) -> str:
    """Return the URL of another database of a server."""
    return urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def migrated(postgres_url: str) -> Iterator[str]:
    """The name of a database with the report's table, which tests copy."""
    with database(postgres_url) as name:
        migrate(url_of(postgres_url, name), [(report, columns_of(report)) for report in (REPORT, KEPT_REPORT)])
        yield name


@pytest.fixture
def history_url(postgres_url: str, migrated: str) -> Iterator[str]:
    """The URL of this test's own database, with the report's table."""
    with database(postgres_url, migrated) as name:
        yield url_of(postgres_url, name)


@pytest.fixture
def history(history_url: str) -> Iterator[PostgresHistory]:
    """History on that database."""
    with open_history(history_url) as opened:
        yield opened


@pytest.fixture
async def redis(redis_database: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis."""
    async with Redis.from_url(redis_database) as client:
        yield client


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket of an S3 server on this machine, whose address is in AWS_ENDPOINT."""
    # Imported here, because the import takes a second and only these tests need it.
    import boto3
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    putting, put_object = threading.Lock(), S3Response.put_object

    def put_one_at_a_time(response: S3Response) -> object:
        # The server checks If-Match first and writes later, so two writers of one version could both succeed. A real bucket
        # does both in one step.
        with putting:
            return put_object(response)

    monkeypatch.setattr(S3Response, "put_object", put_one_at_a_time)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        # The server keeps its buckets until the process ends.
        name = f"edge-{uuid.uuid4().hex}"
        client.create_bucket(Bucket=name)
        yield f"s3://{name}/prefix"
    finally:
        server.stop()
