import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
import pytest
from adbc_driver_postgresql import dbapi

from cache_pipeline.errors import DeclarationConflict
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, TruncationStats, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows, RowSource
from cache_pipeline.storage.coverage import Coverage, Fetched
from cache_pipeline.storage.postgres.fetch_times import NewerDataPresent
from cache_pipeline.storage.postgres.history import History, HistoryUnavailable, open_history
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
WHOLE = hours(0, 24)


def read(history: History, interval: Interval = WHOLE, series: Series = SERIES) -> pa.Table:
    return history.read(series, interval, columns_of(series.report))


def test_what_was_never_kept_is_not_covered_and_has_no_rows(history: History):
    assert history.coverage(SERIES) == Coverage()
    assert read(history).num_rows == 0
    assert read(history).schema == table(WHOLE).schema


def test_rows_come_back_as_they_were_kept_with_their_coverage(history: History):
    kept = replacement(hours(0, 6), hours(6, 8))
    history.replace(kept)
    assert read(history).equals(sort_rows(kept.rows.to_table()))
    assert history.coverage(SERIES) == Coverage(
        kept.final, kept.provisional, hours(0, 6).end, (Fetched(IntervalSet([hours(0, 8)]), NOW),)
    )


def test_an_interval_without_a_row_is_covered_all_the_same(history: History):
    history.replace(replacement(hours(0, 6), rows=table(WHOLE).slice(0, 0)))
    assert history.coverage(SERIES).complete == IntervalSet([hours(0, 6)])
    assert read(history).num_rows == 0


def test_replacing_a_part_leaves_the_rest_as_it_was(history: History):
    history.replace(replacement(WHOLE, offered=1))
    history.replace(replacement(hours(6, 8), offered=2))
    offered = [value for number in range(24) for value in [2 if 6 <= number < 8 else 1] * 2]
    assert read(history)["offered"].to_pylist() == offered
    assert history.coverage(SERIES).complete == IntervalSet([WHOLE])


def test_keeping_the_same_twice_changes_nothing(history: History):
    kept = replacement(hours(0, 6), hours(6, 8))
    history.replace(kept)
    before = read(history), history.coverage(SERIES)
    history.replace(kept)
    assert read(history).equals(before[0])
    assert history.coverage(SERIES) == before[1]


def test_rows_that_the_vendor_no_longer_has_go(history: History):
    history.replace(replacement(hours(0, 6)))
    history.replace(replacement(hours(0, 6), rows=table(hours(0, 6), queues=["q1"])))
    assert set(read(history)["queue_id"].to_pylist()) == {"q1"}


def test_provisional_becomes_final_and_never_overlaps_it(history: History):
    history.replace(replacement(hours(0, 6), hours(6, 12), offered=1))
    history.replace(replacement(hours(6, 9), hours(9, 12), offered=2, fetched_at=NOW + HOUR))
    assert history.coverage(SERIES) == Coverage(
        IntervalSet([hours(0, 9)]),
        IntervalSet([hours(9, 12)]),
        hours(0, 9).end,
        (Fetched(IntervalSet([hours(6, 12)]), NOW + HOUR),),
    )
    history.replace(replacement(hours(9, 12), offered=3, fetched_at=NOW + 2 * HOUR))
    assert history.coverage(SERIES) == Coverage(IntervalSet([hours(0, 12)]), IntervalSet(), hours(0, 12).end)


def test_what_stays_provisional_keeps_the_age_it_had(history: History):
    history.replace(replacement(None, hours(0, 6), fetched_at=NOW))
    history.replace(replacement(None, hours(6, 12), fetched_at=NOW + HOUR))
    assert history.coverage(SERIES).provisional_fetched_at == NOW
    history.replace(replacement(hours(0, 6), fetched_at=NOW + 2 * HOUR))
    assert history.coverage(SERIES).provisional_fetched_at == NOW + HOUR


