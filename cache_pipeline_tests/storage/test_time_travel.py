"""Reading history as it was known at an earlier instant, in PostgreSQL and in memory alike."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.history import History, NewerDataPresent
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.storage.memory import MemoryHistory, MemoryServer
from cache_pipeline_tests.storage.sample_rows import HOUR, KEPT, NOW, SERIES, columns_of, hours, replacement

DAY = hours(0, 24)
OFFERED, ANSWERED = KEPT.with_metrics(["offered"]), KEPT.with_metrics(["answered"])
Queues = Mapping[str | None, int]


@pytest.fixture(params=["postgres", "memory"])
def history(request: pytest.FixtureRequest) -> Iterator[History]:
    if request.param == "memory":
        yield MemoryHistory(MemoryServer())
        return
    with open_history(request.getfixturevalue("history_url")) as opened:
        yield opened


def store(
    history: History,
    interval: Interval,
    queues: Queues,
    fetch: int = 0,
    series: Series = KEPT,
    *,
    is_final: bool = True,
) -> datetime:
    """Store one row for each queue and hour, fetched so many hours after the first fetch; return an instant after that."""
    schema = to_arrow_schema(columns_of(series.report))
    rows = [
        {
            "interval_start": interval.start + hour * HOUR,
            "interval_end": interval.start + (hour + 1) * HOUR,
            "queue_id": queue,
            **dict.fromkeys(map(to_snake_case, series.report.metrics), figure),
            "longest": None,
        }
        for hour in range(int(interval.length / HOUR))
        for queue, figure in queues.items()
    ]
    parts = (interval, None) if is_final else (None, interval)
    history.replace(replacement(*parts, series=series, rows=rows_to_table(rows, schema), fetched_at=NOW + fetch * HOUR))
    return datetime.now(UTC)


def offered(
    history: History, at: datetime | None, series: Series = KEPT, interval: Interval = DAY
) -> dict[str | None, int]:
    """Return the sum of each queue's figures in an interval, as known at an instant."""
    totals: dict[str | None, int] = {}
    for row in history.read(series, interval, columns_of(series.report), at).to_pylist():
        totals[row["queue_id"]] = totals.get(row["queue_id"], 0) + row[to_snake_case(series.report.metrics[0])]
    return totals


def final(history: History, at: datetime, series: Series = KEPT) -> IntervalSet:
    return history.known_as_of(series, DAY, at).final


def test_restated_figures_are_read_as_they_were(history: History):
    monday = store(history, hours(0, 2), {"q1": 5, None: 1})
    tuesday = store(history, hours(0, 2), {"q1": 7, None: 1}, 1)
    assert offered(history, None) == offered(history, tuesday) == {"q1": 14, None: 2}
    assert offered(history, monday) == {"q1": 10, None: 2}
    assert final(history, monday) == final(history, tuesday) == IntervalSet([hours(0, 2)])


def test_deleted_rows_come_back_and_later_rows_are_gone(history: History):
    monday = store(history, hours(0, 1), {"q1": 5, "q2": 3})
    tuesday = store(history, hours(0, 1), {"q2": 3, "q3": 4, None: 9}, 1)
    wednesday = store(history, hours(0, 1), {"q1": 6}, 2)
    assert offered(history, monday) == {"q1": 5, "q2": 3}
    assert offered(history, tuesday) == {"q2": 3, "q3": 4, None: 9}
    assert offered(history, wednesday) == {"q1": 6}


def test_what_was_not_final_is_not_known(history: History):
    first = store(history, hours(0, 2), {"q1": 5})
    second = store(history, hours(2, 4), {"q1": 1}, 1, is_final=False)
    third = store(history, hours(2, 4), {"q1": 2}, 2)
    assert final(history, first) == final(history, second) == IntervalSet([hours(0, 2)])
    assert final(history, third) == IntervalSet([hours(0, 4)])


def test_doubted_figures_are_read_as_they_were_before(history: History):
    final_at = store(history, hours(0, 2), {"q1": 5})
    doubted_at = store(history, hours(0, 1), {"q1": 5}, 1, is_final=False)
    store(history, hours(0, 1), {"q1": 6, "q2": 1}, 2, is_final=False)
    again_at = store(history, hours(0, 1), {"q1": 7, "q2": 2}, 3)
    assert offered(history, final_at) == {"q1": 10}
    assert final(history, doubted_at) == IntervalSet([hours(1, 2)])
    assert offered(history, again_at) == {"q1": 12, "q2": 2}


