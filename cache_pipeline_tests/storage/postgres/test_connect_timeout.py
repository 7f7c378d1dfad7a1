"""A server that accepts a connection and is silent delays no caller without end, whichever driver connects."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from adbc_driver_manager import Error
from psycopg_pool import PoolTimeout

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres import connect_timeout
from cache_pipeline.storage.postgres.arrow import ArrowConnection
from cache_pipeline.storage.postgres.async_pool import connect as lend
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.connect_timeout import with_connect_timeout
from cache_pipeline.storage.postgres.sync_connection import connect


@pytest.fixture
def silent_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # The shortest time that libpq takes.
    monkeypatch.setattr(connect_timeout, "CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://user:password@127.0.0.1:{server.getsockname()[1]}/database"


@pytest.mark.parametrize("open_connection", [ArrowConnection.connect, connect])
def test_silent_server_is_given_up(silent_url: str, open_connection: Callable[[str], Any]):
    began = time.monotonic()
    with pytest.raises((Error, HistoryUnavailable)):
        open_connection(silent_url)
    assert time.monotonic() - began < 10


async def test_silent_server_ends_no_pool(silent_url: str):
    began = time.monotonic()
    async with connection_pool(silent_url, 1, timeout_seconds=0.5) as pool:
        with pytest.raises((HistoryUnavailable, PoolTimeout)):
            async with lend(pool):
                pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://a/b", "postgresql://a/b?connect_timeout=10"),
        ("postgresql://a,b/c?target_session_attrs=read-write", "postgresql://a,b/c?target_session_attrs=read-write&"),
        ("host=a dbname=b", "host=a dbname=b connect_timeout=10"),
        ("postgresql://a/b?connect_timeout=3", "postgresql://a/b?connect_timeout=3"),
    ],
)
def test_bound_is_added_unless_there_is_one(given: str, expected: str):
    assert with_connect_timeout(given).startswith(expected)
    assert with_connect_timeout(given).count("connect_timeout=") == 1
