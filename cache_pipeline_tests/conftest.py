"""Servers for the tests: real ones, started once for a whole run unless the environment names others."""

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

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

#: What holds instants against each other, or starts whole systems: beside other tests they would tell of the machine's load.
_ALONE = (
    "chaos/test_short_run.py",
    "deploy/test_watched.py",
    "end_to_end/",
    "gateway/test_brokers.py",
    "orchestration/test_celery.py",
    "orchestration/test_graphql_backfill.py",
    "security/test_secrets.py",
    "orchestration/test_interruption.py",
    "service/test_crashes.py",
    "upstream/test_against_the_simulator.py",
    "upstream/test_full_load.py",
    "upstream/test_quota.py",
    "upstream/test_quota_without_redis.py",
    "upstream/test_shared_tokens.py",
    "upstream/test_transport.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test` runs one after another, when all the rest has run side by side."""
    for item in items:
        if any(place in item.nodeid for place in _ALONE):
            item.add_marker("alone")


@pytest.fixture(scope="session")
def session_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Both servers, each from CACHE_PIPELINE_TEST_POSTGRES_URL or CACHE_PIPELINE_TEST_REDIS_URL where that is set."""
    folder: Path = tmp_path_factory.mktemp("servers")
    with embedded_servers(
        folder,
        postgres_url=os.environ.get("CACHE_PIPELINE_TEST_POSTGRES_URL") or None,
        redis_url=os.environ.get("CACHE_PIPELINE_TEST_REDIS_URL") or None,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(session_servers: EmbeddedServers) -> str:
    """A PostgreSQL for the whole run; a test that writes takes `postgres_database`."""
    return session_servers.postgres_url


@pytest.fixture(scope="session")
def redis_url(session_servers: EmbeddedServers) -> str:
    """A Redis for the whole run; a test that writes takes `redis_database`."""
    return session_servers.redis_url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database that is this test's alone."""
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