def test_reopened_buckets_are_not_final_any_more(history: History):
    stored_at = store(history, hours(0, 2), {"q1": 5})
    history.reopen(KEPT, [(hours(0, 1), "q1")], "longest")
    reopened_at = datetime.now(UTC)
    store(history, hours(0, 1), {"q1": 6}, 1)
    assert final(history, stored_at) == IntervalSet([hours(0, 2)])
    assert final(history, reopened_at) == IntervalSet([hours(1, 2)])
    assert offered(history, stored_at) == {"q1": 10}


def test_a_metric_added_later_was_not_known(history: History):
    before = store(history, hours(0, 1), {"q1": 5}, series=OFFERED)
    after = store(history, hours(0, 1), {"q1": 3, "q2": 8}, 1, series=ANSWERED)
    assert (final(history, before), final(history, before, OFFERED)) == (IntervalSet(), IntervalSet([hours(0, 1)]))
    assert final(history, after) == IntervalSet([hours(0, 1)])
    assert offered(history, before, OFFERED) == {"q1": 5}


def test_time_travel_begins_with_the_first_change_that_is_kept(history: History):
    assert history.known_as_of(KEPT, DAY, NOW).since is None
    before = datetime.now(UTC)
    after = store(history, hours(0, 1), {"q1": 5})
    known = history.known_as_of(KEPT, DAY, after)
    assert known.since is not None
    assert before < known.since < after <= known.now


def test_a_process_with_an_older_declaration_ends_it(history: History):
    store(history, hours(0, 1), {"q1": 5})
    plain = Series(KEPT.report.model_copy(update={"time_travel": None}))
    store(history, hours(0, 1), {"q1": 6}, 1, series=plain)
    assert history.known_as_of(KEPT, DAY, NOW).since is None
    restarted_at = store(history, hours(0, 1), {"q1": 7}, 2)
    since = history.known_as_of(KEPT, DAY, restarted_at).since
    assert since is not None
    assert since <= restarted_at


def test_reports_without_time_travel_keep_nothing(history: History):
    history.replace(replacement(hours(0, 2)))
    assert history.known_as_of(SERIES, DAY, datetime.now(UTC)).since is None


# --- Any sequence of changes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """What history held of each series at an instant."""

    at: datetime
    final: Mapping[str, IntervalSet]
    rows: Mapping[str, pa.Table]


def take_snapshot(history: History) -> Snapshot:
    known = {series.query_id: history.coverage(series).final for series in (KEPT, OFFERED, ANSWERED)}
    rows = {
        series.query_id: history.read(series, DAY, columns_of(series.report)) for series in (KEPT, OFFERED, ANSWERED)
    }
    return Snapshot(datetime.now(UTC), known, rows)


def change_something(history: History, choose: random.Random, step: int) -> None:
    start = choose.randrange(5)
    interval = hours(start, choose.randrange(start + 1, 7))
    if choose.random() < 0.1:
        history.reopen(KEPT, [(hours(start, start + 1), choose.choice(["q1", "q2"]))], "longest")
        return
    queues = {queue: choose.choice([1, 1, 2]) for queue in ("q1", "q2", "q3", None) if choose.random() < 0.7}
    series = choose.choice([KEPT, KEPT, OFFERED, ANSWERED])
    try:
        store(history, interval, queues, step, series, is_final=choose.random() < 0.7)
    except NewerDataPresent:
        pytest.fail("each fetch is later than the one before")


@pytest.mark.parametrize("seed", range(8))
def test_every_instant_reads_as_it_was(history: History, seed: int):
    choose, snapshots = random.Random(seed), []
    for step in range(14):
        change_something(history, choose, step)
        snapshots.append(take_snapshot(history))
    kept = [each for each in snapshots if each.at >= (history.known_as_of(KEPT, DAY, NOW).since or each.at)]
    assert len(kept) >= 13
    for snapshot in kept:
        for series in (KEPT, OFFERED, ANSWERED):
            known = history.known_as_of(series, DAY, snapshot.at).final
            assert known == snapshot.final[series.query_id]
            for part in known:
                read = history.read(series, part, columns_of(series.report), snapshot.at)
                assert read.equals(within(snapshot.rows[series.query_id], part))


def within(table: pa.Table, interval: Interval) -> pa.Table:
    rows = [row for row in table.to_pylist() if interval.start <= row["interval_start"] < interval.end]
    return pa.Table.from_pylist(rows, table.schema)


def test_expired_versions_are_deleted(history_url: str):
    brief = Series(KEPT.report.model_copy(update={"time_travel": timedelta(microseconds=1)}))
    with open_history(history_url) as history:
        for fetch in range(5):
            store(history, hours(0, 1), {"q1": fetch}, fetch, series=brief)
    with psycopg.connect(history_url) as connection:
        (versions,) = connection.execute("SELECT count(*) FROM history_versions.kept").fetchone() or (None,)
    assert versions <= 1
