"""What every implementation of history and ledger does, in PostgreSQL and in memory alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import rows_to_table, sort_rows, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.ports.history import History, NewerDataPresent
from cache_pipeline.storage.ports.ledger import (
    JobHandle,
    LeaseLost,
    Ledger,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    OpenJob,
    QueryInFlight,
)
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline.storage.postgres.ledger import open_ledger
from cache_pipeline_tests.storage.memory import MemoryHistory, MemoryLedger, MemoryServer
from cache_pipeline_tests.storage.sample_rows import HOUR, NOW, SERIES, columns_of, hours, replacement, table

HANDLE = JobHandle("job-1", "client-1")
WHOLE_DAY = DAY = hours(0, 24)


@dataclass
class Stores:
    """One implementation.

    Attributes:
        history: The history.
        ledger: The ledger.
        brief: A ledger whose leases lapse at once, as those of a dead process do after a while.
        states: Returns the state of every entry of the ledger, the oldest first.
    """

    history: History
    ledger: Ledger
    brief: Ledger
    states: Callable[[], list[str]]


@pytest.fixture(params=["postgres", "memory"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    if request.param == "memory":
        server = MemoryServer()
        yield Stores(MemoryHistory(server), MemoryLedger(server), MemoryLedger(server, timedelta(0)), server.states)
        return
    url: str = request.getfixturevalue("history_url")

    def states() -> list[str]:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT state FROM cache_pipeline_state.upstream_query ORDER BY id").fetchall()
        return [row[0] for row in rows]

    with open_history(url) as history, open_ledger(url) as ledger, open_ledger(url, timedelta(0)) as brief:
        yield Stores(history, ledger, brief, states)


def read(stores: Stores, interval: Interval = WHOLE_DAY, series: Series = SERIES) -> pa.Table:
    return stores.history.read(series, interval, columns_of(series.report))


def query(interval: Interval = DAY, series: Series = SERIES, age: timedelta = timedelta(0)) -> LedgerRequest:
    return LedgerRequest(series, interval, "interactive", NOW - age, NOW - HOUR)


def submit(ledger: Ledger, request: LedgerRequest, handle: JobHandle = HANDLE) -> LedgerClaim:
    claim = ledger.claim(request)
    ledger.mark_submitted(claim, handle)
    return replace(claim, handle=handle)


def test_unstored_series_has_no_coverage_and_no_rows(stores: Stores):
    assert stores.history.coverage(SERIES) == Coverage()
    assert read(stores).num_rows == 0
    assert read(stores).schema == table(WHOLE_DAY).schema


def test_stored_rows_are_read_back_with_their_coverage(stores: Stores):
    stored = replacement(hours(0, 6), hours(6, 8))
    stores.history.replace(stored)
    assert read(stores).equals(sort_rows(stored.rows.to_table()))
    assert stores.history.coverage(SERIES) == Coverage(
        stored.final, stored.provisional, hours(0, 6).end, (FetchTime(IntervalSet([hours(0, 8)]), NOW),)
    )


def test_interval_without_rows_is_covered(stores: Stores):
    stores.history.replace(replacement(hours(0, 6), rows=table(WHOLE_DAY).slice(0, 0)))
    assert stores.history.coverage(SERIES).final == IntervalSet([hours(0, 6)])
    assert read(stores).num_rows == 0


def test_replacing_a_part_keeps_the_rest(stores: Stores):
    stores.history.replace(replacement(WHOLE_DAY, offered=1))
    stores.history.replace(replacement(hours(6, 8), offered=2))
    offered = [value for number in range(24) for value in [2 if 6 <= number < 8 else 1] * 2]
    assert read(stores)["offered"].to_pylist() == offered
    assert stores.history.coverage(SERIES).final == IntervalSet([WHOLE_DAY])


def test_storing_the_same_rows_twice_changes_nothing(stores: Stores):
    stored = replacement(hours(0, 6), hours(6, 8))
    stores.history.replace(stored)
    before = read(stores), stores.history.coverage(SERIES)
    stores.history.replace(stored)
    assert read(stores).equals(before[0])
    assert stores.history.coverage(SERIES) == before[1]


def test_rows_that_the_vendor_dropped_are_deleted(stores: Stores):
    stores.history.replace(replacement(hours(0, 6)))
    stores.history.replace(replacement(hours(0, 6), rows=table(hours(0, 6), queues=["q1"])))
    assert set(read(stores)["queue_id"].to_pylist()) == {"q1"}


def test_provisional_becomes_final_without_overlap(stores: Stores):
    stores.history.replace(replacement(hours(0, 6), hours(6, 12), offered=1))
    stores.history.replace(replacement(hours(6, 9), hours(9, 12), offered=2, fetched_at=NOW + HOUR))
    assert stores.history.coverage(SERIES) == Coverage(
        IntervalSet([hours(0, 9)]),
        IntervalSet([hours(9, 12)]),
        hours(0, 9).end,
        (FetchTime(IntervalSet([hours(6, 12)]), NOW + HOUR),),
    )
    stores.history.replace(replacement(hours(9, 12), offered=3, fetched_at=NOW + 2 * HOUR))
    assert stores.history.coverage(SERIES) == Coverage(IntervalSet([hours(0, 12)]), IntervalSet(), hours(0, 12).end)


def test_remaining_provisional_part_keeps_its_age(stores: Stores):
    stores.history.replace(replacement(None, hours(0, 6), fetched_at=NOW))
    stores.history.replace(replacement(None, hours(6, 12), fetched_at=NOW + HOUR))
    assert stores.history.coverage(SERIES).provisional_fetched_at == NOW
    stores.history.replace(replacement(hours(0, 6), fetched_at=NOW + 2 * HOUR))
    assert stores.history.coverage(SERIES).provisional_fetched_at == NOW + HOUR


def test_restatement_can_make_final_rows_provisional(stores: Stores):
    stores.history.replace(replacement(hours(0, 12)))
    stores.history.replace(replacement(None, hours(3, 6)))
    coverage = stores.history.coverage(SERIES)
    assert (coverage.final, coverage.provisional) == (
        IntervalSet([hours(0, 3), hours(6, 12)]),
        IntervalSet([hours(3, 6)]),
    )


def test_fetch_times_are_kept_part_by_part(stores: Stores):
    stores.history.replace(replacement(hours(0, 6), fetched_at=NOW))
    stores.history.replace(replacement(hours(6, 12), fetched_at=NOW + HOUR))
    stores.history.replace(replacement(hours(3, 4), fetched_at=NOW + 2 * HOUR))

    def fetched_at(interval: Interval) -> datetime | None:
        known = stores.history.coverage(SERIES, interval).completeness_of(interval)
        return known.fetched_at if known else None

    assert fetched_at(hours(0, 12)) == NOW
    assert fetched_at(hours(6, 12)) == NOW + HOUR
    assert fetched_at(hours(3, 4)) == NOW + 2 * HOUR
    assert fetched_at(hours(3, 12)) == NOW


def test_older_rows_never_replace_newer_ones(stores: Stores):
    stores.history.replace(replacement(hours(3, 6), offered=2, fetched_at=NOW))
    before = read(stores), stores.history.coverage(SERIES, WHOLE_DAY)
    with pytest.raises(NewerDataPresent) as refused:
        stores.history.replace(replacement(hours(0, 12), offered=1, fetched_at=NOW - HOUR))
    assert refused.value.intervals == IntervalSet([hours(3, 6)])
    assert read(stores).equals(before[0])
    assert stores.history.coverage(SERIES, WHOLE_DAY) == before[1]


def test_doubted_figures_become_final_only_by_a_later_look(stores: Stores):
    stores.history.replace(replacement(None, hours(0, 12), fetched_at=NOW))
    with pytest.raises(NewerDataPresent) as refused:
        stores.history.replace(replacement(hours(6, 18), offered=2, fetched_at=NOW))
    assert refused.value.intervals == IntervalSet([hours(6, 12)])
    stores.history.replace(replacement(hours(12, 18), hours(0, 12), offered=2, fetched_at=NOW))
    assert stores.history.coverage(SERIES).final == IntervalSet([hours(12, 18)])
    stores.history.replace(replacement(hours(6, 18), offered=3, fetched_at=NOW + HOUR))
    assert stores.history.coverage(SERIES).final == IntervalSet([hours(6, 18)])


def test_watermark_never_goes_back(stores: Stores):
    stores.history.replace(replacement(hours(0, 12)))
    stores.history.replace(replacement(hours(0, 3)))
    assert stores.history.coverage(SERIES).watermark == hours(0, 12).end


def test_live_owner_excludes_other_claims(stores: Stores):
    submit(stores.ledger, query())
    with pytest.raises(QueryInFlight):
        stores.ledger.claim(query())
    stores.ledger.claim(query(hours(0, 12)))
    stores.ledger.claim(query(series=replace(SERIES, tenant="other")))


def test_dead_owners_job_is_resumed_with_higher_fence(stores: Stores):
    before = submit(stores.brief, query(age=HOUR / 2))
    taken = stores.ledger.claim(query())
    assert (taken.id, taken.handle, taken.requested_at) == (before.id, HANDLE, NOW - HOUR / 2)
    assert taken.fence > before.fence


def test_intent_without_handle_is_lost_with_its_owner(stores: Stores):
    before = stores.brief.claim(query())
    taken = stores.ledger.claim(query())
    assert taken.id != before.id
    assert taken.handle is None
    assert stores.states() == ["lost", "intent"]


def test_stale_job_is_superseded_and_returned_for_cancelling(stores: Stores):
    submit(stores.brief, query(age=2 * HOUR))
    taken = stores.ledger.claim(query())
    assert (taken.handle, taken.superseded_job) == (None, HANDLE)
    assert stores.states() == ["superseded", "intent"]


def test_lost_lease_allows_no_change(stores: Stores):
    old = submit(stores.brief, query())
    new = stores.ledger.claim(query())
    stores.brief.end(old, LedgerState.failed, "too late")
    stores.brief.release([old])
    stores.brief.mark_ready(old)
    with pytest.raises(QueryInFlight):
        stores.brief.claim(query())
    with pytest.raises(LeaseLost):
        stores.brief.mark_submitted(old, JobHandle("job-2", "client-1"))
    assert stores.states() == ["submitted"]
    assert stores.ledger.open_jobs(SERIES, DAY) == [OpenJob(DAY, new.requested_at, is_alive=True)]


def test_lost_lease_allows_no_rows(stores: Stores):
    old = submit(stores.brief, query())
    stores.ledger.claim(query())
    with pytest.raises(LeaseLost):
        stores.history.replace(replacement(DAY, claims=(old,)))
    assert not stores.history.coverage(SERIES).final


def test_rows_and_ledger_entries_close_in_one_transaction(stores: Stores):
    claims = tuple(submit(stores.ledger, query(each)) for each in (DAY, hours(0, 12), hours(12, 24)))
    beyond = submit(stores.ledger, query(hours(12, 36)))
    stores.history.replace(replacement(DAY, claims=claims))
    assert stores.states() == ["stored", "stored", "stored", "submitted"]
    with pytest.raises(LeaseLost):
        stores.history.replace(replacement(DAY, claims=claims))
    assert [job.interval for job in stores.ledger.open_jobs(SERIES, hours(0, 48))] == [beyond.interval]


def test_storing_rows_closes_only_released_entries(stores: Stores):
    """As Dagster does it: rows are fetched in one step, and checked and stored in another."""
    stores.ledger.mark_ready(submit(stores.ledger, query(hours(0, 12))))
    submit(stores.ledger, query(hours(12, 24)))
    stores.history.replace(replacement(DAY))
    assert stores.states() == ["stored", "submitted"]


def test_long_entry_closes_once_all_its_parts_are_stored(stores: Stores):
    stores.ledger.mark_ready(submit(stores.ledger, query(hours(0, 24))))
    stores.history.replace(replacement(hours(0, 8)))
    stores.history.replace(replacement(hours(16, 24)))
    assert stores.states() == ["ready"]
    stores.history.replace(replacement(hours(8, 16)))
    assert stores.states() == ["stored"]


def test_long_entry_stays_open_beside_older_rows(stores: Stores):
    stores.history.replace(replacement(hours(0, 12), fetched_at=NOW - HOUR))
    stores.ledger.mark_ready(submit(stores.ledger, query(hours(0, 24))))
    stores.history.replace(replacement(hours(12, 24)))
    assert stores.states() == ["ready"]


def test_ambiguous_entry_stays_until_the_next_claim(stores: Stores):
    stores.ledger.mark_ambiguous(stores.ledger.claim(query()), "it timed out")
    assert stores.states() == ["ambiguous"]
    assert stores.ledger.claim(query()).handle is None
    assert stores.states() == ["lost", "intent"]


# --- Metrics of one series that are stored at different times ------------------------------------------------------------------

ANSWERED, OFFERED = (SERIES.with_metrics([name]) for name in ("answered", "offered"))
BOTH = SERIES.with_metrics(["answered", "offered"])


def figures(series: Series, interval: Interval, queues: Mapping[str | None, tuple[int, ...]]) -> pa.Table:
    """Return one row for each queue and hour of an interval, with a figure for each metric of the series."""
    schema = to_arrow_schema(columns_of(series.report)[:-1])
    rows = [
        {
            "interval_start": interval.start + hour * HOUR,
            "interval_end": interval.start + (hour + 1) * HOUR,
            "queue_id": queue,
            **dict(zip(map(to_snake_case, series.report.metrics), values, strict=True)),
        }
        for hour in range(int(interval.length / HOUR))
        for queue, values in queues.items()
    ]
    return rows_to_table(rows, schema)


def put(
    stores: Stores,
    series: Series,
    interval: Interval,
    queues: Mapping[str | None, tuple[int, ...]],
    at: datetime = NOW,
    **changes: object,
) -> None:
    rows = figures(series, interval, queues)
    stores.history.replace(replacement(interval, series=series, rows=rows, fetched_at=at, **changes))


def stored_figures(stores: Stores, series: Series = BOTH) -> dict[str | None, tuple[int, ...]]:
    table = stores.history.read(series, hours(0, 1), columns_of(series.report)[:-1])
    names = [to_snake_case(name) for name in series.report.metrics]
    return {row["queue_id"]: tuple(row[name] for name in names) for row in table.to_pylist()}


def test_metrics_added_later_join_the_stored_rows(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,), "q2": (7,), None: (9,)})
    assert stores.history.coverage(BOTH).final == IntervalSet()
    put(stores, ANSWERED, DAY, {"q2": (3,), "q3": (2,), None: (4,)}, NOW + HOUR)
    assert stored_figures(stores) == {"q1": (0, 5), "q2": (3, 7), "q3": (2, 0), None: (4, 9)}
    assert stored_figures(stores, ANSWERED) == {"q2": (3,), "q3": (2,), None: (4,)}
    assert stores.history.coverage(BOTH).final == IntervalSet([DAY])
    assert not stores.history.coverage(BOTH).provisional


def test_each_metric_keeps_its_own_coverage(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,)})
    put(stores, ANSWERED, hours(0, 12), {"q1": (3,)}, NOW + HOUR)
    coverage = stores.history.coverage(BOTH, DAY)
    assert coverage.final == IntervalSet([hours(0, 12)])
    assert coverage.of_metrics(["offered"]).final == IntervalSet([DAY])
    assert coverage.of_metrics(["answered"]).final == IntervalSet([hours(0, 12)])
    assert {each.at: each.intervals for each in coverage.fetch_times} == {NOW: IntervalSet([DAY])}
    assert stores.history.coverage(OFFERED).by_metrics == {}


def test_fewer_metrics_leave_the_others_in_place(stores: Stores):
    put(stores, BOTH, DAY, {"q1": (3, 5), "q2": (1, 1)})
    put(stores, OFFERED, hours(0, 2), {"q1": (6,), "q4": (8,)}, NOW + HOUR)
    assert stored_figures(stores) == {"q1": (3, 6), "q2": (1, 0), "q4": (0, 8)}
    coverage = stores.history.coverage(BOTH, DAY)
    assert coverage.final == IntervalSet([DAY])
    assert {each.at: each.intervals for each in stores.history.coverage(ANSWERED, DAY).fetch_times} == {
        NOW: IntervalSet([DAY])
    }
    assert {each.at for each in stores.history.coverage(OFFERED, DAY).fetch_times} == {NOW, NOW + HOUR}


def test_group_without_any_figure_is_dropped(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,), "q2": (7,)})
    put(stores, ANSWERED, DAY, {"q3": (3,)})
    put(stores, ANSWERED, DAY, {"q1": (3,)}, NOW + HOUR)
    assert stored_figures(stores) == {"q1": (3, 5), "q2": (0, 7)}
    assert stores.history.count_rows(SERIES) == 48


def test_storing_all_metrics_again_joins_their_coverage(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,)})
    put(stores, ANSWERED, DAY, {"q1": (3,)})
    put(stores, BOTH, DAY, {"q1": (4, 6)}, NOW + HOUR)
    coverage = stores.history.coverage(BOTH, DAY)
    assert coverage.final == IntervalSet([DAY])
    assert coverage.fetch_times == (FetchTime(IntervalSet([DAY]), NOW + HOUR),)
    assert coverage.by_metrics == {}
    assert stored_figures(stores) == {"q1": (4, 6)}


def test_older_figures_of_one_metric_are_refused(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,)}, NOW)
    put(stores, ANSWERED, DAY, {"q1": (3,)}, NOW + HOUR)
    with pytest.raises(NewerDataPresent):
        put(stores, BOTH, DAY, {"q1": (4, 6)}, NOW + HOUR / 2)
    put(stores, OFFERED, DAY, {"q1": (6,)}, NOW + HOUR / 2)
    assert stored_figures(stores) == {"q1": (3, 6)}


def test_provisional_figures_of_one_metric_make_the_rest_provisional(stores: Stores):
    put(stores, OFFERED, DAY, {"q1": (5,)})
    stores.history.replace(
        replacement(None, DAY, series=ANSWERED, rows=figures(ANSWERED, DAY, {"q1": (3,)}), fetched_at=NOW)
    )
    coverage = stores.history.coverage(BOTH)
    assert (coverage.final, coverage.provisional) == (IntervalSet(), IntervalSet([DAY]))


def test_query_of_fewer_metrics_is_another_ledger_entry(stores: Stores):
    submit(stores.ledger, query(series=BOTH))
    submit(stores.ledger, query(series=OFFERED), JobHandle("job-2", "client-1"))
    assert [job.interval for job in stores.ledger.open_jobs(OFFERED, DAY)] == [DAY]
    put(stores, OFFERED, DAY, {"q1": (5,)})
    assert len(stores.ledger.open_jobs(BOTH, DAY)) == 1


def test_groups_with_some_metrics_are_counted(stores: Stores):
    put(stores, OFFERED, hours(0, 1), {"q1": (5,), "q2": (7,)})
    put(stores, ANSWERED, hours(0, 1), {"q1": (3,)})
    assert stores.history.groups_by_bucket(BOTH, DAY) == {DAY.start: 2}
    assert stores.history.groups_by_bucket(ANSWERED, DAY, ["answered"]) == {DAY.start: 1}