def test_a_restatement_can_make_final_figures_provisional_again(history: History):
    history.replace(replacement(hours(0, 12)))
    history.replace(replacement(None, hours(3, 6)))
    held = history.coverage(SERIES)
    assert (held.complete, held.provisional) == (
        IntervalSet([hours(0, 3), hours(6, 12)]),
        IntervalSet([hours(3, 6)]),
    )


def test_final_figures_tell_when_they_were_fetched_part_by_part(history: History):
    history.replace(replacement(hours(0, 6), fetched_at=NOW))
    history.replace(replacement(hours(6, 12), fetched_at=NOW + HOUR))
    history.replace(replacement(hours(3, 4), fetched_at=NOW + 2 * HOUR))

    def told(interval: Interval) -> datetime | None:
        known = history.coverage(SERIES, interval).of(interval)
        return known.fetched_at if known else None

    assert told(hours(0, 12)) == NOW
    assert told(hours(6, 12)) == NOW + HOUR
    assert told(hours(3, 4)) == NOW + 2 * HOUR
    assert told(hours(3, 12)) == NOW


def test_older_figures_never_take_the_place_of_newer_ones(history: History):
    history.replace(replacement(hours(3, 6), offered=2, fetched_at=NOW))
    before = read(history), history.coverage(SERIES, WHOLE)
    with pytest.raises(NewerDataPresent) as refused:
        history.replace(replacement(hours(0, 12), offered=1, fetched_at=NOW - HOUR))
    assert refused.value.intervals == IntervalSet([hours(3, 6)])
    assert read(history).equals(before[0])
    assert history.coverage(SERIES, WHOLE) == before[1]


def test_a_watermark_never_goes_back(history: History):
    history.replace(replacement(hours(0, 12)))
    history.replace(replacement(hours(0, 3)))
    assert history.coverage(SERIES).watermark == hours(0, 12).end


def test_a_failure_in_the_middle_leaves_rows_and_coverage_as_before(history: History, history_url: str):
    """The rows are deleted first; then the load meets a row that the table refuses."""
    history.replace(replacement(hours(0, 6)))
    before = read(history), history.coverage(SERIES)
    with psycopg.connect(history_url) as connection:
        connection.execute("ALTER TABLE history.queue_hour ADD CHECK (offered < 9) NOT VALID")
    with pytest.raises(dbapi.Error):
        history.replace(replacement(hours(0, 12), offered=9))
    assert read(history).equals(before[0])
    assert history.coverage(SERIES) == before[1]


def test_a_stream_of_rows_that_breaks_off_leaves_everything_as_before(history: History):
    history.replace(replacement(hours(0, 6)))
    before = read(history), history.coverage(SERIES)
    with pytest.raises(OSError, match="the disk is gone"):
        history.replace(replace(replacement(hours(0, 12)), rows=Rows.from_source(before[0].schema, _BreakingOff())))
    assert read(history).equals(before[0])
    assert history.coverage(SERIES) == before[1]


class _BreakingOff(RowSource):
    num_rows = 48

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        yield from table(hours(0, 6), offered=9).to_batches()
        raise OSError("the disk is gone")


@pytest.mark.parametrize("kind", ["double precision", "integer", "text", "boolean"])
def test_whole_numbers_are_never_loaded_into_a_column_of_another_kind(history: History, history_url: str, kind: str):
    """The driver would copy their bits."""
    history.replace(replacement(hours(0, 6)))
    with psycopg.connect(history_url) as connection:
        connection.execute(f"ALTER TABLE history.queue_hour DROP offered, ADD offered {kind}")
    with pytest.raises(DeclarationConflict, match=r"column offered of history.queue_hour holds .* int64"):
        history.replace(replacement(hours(0, 12), offered=2**62 + 1))
    assert history.coverage(SERIES).complete == IntervalSet([hours(0, 6)])


