"""Real PostgreSQL and Valkey servers for the tests, started once per run unless the environment names others."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest
import redis

from cache_pipeline.embedded import EmbeddedServers, embedded_servers

# The time that an example takes depends more on the machine than on the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def session_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Both servers; CACHE_PIPELINE_TEST_POSTGRES_URL and CACHE_PIPELINE_TEST_REDIS_URL replace them."""
    folder: Path = tmp_path_factory.mktemp("servers")
    with embedded_servers(
        folder,
        postgres_url=os.environ.get("CACHE_PIPELINE_TEST_POSTGRES_URL") or None,
        redis_url=os.environ.get("CACHE_PIPELINE_TEST_REDIS_URL") or None,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(session_servers: EmbeddedServers) -> str:
    """A PostgreSQL for the whole run; a test that writes uses `postgres_database` instead."""
    return session_servers.postgres_url


@pytest.fixture(scope="session")
def redis_url(session_servers: EmbeddedServers) -> str:
    """A Redis for the whole run; a test that writes uses `redis_database` instead."""
    return session_servers.redis_url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database for this test only."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_database(redis_url: str) -> str:
    """The URL of a Redis database that is empty when the test starts; tests run one after another."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    return redis_url
