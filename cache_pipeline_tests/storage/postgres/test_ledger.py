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
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.postgres.ledger import (
    JobHandle,
    LeaseLost,
    Ledger,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    OpenJob,
    QueryInFlight,
    open_ledger,
)
from cache_pipeline_tests.storage.sample_rows import HOUR, NOW, SERIES, hours, replacement

HANDLE = JobHandle("job-1", "client-1")
DAY = hours(0, 24)


@pytest.fixture
def ledger(history_url: str) -> Iterator[Ledger]:
    with open_ledger(history_url) as opened:
        yield opened


@pytest.fixture
def brief(history_url: str) -> Iterator[Ledger]:
    """A ledger whose leases lapse at once, as those of a dead process do after a while."""
    with open_ledger(history_url, timedelta(0)) as opened:
        yield opened


def request(interval: Interval = DAY, series: Series = SERIES, age: timedelta = timedelta(0)) -> LedgerRequest:
    return LedgerRequest(series, interval, "interactive", NOW - age, NOW - HOUR)


def submit(ledger: Ledger, query: LedgerRequest, handle: JobHandle = HANDLE) -> LedgerClaim:
    claim = ledger.claim(query)
    ledger.mark_submitted(claim, handle)
    return replace(claim, handle=handle)


def states(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT state FROM cache_pipeline_state.upstream_query ORDER BY id").fetchall()
    return [row[0] for row in rows]


def test_live_owner_excludes_other_claims(ledger: Ledger):
    submit(ledger, request())
    with pytest.raises(QueryInFlight):
        ledger.claim(request())
    ledger.claim(request(hours(0, 12)))
    ledger.claim(request(series=replace(SERIES, tenant="other")))


def test_dead_owners_job_is_resumed_with_higher_fence(brief: Ledger, ledger: Ledger):
    before = submit(brief, request(age=HOUR / 2))
    taken = ledger.claim(request())
    assert (taken.id, taken.handle, taken.requested_at) == (before.id, HANDLE, NOW - HOUR / 2)
    assert taken.fence > before.fence


def test_intent_without_handle_is_lost_with_its_owner(brief: Ledger, ledger: Ledger, history_url: str):
    before = brief.claim(request())
    taken = ledger.claim(request())
    assert taken.id != before.id
    assert taken.handle is None
    assert states(history_url) == ["lost", "intent"]


def test_stale_job_is_superseded_and_returned_for_cancelling(brief: Ledger, ledger: Ledger, history_url: str):
    submit(brief, request(age=2 * HOUR))
    taken = ledger.claim(request())
    assert (taken.handle, taken.superseded_job) == (None, HANDLE)
    assert states(history_url) == ["superseded", "intent"]


def test_lost_lease_allows_no_change(brief: Ledger, ledger: Ledger, history_url: str):
    old = submit(brief, request())
    new = ledger.claim(request())
    brief.end(old, LedgerState.failed, "too late")
    brief.release([old])
    brief.mark_ready(old)
    with pytest.raises(QueryInFlight):
        brief.claim(request())
    with pytest.raises(LeaseLost):
        brief.mark_submitted(old, JobHandle("job-2", "client-1"))
    assert states(history_url) == ["submitted"]
    assert ledger.open_jobs(SERIES, DAY) == [OpenJob(DAY, new.requested_at, is_alive=True)]


def test_lost_lease_allows_no_rows(brief: Ledger, ledger: Ledger, history: History):
    old = submit(brief, request())
    ledger.claim(request())
    with pytest.raises(LeaseLost):
        history.replace(replacement(DAY, claims=(old,)))
    assert not history.coverage(SERIES).final


def test_rows_and_ledger_entries_close_in_one_transaction(ledger: Ledger, history: History, history_url: str):
    claims = tuple(submit(ledger, request(each)) for each in (DAY, hours(0, 12), hours(12, 24)))
    beyond = submit(ledger, request(hours(12, 36)))
    history.replace(replacement(DAY, claims=claims))
    assert states(history_url) == ["stored", "stored", "stored", "submitted"]
    with pytest.raises(LeaseLost):
        history.replace(replacement(DAY, claims=claims))
    assert [job.interval for job in ledger.open_jobs(SERIES, hours(0, 48))] == [beyond.interval]


def test_storing_rows_closes_only_released_entries(ledger: Ledger, history: History, history_url: str):
    """As Dagster does it: rows are fetched in one step, and checked and stored in another."""
    ledger.mark_ready(submit(ledger, request(hours(0, 12))))
    submit(ledger, request(hours(12, 24)))
    history.replace(replacement(DAY))
    assert states(history_url) == ["stored", "submitted"]


def test_ambiguous_entry_stays_until_the_next_claim(ledger: Ledger, history_url: str):
    ledger.mark_ambiguous(ledger.claim(request()), "it timed out")
    assert states(history_url) == ["ambiguous"]
    assert ledger.claim(request()).handle is None
    assert states(history_url) == ["lost", "intent"]


def test_renewed_lease_does_not_lapse(history_url: str):
    with open_ledger(history_url, timedelta(seconds=1)) as ledger:
        claim = submit(ledger, request())
        for _ in range(4):
            time.sleep(0.3)
            ledger.renew([claim])
        with pytest.raises(QueryInFlight):
            ledger.claim(request())


def test_only_old_entries_are_deleted(ledger: Ledger, history_url: str):
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
