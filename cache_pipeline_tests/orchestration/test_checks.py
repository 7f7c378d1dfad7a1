"""Tests of the blocking checks and the metadata of one staged partition."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.metadata import chunk_table, describe_chunk, partition_metadata
from cache_pipeline.orchestration.staged_checks import check_completeness, check_schema, check_watermark
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline_tests.orchestration.workbench import declaration

REPORT = Report.model_validate(declaration(time_zone="UTC"))
DAY = Interval.parse("2024-06-10T00:00:00Z/2024-06-11T00:00:00Z")
FETCHED_AT = datetime(2024, 6, 12, tzinfo=UTC)
SCHEMA = to_arrow_schema(report_columns(REPORT))


def _rows(hours: int = 24, groups: int = 3) -> pa.Table:
    starts = [DAY.start + timedelta(hours=hour) for hour in range(hours)]
    rows = [
        {
            "interval_start": start,
            "interval_end": start + timedelta(hours=1),
            "queue_id": f"queue {group}",
            "n_offered": 1,
        }
        for start in starts
        for group in range(groups)
    ]
    return rows_to_table(rows, SCHEMA)


def _chunk(
    got: int = 72,
    verdict: Verdict = Verdict.complete,
    interval: Interval = DAY,
    watermark: datetime = FETCHED_AT,
    calls: int = 1,
) -> ChunkResult:
    return ChunkResult(interval, 72.0, ExpectationSource.declaration, got, verdict, calls, 1.25, watermark)


def _partition(
    rows: pa.Table | None = None, *chunks: ChunkResult, watermark: datetime = FETCHED_AT
) -> FetchedPartition:
    return FetchedPartition(
        DAY,
        Rows.from_table(_rows() if rows is None else rows),
        watermark,
        FETCHED_AT,
        chunks or (_chunk(),),
        key="2024-06-10",
    )


def test_complete_partition_passes_all_checks() -> None:
    for check in (check_completeness, check_schema, check_watermark):
        assert check(_partition(), REPORT).problem == ""
    assert check_completeness(_partition(), REPORT).metadata == {
        "rows": 72,
        "truncated chunks": 0,
        "provisional": False,
    }
    assert check_watermark(_partition(), REPORT).metadata == {"watermark": "2024-06-12T00:00:00Z"}


def test_rows_lost_before_staging_fail_completeness() -> None:
    found = check_completeness(_partition(_rows(hours=23)), REPORT)
    assert found.problem.startswith(f"1 of 1 chunks have fewer rows staged than the vendor returned, {DAY} first")


def test_truncated_answer_is_not_compared_with_its_parts() -> None:
    half = Interval(DAY.start, DAY.start + timedelta(hours=12))
    other = Interval(half.end, DAY.end)
    chunks = (_chunk(got=100, verdict=Verdict.truncated), _chunk(36, interval=half), _chunk(36, interval=other))
    found = check_completeness(_partition(None, *chunks), REPORT)
    assert found.problem == ""
    assert found.metadata["truncated chunks"] == 1


def test_chunk_longer_than_the_partition_is_not_compared() -> None:
    week = Interval(DAY.start, DAY.start + timedelta(days=7))
    assert check_completeness(_partition(None, _chunk(got=500, interval=week)), REPORT).problem == ""


def test_provisional_rows_do_not_replace_lost_final_rows() -> None:
    noon = DAY.start + timedelta(hours=12)
    final_rows_lost = _rows().slice(3)
    partition = _partition(final_rows_lost, _chunk(got=36, watermark=noon), watermark=noon)
    found = check_completeness(partition, REPORT)
    assert found.problem
    assert found.metadata["provisional"] is True


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (_rows().drop_columns(["n_offered"]), "columns are"),
        (_rows().append_column("colour", pa.array(["red"] * 72)), "columns are"),
        (_rows(hours=25), "is not a bucket of"),
        (pa.concat_tables([_rows(), _rows(hours=1)]), "3 rows repeat a group"),
    ],
)
def test_undeclared_rows_fail_the_schema_check(rows: pa.Table, problem: str) -> None:
    assert problem in check_schema(_partition(rows), REPORT).problem


def test_watermark_after_the_fetch_fails_beyond_clock_skew() -> None:
    def problem_if_ahead(by: timedelta) -> str:
        return check_watermark(_partition(None, _chunk(watermark=FETCHED_AT + by)), REPORT).problem

    assert problem_if_ahead(timedelta(minutes=4)) == ""
    assert "check this machine's clock" in problem_if_ahead(timedelta(minutes=6))


def test_chunks_fetched_hours_apart_have_watermarks_of_their_own() -> None:
    noon = DAY.start + timedelta(hours=12)
    morning, evening = Interval(DAY.start, noon), Interval(noon, DAY.end)
    later = FETCHED_AT + timedelta(hours=3)
    fetch_times = (FetchTime(IntervalSet([morning]), FETCHED_AT), FetchTime(IntervalSet([evening]), later))

    def problem(of_morning: datetime, of_evening: datetime) -> str:
        chunks = _chunk(interval=morning, watermark=of_morning), _chunk(interval=evening, watermark=of_evening)
        return check_watermark(replace(_partition(None, *chunks), fetch_times=fetch_times), REPORT).problem

    assert problem(FETCHED_AT, later) == ""
    assert f"claims {morning} is complete until" in problem(later, later)
    assert f"claims {evening} is complete until" in problem(FETCHED_AT, later + timedelta(minutes=6))


def test_partition_metadata_holds_figures_to_plot() -> None:
    night = Interval(DAY.start, DAY.start + timedelta(hours=6))
    chunks = (_chunk(verdict=Verdict.truncated, calls=4), _chunk(interval=night, calls=3))
    late = _partition(None, *chunks, watermark=DAY.end - timedelta(minutes=90))
    assert partition_metadata(late) == {
        "dagster/partition_row_count": 72,
        "calls": 7,
        "chunks": 2,
        "seconds": 2.5,
        "truncated chunks": 1,
        "watermark": "2024-06-10T22:30:00Z",
        "watermark lag (s)": 5400.0,
    }
    assert partition_metadata(_partition())["watermark lag (s)"] == 0.0


def test_chunk_table_has_a_maximum_length() -> None:
    assert len(chunk_table([_chunk()] * 5000).records) == 200
    (record,) = chunk_table([_chunk(calls=3)]).records
    assert record.data == {
        "from": "2024-06-10 00:00",
        "to": "2024-06-11 00:00",
        "verdict": "complete",
        "rows": 72,
        "expected rows": 72,
        "expected from": "declaration",
        "calls": 3,
        "seconds": 1.2,
    }


@pytest.mark.parametrize("verdict", list(Verdict))
def test_each_verdict_has_a_description(verdict: Verdict) -> None:
    sentence = describe_chunk(replace(_chunk(got=40), verdict=verdict))
    assert sentence.startswith(f"{DAY}: 40 rows, 72 expected from declaration: ")
    assert len(sentence) > len(f"{DAY}: 40 rows, 72 expected from declaration: ")