def test_many_rows_come_back_as_a_stream_and_as_a_value_that_can_be_read_again(history: History):
    kept = table(hours(0, 24), queues=[f"q{number:05}" for number in range(2_000)])
    history.replace(replacement(WHOLE, rows=kept))
    with history.stream(SERIES, WHOLE, COLUMNS) as reader:
        assert reader.schema == kept.schema
        batches = list(reader)
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).equals(sort_rows(kept))
    copied = history.rows(SERIES, [hours(0, 12), hours(12, 24)], COLUMNS)
    assert copied.tallies == Rows.from_table(kept).tallies
    assert sum(batch.num_rows for batch in copied.batches()) == 48_000


def test_a_failure_at_the_coverage_takes_the_rows_back_too(history: History, history_url: str):
    history.replace(replacement(hours(0, 6)))
    before = read(history)
    with psycopg.connect(history_url) as connection:
        connection.execute("ALTER TABLE cache_pipeline_state.coverage ADD CHECK (report = 'no longer') NOT VALID")
    with pytest.raises(dbapi.Error):
        history.replace(replacement(hours(3, 12), offered=9))
    assert read(history).equals(before)


def test_two_meanings_of_one_report_do_not_mix(history: History):
    filtered = Series(REPORT.model_copy(update={"filters": declared(filters={"predicates": [
        {"dimension": "queueId", "values": ["q1"]}]}).filters}))  # fmt: skip
    other_tenant = replace(SERIES, tenant="other")
    history.replace(replacement(hours(0, 6), offered=1))
    history.replace(replacement(hours(0, 3), offered=2, series=filtered))
    history.replace(replacement(hours(0, 1), offered=3, series=other_tenant))
    for series, offered, last in ((SERIES, 1, 6), (filtered, 2, 3), (other_tenant, 3, 1)):
        assert set(read(history, series=series)["offered"].to_pylist()) == {offered}
        assert read(history, series=series).num_rows == 2 * last
        assert history.coverage(series).complete == IntervalSet([hours(0, last)])


HOSTILE = ["'; DROP TABLE history.queue_hour; --", '"quoted"', "back\\slash", "\\N", "tab\there\nand\r", "%s $1 {x} :a",
           "naïve 日本語 🎧", "", "\x01", "NULL", None, "x" * 400]  # fmt: skip


def test_whatever_a_dimension_is_called_comes_back_as_it_was(history: History):
    kept = sort_rows(table(hours(0, 1), queues=HOSTILE))
    history.replace(replacement(hours(0, 1), rows=kept))
    assert sorted(read(history)["queue_id"].to_pylist(), key=str) == sorted(HOSTILE, key=str)
    assert read(history).equals(kept)
    assert history.groups_by_bucket(SERIES, WHOLE) == {DAY: len(HOSTILE)}


def test_a_hostile_meaning_is_kept_as_text(history: History, history_url: str):
    said = [{"dimension": "queueId", "values": [value for value in HOSTILE if value and len(value) <= 512]}]
    hostile = Series(declared(time_zone="UTC", group_by=["queueId"], filters={"predicates": said}), "o'tenant")
    history.replace(replacement(hours(0, 1), series=hostile))
    assert read(history, series=hostile).num_rows == 2
    with psycopg.connect(history_url) as connection:
        [[meaning, tenant]] = connection.execute(
            "SELECT definition, tenant FROM cache_pipeline_state.coverage"
        ).fetchall()
    assert (meaning, tenant) == (hostile.canonical_form, "o'tenant")


def test_numbers_keep_their_last_bit(history: History):
    kept = table(hours(0, 1), offered=2**63 - 1)
    kept = kept.set_column(
        kept.schema.get_field_index("longest"), kept.schema.field("longest"), pa.array([0.1, 5e-324])
    )
    history.replace(replacement(hours(0, 1), rows=kept))
    assert read(history).equals(kept)


def test_writers_of_one_series_take_turns_and_one_of_them_is_last(history: History):
    def put(offered: int) -> None:
        history.replace(replacement(hours(0, 12), offered=offered))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(24)))
    offered = read(history)["offered"].to_pylist()
    assert len(offered) == 24
    assert len(set(offered)) == 1
    assert history.coverage(SERIES).complete == IntervalSet([hours(0, 12)])


