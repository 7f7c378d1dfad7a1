"""History's connections: few, usable again after an error, and replaced after a restart of the server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from adbc_driver_manager import ProgrammingError

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.postgres import connections as module
from cache_pipeline.storage.postgres.arrow import ArrowCursor
from cache_pipeline.storage.postgres.connections import ConnectionPool
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.storage.sample_rows import SERIES

_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def server(postgres_database: str) -> Iterator[psycopg.Connection]:
    """An independent connection to the same database."""
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pool(postgres_database: str) -> Iterator[ConnectionPool]:
    with closing(ConnectionPool(postgres_database, max_connections=3)) as opened:
        yield opened


def count(server: psycopg.Connection, where: str = "") -> int:
    row = server.execute(f"SELECT count(*) {_OTHERS} {where}".encode()).fetchone()
    assert row is not None
    return row[0]


def fetch_value(pool: ConnectionPool, statement: str = "SELECT 7") -> object:
    with pool.transaction() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def terminate_all(server: psycopg.Connection) -> None:
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) {_OTHERS}".encode())


def test_many_history_calls_use_few_connections(history_url: str):
    with psycopg.connect(history_url, autocommit=True) as server:
        with open_history(history_url) as history, ThreadPoolExecutor(6) as threads:
            history.coverage(SERIES)
            before = server.execute(
                "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            for _ in threads.map(lambda _: history.coverage(SERIES), range(300)):
                pass
            assert count(server) <= 7
            assert count(server, "AND state LIKE 'idle in transaction%'") == 0
        after = server.execute("SELECT sessions FROM pg_stat_database WHERE datname = current_database()").fetchone()
        assert before is not None
        assert after is not None
        assert after[0] - before[0] <= 7


def test_exception_rolls_back_and_connection_stays_usable(pool: ConnectionPool, server: psycopg.Connection):
    def fail_halfway(then: Callable[[ArrowCursor], None]) -> None:
        with pool.transaction() as cursor:
            cursor.execute("CREATE TABLE half (done int)")
            then(cursor)

    def fails(_cursor: ArrowCursor) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail_halfway(fails)
    with pytest.raises(ProgrammingError):
        fail_halfway(lambda cursor: cursor.execute("SELECT nothing FROM nowhere"))
    assert fetch_value(pool, "SELECT to_regclass('half') IS NULL") is True
    assert count(server) == 2


def test_unread_rows_do_not_block_the_next_query(pool: ConnectionPool):
    with pool.transaction() as cursor:
        cursor.execute("SELECT g, repeat('x', 100) FROM generate_series(1, 200000) AS g", batch_bytes=65536)
        assert 0 < cursor.batches().read_next_batch().num_rows < 200000
    assert fetch_value(pool) == 7


def test_restarted_server_gets_a_new_connection(
    pool: ConnectionPool, server: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MAX_IDLE_SECONDS", 0.0)
    fetch_value(pool)
    terminate_all(server)
    assert fetch_value(pool) == 7


def test_lost_connection_is_reported_as_unavailable(pool: ConnectionPool, server: psycopg.Connection):
    def interrupted() -> None:
        with pool.transaction() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
            terminate_all(server)
            cursor.execute("SELECT 2")

    with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL"):
        interrupted()
    assert fetch_value(pool) == 7


def test_exhausted_pool_times_out(pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.05)
    with (
        pool.transaction(),
        pool.transaction(),
        pool.transaction(),
        pytest.raises(HistoryUnavailable, match="in use"),
        pool.transaction(),
    ):
        pass
    assert fetch_value(pool) == 7


@pytest.mark.parametrize(("state", "lacking"), [("53100", "disk space"), ("53200", "memory"), ("53400", "resources")])
def test_server_without_resources_is_reported_as_unavailable(pool: ConnectionPool, state: str, lacking: str):
    with pytest.raises(HistoryUnavailable, match=rf"lacks {lacking} \(SQLSTATE {state}\)"):
        fetch_value(pool, f"DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$")
    assert fetch_value(pool) == 7
