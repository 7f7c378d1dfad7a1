"""What the ledger promises by itself; that crashes end in resuming is tested with real processes in service/."""

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
    """A process whose leases end at once, as those of a dead one do in time."""
    with open_ledger(history_url, timedelta(0)) as opened:
        yield opened


def wanted(interval: Interval = DAY, series: Series = SERIES, age: timedelta = timedelta(0)) -> LedgerRequest:
    return LedgerRequest(series, interval, "interactive", NOW - age, NOW - HOUR)


def submitted(ledger: Ledger, query: LedgerRequest, handle: JobHandle = HANDLE) -> LedgerClaim:
    claim = ledger.claim(query)
    ledger.submitted(claim, handle)
    return replace(claim, handle=handle)


def states(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT state FROM cache_pipeline_state.upstream_query ORDER BY id").fetchall()
    return [row[0] for row in rows]


def test_while_one_owner_lives_no_other_may_ask_the_same(ledger: Ledger):
    submitted(ledger, wanted())
    with pytest.raises(QueryInFlight):
        ledger.claim(wanted())
    ledger.claim(wanted(hours(0, 12)))
    ledger.claim(wanted(series=replace(SERIES, tenant="other")))


def test_what_a_dead_process_left_is_resumed_by_its_handle_with_a_higher_fence(brief: Ledger, ledger: Ledger):
    before = submitted(brief, wanted(age=HOUR / 2))
    taken = ledger.claim(wanted())
    assert (taken.id, taken.handle, taken.asked_at) == (before.id, HANDLE, NOW - HOUR / 2)
    assert taken.fence > before.fence


def test_an_intent_without_a_handle_is_lost_with_its_owner_and_noted_anew(
    brief: Ledger, ledger: Ledger, history_url: str
):
    before = brief.claim(wanted())
    taken = ledger.claim(wanted())
    assert taken.id != before.id
    assert taken.handle is None
    assert states(history_url) == ["lost", "intent"]


def test_an_answer_that_would_be_too_old_is_superseded_and_its_job_named_to_be_cancelled(
    brief: Ledger, ledger: Ledger, history_url: str
):
    submitted(brief, wanted(age=2 * HOUR))
    taken = ledger.claim(wanted())
    assert (taken.handle, taken.given_up) == (None, HANDLE)
    assert states(history_url) == ["superseded", "intent"]


def test_who_lost_the_lease_can_change_nothing_any_more(brief: Ledger, ledger: Ledger, history_url: str):
    old = submitted(brief, wanted())
    new = ledger.claim(wanted())
    brief.end(old, LedgerState.failed, "too late")
    brief.release([old])
    brief.done(old)
    with pytest.raises(QueryInFlight):
        brief.claim(wanted())
    with pytest.raises(LeaseLost):
        brief.submitted(old, JobHandle("job-2", "client-1"))
    assert states(history_url) == ["submitted"]
    assert ledger.open_jobs(SERIES, DAY) == [OpenJob(DAY, new.asked_at, alive=True)]


def test_who_lost_the_lease_writes_nothing_over_its_successor(brief: Ledger, ledger: Ledger, history: History):
    old = submitted(brief, wanted())
    ledger.claim(wanted())
    with pytest.raises(LeaseLost):
        history.replace(replacement(DAY, claims=(old,)))
    assert not history.coverage(SERIES).complete


def test_rows_and_the_end_of_their_entries_are_one_transaction(ledger: Ledger, history: History, history_url: str):
    claims = tuple(submitted(ledger, wanted(each)) for each in (DAY, hours(0, 12), hours(12, 24)))
    beyond = submitted(ledger, wanted(hours(12, 36)))
    history.replace(replacement(DAY, claims=claims))
    assert states(history_url) == ["stored", "stored", "stored", "submitted"]
    with pytest.raises(LeaseLost):
        history.replace(replacement(DAY, claims=claims))
    assert [job.interval for job in ledger.open_jobs(SERIES, hours(0, 48))] == [beyond.interval]


def test_rows_that_are_kept_later_by_another_process_close_what_was_let_go_and_nothing_else(
    ledger: Ledger, history: History, history_url: str
):
    """Dagster's way: fetched in one step, checked, kept in another."""
    ledger.done(submitted(ledger, wanted(hours(0, 12))))
    submitted(ledger, wanted(hours(12, 24)))
    history.replace(replacement(DAY))
    assert states(history_url) == ["stored", "submitted"]


def test_an_ambiguous_submit_stays_to_be_seen_and_the_next_who_asks_may_submit(ledger: Ledger, history_url: str):
    ledger.ambiguous(ledger.claim(wanted()), "it timed out")
    assert states(history_url) == ["ambiguous"]
    assert ledger.claim(wanted()).handle is None
    assert states(history_url) == ["lost", "intent"]


def test_a_lease_that_is_renewed_does_not_end(history_url: str):
    with open_ledger(history_url, timedelta(seconds=1)) as ledger:
        claim = submitted(ledger, wanted())
        for _ in range(4):
            time.sleep(0.3)
            ledger.renew([claim])
        with pytest.raises(QueryInFlight):
            ledger.claim(wanted())


def test_entries_of_long_ago_are_forgotten_and_younger_ones_are_not(ledger: Ledger, history_url: str):
    for each in (hours(0, 1), hours(1, 2)):
        ledger.end(submitted(ledger, wanted(each)), LedgerState.failed)
    with psycopg.connect(history_url) as connection:
        connection.execute(
            "UPDATE cache_pipeline_state.upstream_query SET lease_until = lease_until - interval '31 days' WHERE id = 1"
        )
    with open_ledger(history_url) as another:
        another.claim(wanted(hours(2, 3)))
    assert states(history_url) == ["failed", "intent"]


def test_a_server_that_is_away_is_told_without_its_password():
    with open_ledger("postgresql://user:password-4711@127.0.0.1:9/nowhere?connect_timeout=1") as ledger:
        ledger._pool.timeout = 1
        with pytest.raises(HistoryUnavailable) as told:
            ledger.claim(wanted())
        assert "4711" not in str(told.value)


def test_a_database_that_was_not_migrated_says_what_to_run(postgres_database: str):
    with (
        open_ledger(postgres_database) as ledger,
        pytest.raises(HistoryUnavailable, match="cache-pipeline migrate"),
    ):
        ledger.claim(wanted())