def test_writers_of_neighbouring_hours_lose_nothing(history: History):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: history.replace(replacement(hours(n, n + 1), offered=n)), range(24)))
    assert history.coverage(SERIES).complete == IntervalSet([WHOLE])
    assert read(history)["offered"].to_pylist() == [number for number in range(24) for _ in range(2)]


def test_a_reader_sees_all_of_the_old_or_all_of_the_new(history: History):
    history.replace(replacement(WHOLE, offered=0))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [history.replace(replacement(WHOLE, offered=n)) for n in range(1, 15)])
        seen: list[set[int]] = []
        while not writing.done():
            rows = read(history)
            assert rows.num_rows == 48
            seen.append(set(rows["offered"].to_pylist()))
        writing.result()
    assert seen
    assert all(len(values) == 1 for values in seen)


def test_groups_are_counted_by_bucket(history: History):
    history.replace(replacement(hours(0, 3)))
    assert history.groups_by_bucket(SERIES, hours(1, 24)) == {DAY + HOUR: 2, DAY + 2 * HOUR: 2}


def test_every_judged_answer_is_noted(history: History, history_url: str):
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


def test_what_lengths_taught_is_known_to_the_next_run_and_a_limit_not_met_for_long_is_forgotten(history: History):
    whole = ChunkResult(
        hours(0, 6), 12.5, ExpectationSource.history, 1900, Verdict.complete, 3, 1.25, DAY + 6 * HOUR, 1900
    )
    cut = replace(whole, verdict=Verdict.truncated, got=1990, length=2000)
    assert history.lengths(SERIES, NOW) == TruncationStats()
    history.record_chunks(SERIES, [whole, cut], NOW)
    assert history.lengths(SERIES, NOW) == TruncationStats(1900, 2000)
    assert history.lengths(replace(SERIES, tenant="other"), NOW) == TruncationStats()
    history.record_chunks(SERIES, [replace(cut, length=3)], NOW)
    assert history.lengths(SERIES, NOW) == TruncationStats(1900, 2000), (
        "an answer of three rows was broken, and no limit met"
    )
    history.record_chunks(SERIES, [cut], NOW + timedelta(days=20))
    assert history.lengths(SERIES, NOW + timedelta(days=49)) == TruncationStats(1900, 2000)
    assert history.lengths(SERIES, NOW + timedelta(days=51)) == TruncationStats(1900, None)


def test_what_writers_learn_side_by_side_is_all_known(history: History):
    whole = ChunkResult(hours(0, 6), 12.5, ExpectationSource.history, 0, Verdict.complete, 3, 1.25, DAY + 6 * HOUR)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: history.record_chunks(SERIES, [replace(whole, got=n)], NOW), range(1, 25)))
    assert history.lengths(SERIES, NOW).longest_complete == 24


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
def test_a_server_out_of_reach_is_one_clear_error_without_the_password(url: str, named: str):
    with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL") as failed, open_history(url):
        pass
    assert named in str(failed.value)
    assert "hunter2" not in repr(failed.value) + "".join(traceback.format_exception(failed.value))


def test_a_server_that_goes_away_is_one_clear_error(history: History, history_url: str):
    name = history_url.rsplit("/", 1)[1]
    with psycopg.connect(history_url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    with pytest.raises(HistoryUnavailable, match="CACHE_PIPELINE_POSTGRES_URL"):
        history.coverage(SERIES)


def test_a_day_of_ten_thousand_groups_is_replaced_in_seconds(history: History):
    kept = table(hours(0, 5), queues=[f"q{number:05}" for number in range(10_000)])
    started = NOW.now(NOW.tzinfo)
    history.replace(replacement(hours(0, 5), rows=kept))
    history.replace(replacement(hours(0, 5), rows=kept))
    assert NOW.now(NOW.tzinfo) - started < timedelta(seconds=20)
    assert read(history).num_rows == 50_000


def test_a_database_without_the_tables_says_to_migrate(postgres_database: str):
    with open_history(postgres_database) as history, pytest.raises(HistoryUnavailable, match="cache-pipeline migrate"):
        history.coverage(SERIES)
