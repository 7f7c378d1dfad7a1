"""Rows are read from a replica that is not behind; otherwise from the primary, with the same result."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from cache_pipeline.check_result import CheckStatus
from cache_pipeline.doctor.databases import check_replica
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate
from cache_pipeline.storage.postgres.replica import ReadReplica
from cache_pipeline_tests.storage.postgres.postgres_servers import ReplicatedPostgres, Server, replicated_postgres
from cache_pipeline_tests.storage.sample_rows import REPORT, columns_of, hours, replacement

pytestmark = pytest.mark.system

COLUMNS = columns_of(REPORT)


@pytest.fixture(scope="module")
def replicated() -> Iterator[ReplicatedPostgres]:
    with replicated_postgres() as servers:
        with psycopg.connect(servers.primary.url, autocommit=True) as connection:
            # A commit does not wait for the replica, so that it may be late.
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")
        migrate(servers.primary.url, [(REPORT, COLUMNS)])
        yield servers


@pytest.fixture
def history(replicated: ReplicatedPostgres) -> Iterator[PostgresHistory]:
    with open_history(replicated.primary.url, replicated.standby.url) as opened:
        yield opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each read of rows came from."""
    found: list[str] = []
    caught_up = ReadReplica._caught_up

    def recorded(self: ReadReplica, stack: ExitStack, read_position: Callable[[], str]) -> Any:
        cursor = caught_up(self, stack, read_position)
        found.append("primary" if cursor is None else "replica")
        return cursor

    monkeypatch.setattr(ReadReplica, "_caught_up", recorded)
    return found


def replay(server: Server, *, pause: bool) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_wal_replay_{'pause' if pause else 'resume'}()")


def test_rows_are_as_new_as_their_coverage(history: PostgresHistory, reads: list[str], monkeypatch: pytest.MonkeyPatch):
    """Each read follows a write at once, so that the replica has had no time."""
    monkeypatch.setattr("cache_pipeline.storage.postgres.replica._MAX_WAIT_SECONDS", 10.0)
    for offered in range(1, 6):
        history.replace(replacement(hours(0, 6), offered=offered))
        assert history.coverage(Series(REPORT)).final
        assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {offered}
    assert reads == 5 * ["replica"]


def test_late_replica_is_not_read(history: PostgresHistory, replicated: ReplicatedPostgres, reads: list[str]):
    replay(replicated.standby, pause=True)
    try:
        history.replace(replacement(hours(0, 6), offered=70))
        assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {70}
    finally:
        replay(replicated.standby, pause=False)
    assert reads == ["primary"]
    deadline = time.monotonic() + 20
    while reads[-1] == "primary":
        assert time.monotonic() < deadline, "the replica is not used again"
        assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {70}


def test_absent_replica_is_not_needed(replicated: ReplicatedPostgres, caplog: pytest.LogCaptureFixture):
    url = "postgresql://example:planted@127.0.0.1:1/postgres"
    with open_history(replicated.primary.url, url) as history:
        history.replace(replacement(hours(0, 6), offered=80))
        for _ in range(2):
            assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {80}
    (warning,) = [each.getMessage() for each in caplog.records if "replica" in each.getMessage()]
    assert "CACHE_PIPELINE_POSTGRES_READ_URL" in warning
    assert "planted" not in warning


async def test_doctor_names_the_state_of_the_replica(replicated: ReplicatedPostgres):
    (found,) = await check_replica(replicated.standby.url)
    assert found.status is CheckStatus.ok
    (found,) = await check_replica(replicated.primary.url)
    assert found.status is CheckStatus.warning
    assert "CACHE_PIPELINE_POSTGRES_READ_URL" in found.remedy


def test_replica_that_stops_is_replaced_by_the_primary(history: PostgresHistory, replicated: ReplicatedPostgres):
    history.replace(replacement(hours(0, 6), offered=90))
    assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {90}
    replicated.standby.kill()
    try:
        for _ in range(2):
            assert set(history.read(Series(REPORT), hours(0, 6), COLUMNS)["offered"].to_pylist()) == {90}
    finally:
        replicated.standby.start()


def test_replica_that_dies_during_a_read_is_replaced_by_the_primary(
    history: PostgresHistory, replicated: ReplicatedPostgres, monkeypatch: pytest.MonkeyPatch
):
    history.replace(replacement(hours(0, 6), offered=95))
    series, caught_up = Series(REPORT), ReadReplica._caught_up
    killed: list[str] = []

    def caught_up_and_killed(self: ReadReplica, stack: ExitStack, read_position: Callable[[], str]) -> Any:
        cursor = caught_up(self, stack, read_position)
        if cursor is not None:
            replicated.standby.kill()
            killed.append("replica")
        return cursor

    # How long the replica takes to catch up is not tested here.
    monkeypatch.setattr("cache_pipeline.storage.postgres.replica._MAX_WAIT_SECONDS", 10.0)
    monkeypatch.setattr(ReadReplica, "_caught_up", caught_up_and_killed)
    reads: list[Callable[[], Any]] = [
        lambda: history.read(series, hours(0, 6), COLUMNS),
        lambda: history.read(series, hours(0, 6), COLUMNS, max_rows=1),
        lambda: history.rows(series, [hours(0, 3), hours(3, 6)], COLUMNS).to_table(),
    ]
    for number, read in enumerate(reads, start=1):
        with open_history(replicated.primary.url, replicated.standby.url) as fresh:
            history = fresh
            try:
                assert set(read()["offered"].to_pylist()) == {95}
            finally:
                replicated.standby.start()
        assert len(killed) == number
