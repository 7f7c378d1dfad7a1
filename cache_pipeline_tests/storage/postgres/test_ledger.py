"""The ledger by itself; resuming after a crash is tested with real processes in fetch/."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.ledger import JobHandle, LedgerClaim, LedgerRequest, LedgerState, QueryInFlight
from cache_pipeline.storage.postgres.ledger import PostgresLedger, open_ledger
from cache_pipeline_tests.storage.sample_rows import HOUR, NOW, SERIES, hours

HANDLE = JobHandle("job-1", "client-1")
DAY = hours(0, 24)


@pytest.fixture
def ledger(history_url: str) -> Iterator[PostgresLedger]:
    with open_ledger(history_url) as opened:
        yield opened


@pytest.fixture
def brief(history_url: str) -> Iterator[PostgresLedger]:
    """A ledger whose leases lapse at once, as those of a dead process do after a while."""
    with open_ledger(history_url, timedelta(0)) as opened:
        yield opened


def request(interval: Interval = DAY, series: Series = SERIES, age: timedelta = timedelta(0)) -> LedgerRequest:
    return LedgerRequest(series, interval, "interactive", NOW - age, NOW - HOUR)


def submit(ledger: PostgresLedger, query: LedgerRequest, handle: JobHandle = HANDLE) -> LedgerClaim:
    claim = ledger.claim(query)
    ledger.mark_submitted(claim, handle)
    return replace(claim, handle=handle)


def states(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT state FROM cache_pipeline_state.upstream_query ORDER BY id").fetchall()
    return [row[0] for row in rows]


def test_renewed_lease_does_not_lapse(history_url: str):
    with open_ledger(history_url, timedelta(seconds=1)) as ledger:
        claim = submit(ledger, request())
        for _ in range(4):
            time.sleep(0.3)
            ledger.renew([claim])
        with pytest.raises(QueryInFlight):
            ledger.claim(request())


def test_only_old_entries_are_deleted(ledger: PostgresLedger, history_url: str):
    for each in (hours(0, 1), hours(1, 2)):
        ledger.end(submit(ledger, request(each)), LedgerState.failed)
    with psycopg.connect(history_url) as connection:
        connection.execute(
            "UPDATE cache_pipeline_state.upstream_query SET lease_until = lease_until - interval '31 days' WHERE id = 1"
        )
    with open_ledger(history_url) as another:
        another.claim(request(hours(2, 3)))
    assert states(history_url) == ["failed", "intent"]


def test_unreachable_server_error_hides_the_password():
    with open_ledger("postgresql://user:password-4711@127.0.0.1:9/nowhere?connect_timeout=1") as ledger:
        ledger._pool.timeout = 1
        with pytest.raises(HistoryUnavailable) as raised:
            ledger.claim(request())
        assert "4711" not in str(raised.value)


def test_unmigrated_database_error_names_the_command(postgres_database: str):
    with (
        open_ledger(postgres_database) as ledger,
        pytest.raises(HistoryUnavailable, match="cache-pipeline migrate"),
    ):
        ledger.claim(request())
