"""Tests of history: rows and coverage change together, in one transaction."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta

import psycopg
import pyarrow as pa
import pytest
from adbc_driver_manager import Error

from cache_pipeline.errors import DeclarationConflict, HistoryUnavailable
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows, RowSource
from cache_pipeline.storage.postgres.coverage_queries import PostgresCoverage, open_coverage
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import (
    DAY,
    HOUR,
    NOW,
    REPORT,
    SERIES,
    columns_of,
    hours,
    replacement,
    table,
)

COLUMNS = columns_of(REPORT)
WHOLE_DAY = hours(0, 24)


def read(history: PostgresHistory, interval: Interval = WHOLE_DAY, series: Series = SERIES) -> pa.Table:
    return history.read(series, interval, columns_of(series.report))


def test_failed_load_rolls_back_rows_and_coverage(history: PostgresHistory, history_url: str):
    """The old rows are deleted first; then the table refuses a new row."""
    history.replace(replacement(hours(0, 6)))
    before = read(history), history.coverage(SERIES)
    with psycopg.connect(history_url) as connection:
        connection.execute("ALTER TABLE history.queue_hour ADD CHECK (offered < 9) NOT VALID")
    with pytest.raises(Error):
        history.replace(replacement(hours(0, 12), offered=9))
    assert read(history).equals(before[0])
    assert history.coverage(SERIES) == before[1]


def test_broken_row_stream_rolls_everything_back(history: PostgresHistory):
    history.replace(replacement(hours(0, 6)))
    before = read(history), history.coverage(SERIES)
    with pytest.raises(OSError, match="the disk is gone"):
        history.replace(replace(replacement(hours(0, 12)), rows=Rows.from_source(before[0].schema, _BrokenSource())))
    assert read(history).equals(before[0])
    assert history.coverage(SERIES) == before[1]


class _BrokenSource(RowSource):
    num_rows = 48

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        yield from table(hours(0, 6), offered=9).to_batches()
        raise OSError("the disk is gone")


@pytest.mark.parametrize("kind", ["double precision", "integer", "text", "boolean"])
def test_integers_are_never_loaded_into_another_type(history: PostgresHistory, history_url: str, kind: str):
    """The driver would copy their bytes unchanged."""
    history.replace(replacement(hours(0, 6)))
    with psycopg.connect(history_url) as connection:
        connection.execute(f"ALTER TABLE history.queue_hour DROP offered CASCADE, ADD offered {kind}")
    with pytest.raises(DeclarationConflict, match=r"column offered of history.queue_hour has type .* int64"):
        history.replace(replacement(hours(0, 12), offered=2**62 + 1))
    assert history.coverage(SERIES).final == IntervalSet([hours(0, 6)])


def test_many_rows_can_be_read_in_part_and_copied(history: PostgresHistory):
    stored = table(hours(0, 24), queues=[f"q{number:05}" for number in range(2_000)])
    history.replace(replacement(WHOLE_DAY, rows=stored))
    assert history.read(SERIES, WHOLE_DAY, COLUMNS).equals(sort_rows(stored))
    first = history.read(SERIES, WHOLE_DAY, COLUMNS, max_rows=10)
    assert 10 < first.num_rows < 48_000, "few rows are read at a time"
    assert first.equals(sort_rows(stored).slice(0, first.num_rows))
    copied = history.rows(SERIES, [hours(0, 12), hours(12, 24)], COLUMNS)
    assert copied.tallies == Rows.from_table(stored).tallies
    assert sum(batch.num_rows for batch in copied.batches()) == 48_000


def test_failed_coverage_update_rolls_rows_back(history: PostgresHistory, history_url: str):
    history.replace(replacement(hours(0, 6)))
    before = read(history)
    with psycopg.connect(history_url) as connection:
        connection.execute("ALTER TABLE cache_pipeline_state.coverage ADD CHECK (report = 'no longer') NOT VALID")
    with pytest.raises(Error):
        history.replace(replacement(hours(3, 12), offered=9))
    assert read(history).equals(before)


def test_series_of_one_report_do_not_mix(history: PostgresHistory):
    filtered = Series(REPORT.model_copy(update={"filters": declared(filters={"predicates": [
        {"dimension": "queueId", "values": ["q1"]}]}).filters}))  # fmt: skip
    other_tenant = replace(SERIES, tenant="other")
    history.replace(replacement(hours(0, 6), offered=1))
    history.replace(replacement(hours(0, 3), offered=2, series=filtered))
    history.replace(replacement(hours(0, 1), offered=3, series=other_tenant))
    for series, offered, last in ((SERIES, 1, 6), (filtered, 2, 3), (other_tenant, 3, 1)):
        assert set(read(history, series=series)["offered"].to_pylist()) == {offered}
        assert read(history, series=series).num_rows == 2 * last
        assert history.coverage(series).final == IntervalSet([hours(0, last)])


HOSTILE = ["'; DROP TABLE history.queue_hour; --", '"quoted"', "back\\slash", "\\N", "tab\there\nand\r", "%s $1 {x} :a",
           "naïve 日本語 🎧", "", "\x01", "NULL", None, "x" * 400]  # fmt: skip


def test_hostile_dimension_values_are_read_back_unchanged(history: PostgresHistory):
    stored = sort_rows(table(hours(0, 1), queues=HOSTILE))
    history.replace(replacement(hours(0, 1), rows=stored))
    assert sorted(read(history)["queue_id"].to_pylist(), key=str) == sorted(HOSTILE, key=str)
    assert read(history).equals(stored)
    assert history.groups_by_bucket(SERIES, WHOLE_DAY) == {DAY: len(HOSTILE)}


def test_hostile_series_definition_is_stored_as_text(history: PostgresHistory, history_url: str):
    predicates = [{"dimension": "queueId", "values": [value for value in HOSTILE if value and len(value) <= 512]}]
    hostile = Series(declared(time_zone="UTC", group_by=["queueId"], filters={"predicates": predicates}), "o'tenant")
    history.replace(replacement(hours(0, 1), series=hostile))
    assert read(history, series=hostile).num_rows == 2
    with psycopg.connect(history_url) as connection:
        [[definition, tenant]] = connection.execute(
            "SELECT definition, tenant FROM cache_pipeline_state.coverage"
        ).fetchall()
    assert (definition, tenant) == (hostile.stored_form, "o'tenant")


def test_numbers_keep_their_last_bit(history: PostgresHistory):
    stored = table(hours(0, 1), offered=2**63 - 1)
    stored = stored.set_column(
        stored.schema.get_field_index("longest"), stored.schema.field("longest"), pa.array([0.1, 5e-324])
    )
    history.replace(replacement(hours(0, 1), rows=stored))
    assert read(history).equals(stored)


def test_writers_of_one_series_take_turns(history: PostgresHistory):
    def put(offered: int) -> None:
        history.replace(replacement(hours(0, 12), offered=offered))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(24)))
    offered = read(history)["offered"].to_pylist()
    assert len(offered) == 24
    assert len(set(offered)) == 1
    assert history.coverage(SERIES).final == IntervalSet([hours(0, 12)])


def test_writers_of_adjacent_hours_lose_nothing(history: PostgresHistory):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: history.replace(replacement(hours(n, n + 1), offered=n)), range(24)))
    assert history.coverage(SERIES).final == IntervalSet([WHOLE_DAY])
    assert read(history)["offered"].to_pylist() == [number for number in range(24) for _ in range(2)]


def test_reader_sees_only_old_or_only_new_rows(history: PostgresHistory):
    history.replace(replacement(WHOLE_DAY, offered=0))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [history.replace(replacement(WHOLE_DAY, offered=n)) for n in range(1, 15)])
        seen: list[set[int]] = []
        while not writing.done():
            rows = read(history)
            assert rows.num_rows == 48
            seen.append(set(rows["offered"].to_pylist()))
        writing.result()
    assert seen
    assert all(len(values) == 1 for values in seen)


def test_groups_are_counted_by_bucket(history: PostgresHistory):
    history.replace(replacement(hours(0, 3)))
    assert history.groups_by_bucket(SERIES, hours(1, 24)) == {DAY + HOUR: 2, DAY + 2 * HOUR: 2}


def test_every_chunk_result_is_recorded(history: PostgresHistory, history_url: str):
    chunk = ChunkResult(
        hours(0, 6), 12.5, ExpectationSource.history, 12, Verdict.complete, 3, 1.25, DAY + 6 * HOUR, 14, 2
    )
    history.record_chunks(SERIES, [], NOW)
    history.record_chunks(
        SERIES, [chunk, replace(chunk, verdict=Verdict.truncated, source=ExpectationSource.declaration)], NOW
    )
    with psycopg.connect(history_url) as connection:
        rows = connection.execute(
            "SELECT series, lower(interval), upper(interval), expected_rows, expectation_source, final_rows, verdict,"
            " requests, duration_seconds, watermark, fetched_at, total_rows, parts FROM cache_pipeline_state.chunk_result ORDER BY id"
        ).fetchall()
    first = (SERIES.id, DAY, DAY + 6 * HOUR, 12.5, "history", 12, "complete", 3, 1.25, DAY + 6 * HOUR, NOW, 14, 2)
    assert rows == [first, (*first[:4], "declaration", 12, "truncated", *first[7:])]


def test_truncation_stats_persist_until_a_limit_expires(history: PostgresHistory):
    complete = ChunkResult(
        hours(0, 6), 12.5, ExpectationSource.history, 1900, Verdict.complete, 3, 1.25, DAY + 6 * HOUR, 1900
    )
    truncated = replace(complete, verdict=Verdict.truncated, got=1990, length=2000)
    assert history.truncation_stats(SERIES, NOW) == TruncationStats()
    history.record_chunks(SERIES, [complete, truncated], NOW)
    assert history.truncation_stats(SERIES, NOW) == TruncationStats(1900, 2000)
    assert history.truncation_stats(replace(SERIES, tenant="other"), NOW) == TruncationStats()
    history.record_chunks(SERIES, [replace(truncated, length=3)], NOW)
    assert history.truncation_stats(SERIES, NOW) == TruncationStats(1900, 2000), (
        "an answer of three rows was broken, not limited"
    )
    history.record_chunks(SERIES, [truncated], NOW + timedelta(days=20))
    assert history.truncation_stats(SERIES, NOW + timedelta(days=49)) == TruncationStats(1900, 2000)
    assert history.truncation_stats(SERIES, NOW + timedelta(days=51)) == TruncationStats(1900, None)


def test_concurrent_writers_update_truncation_stats(history: PostgresHistory):
    complete = ChunkResult(hours(0, 6), 12.5, ExpectationSource.history, 0, Verdict.complete, 3, 1.25, DAY + 6 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: history.record_chunks(SERIES, [replace(complete, got=n)], NOW), range(1, 25)))
    assert history.truncation_stats(SERIES, NOW).longest_complete == 24


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", "127.0.0.1"),
        ("postgresql://me:hunter2@no-such-host.invalid/db", "no-such-host.invalid"),
        ("postgresql://me:hunter2@[::1/db", "URL"),
        ("mysql://me:hunter2@127.0.0.1/db", "URL"),
        ("host=127.0.0.1 port=1 user=me password=hunter2", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("opened", [open_history, open_coverage])
def test_unreachable_server_error_hides_the_password(
    url: str, named: str, opened: Callable[[str], AbstractContextManager[PostgresHistory | PostgresCoverage]]
):
    def read() -> None:
        with opened(url) as store:
            assert isinstance(store, PostgresHistory)
            store.coverage(SERIES)

    with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL") as failed:
        read()
    assert named in str(failed.value)
    assert "hunter2" not in repr(failed.value) + "".join(traceback.format_exception(failed.value))


def test_lost_server_is_reported_as_unavailable(history: PostgresHistory, history_url: str):
    name = history_url.rsplit("/", 1)[1]
    with psycopg.connect(history_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL"):
        history.coverage(SERIES)


def test_ten_thousand_groups_are_replaced_in_seconds(history: PostgresHistory):
    stored = table(hours(0, 5), queues=[f"q{number:05}" for number in range(10_000)])
    started = NOW.now(NOW.tzinfo)
    history.replace(replacement(hours(0, 5), rows=stored))
    history.replace(replacement(hours(0, 5), rows=stored))
    assert NOW.now(NOW.tzinfo) - started < timedelta(seconds=20)
    assert read(history).num_rows == 50_000


def test_unmigrated_database_error_names_the_command(postgres_database: str):
    with open_history(postgres_database) as history, pytest.raises(HistoryUnavailable, match="cache-pipeline migrate"):
        history.coverage(SERIES)
