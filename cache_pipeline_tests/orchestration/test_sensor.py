"""Tests of the sensors that request runs: stale, refetch and unpublished partitions."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from cache_pipeline.bootstrap.reports import refetch_window, report_columns
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.partitions import final_span, keys_of_run, keys_within, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.sensors import MAX_STALE_PARTITIONS, local_days
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres import coverage_queries
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, open_bench


def _tick(bench: Bench, instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def(f"{bench.report.name}_stale_sensor")
    with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": EngineResource()}) as context:
        return sensor.evaluate_tick(context)


def _newest(bench: Bench, count: int) -> list[str]:
    """Return the newest partitions that can be final by now."""
    span = final_span(bench.report, bench.partitions, datetime.now(UTC))
    assert span is not None
    return keys_within(bench.partitions, span)[-count:]


def _requests(bench: Bench, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    return list(_tick(bench, instance).run_requests or [])


def _store_coverage(bench: Bench, *, final: list[str], provisional: list[str] | None = None, age: timedelta) -> None:
    def of(keys: list[str]) -> IntervalSet:
        return IntervalSet(partition_intervals(bench.partitions, keys).values())

    fetched_at = datetime.now(UTC) - age
    with open_history(read_settings().required_postgres_url()) as history:
        rows = to_arrow_schema(report_columns(bench.report)).empty_table()
        fetched = FetchTime(of(final) | of(provisional or []), fetched_at)
        # The vendor's watermark is the start of the provisional figures.
        watermark = next((part.start for part in of(provisional or [])), fetched_at)
        replacement = Replacement(bench.series, of(final), of(provisional or []), rows, watermark, (fetched,))
        history.replace(replacement)


@pytest.fixture
def hourly_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with open_bench(servers, tmp_path, declaration(partition="hour", start="2026-01-01")) as bench:
        yield bench


def _recent(bench: Bench) -> list[str]:
    return _newest(bench, MAX_STALE_PARTITIONS)


def test_missing_partitions_are_one_scheduled_range(hourly_bench: Bench, instance: dg.DagsterInstance) -> None:
    recent = _recent(hourly_bench)
    (request,) = _requests(hourly_bench, instance)
    assert keys_of_run(hourly_bench.partitions, request.tags)[-40:] == recent[-40:]
    assert request.tags["cache_pipeline/lane"] == "scheduled"
    assert hourly_bench.count_queries() == 0, "a decision sends no query"


def test_gaps_are_requested_newest_first_with_distinct_keys(hourly_bench: Bench, instance: dg.DagsterInstance) -> None:
    recent = _recent(hourly_bench)
    _store_coverage(
        hourly_bench, final=[key for index, key in enumerate(recent) if index % 5], age=timedelta(minutes=1)
    )
    found = _requests(hourly_bench, instance)
    assert len(found) == 3
    ends = [keys_of_run(hourly_bench.partitions, request.tags)[-1] for request in found]
    order = [hourly_bench.partitions.time_window_for_partition_key(key).start for key in ends]
    assert order == sorted(order, reverse=True)
    keys = [request.run_key for request in found]
    assert len(set(keys)) == 3
    assert [request.run_key for request in _requests(hourly_bench, instance)] == keys, (
        "the same state must have the same run keys"
    )


def test_stale_provisional_figures_get_new_run_keys(hourly_bench: Bench, instance: dg.DagsterInstance) -> None:
    recent = _recent(hourly_bench)
    *rest, last = recent
    _store_coverage(hourly_bench, final=rest, provisional=[last], age=timedelta(hours=3))
    (before,) = _requests(hourly_bench, instance)
    _store_coverage(hourly_bench, final=[], provisional=[last], age=timedelta(hours=2))
    (after,) = _requests(hourly_bench, instance)
    assert before.tags == after.tags
    assert before.run_key != after.run_key


def test_fresh_figures_skip_the_tick(hourly_bench: Bench, instance: dg.DagsterInstance) -> None:
    *rest, last = _recent(hourly_bench)
    _store_coverage(hourly_bench, final=rest, provisional=[last], age=timedelta(0))
    result = _tick(hourly_bench, instance)
    assert not result.run_requests
    assert result.skip_message == "all partitions are complete or fresh"


@pytest.fixture
def recent_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench whose first day is three days ago, with the vendor's refetch window."""
    # Of the report's calendar: late in the evening UTC has another day.
    today = datetime.now(ZoneInfo(declaration()["time_zone"])).date()
    with open_bench(servers, tmp_path, declaration(start=f"{today - timedelta(days=3)}")) as bench:
        yield bench


def test_fetched_days_are_not_requested_again(recent_bench: Bench, instance: dg.DagsterInstance) -> None:
    (request,) = _requests(recent_bench, instance)
    keys = keys_of_run(recent_bench.partitions, request.tags)
    assert 2 <= len(keys) <= 3
    assert recent_bench.run(instance, keys[0], keys[-1], tags=dict(request.tags)).success
    with psycopg.connect(read_settings().required_postgres_url()) as connection:
        # A quiet day of a weekend is proven by two further queries, one for each part.
        query = "SELECT count(*), sum(parts) FROM cache_pipeline_state.chunk_result"
        ((days, parts),) = connection.execute(query).fetchall()
    assert days == len(keys)
    assert recent_bench.count_queries() == days + parts
    assert _requests(recent_bench, instance) == []


@pytest.mark.parametrize("days_ago", [3, 40])
def test_gap_that_a_stopped_daemon_left_is_requested(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance, days_ago: int
) -> None:
    """What counts is the number of partitions, not the hours since they ended."""
    with open_bench(servers, tmp_path, declaration(start="2026-01-01")) as bench:
        days = _newest(bench, MAX_STALE_PARTITIONS)
        _store_coverage(bench, final=days[:-days_ago], age=timedelta(minutes=1))
        (request,) = _requests(bench, instance)
        assert keys_of_run(bench.partitions, request.tags) == days[-days_ago:]


def test_partition_is_requested_when_it_can_be_final(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A minute after its end it would be provisional, and have to be fetched a second time."""
    with open_bench(servers, tmp_path, declaration(start="2026-06-01", finality_delay="PT3H")) as bench:
        days = keys_within(bench.partitions, Interval.parse("2026-06-01/2026-06-11", bench.report.zone))
        _store_coverage(bench, final=days[:-1], age=timedelta(minutes=1))
        ended = bench.interval(days[-1]).end
        for at, expected in ((timedelta(hours=3, seconds=-1), []), (timedelta(hours=3), [days[-1]])):
            sensor = bench.definitions().resolve_sensor_def(f"{bench.report.name}_stale_sensor")
            engine = _engine_at(ended + at)
            with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": engine}) as context:
                requests = sensor.evaluate_tick(context).run_requests or []
            assert [keys_of_run(bench.partitions, each.tags) for each in requests] == ([expected] if expected else [])


def _engine_at(instant: datetime) -> EngineResource:
    class EngineAtInstant(EngineResource):
        def now(self) -> datetime:
            return instant

    return EngineAtInstant()


def _count_connections(monkeypatch: pytest.MonkeyPatch) -> Mock:
    opened = Mock(wraps=coverage_queries.open_coverage)
    monkeypatch.setattr(coverage_queries, "open_coverage", opened)
    return opened


def test_ticks_of_many_reports_read_coverage_and_runs_once(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_bench(servers, tmp_path, declaration(start="2026-06-01")) as bench:
        names = [f"calls_{number}" for number in range(5)]
        defs = build_defs(reports={name: bench.report.model_copy(update={"name": name}) for name in names})
        opened, queries = _count_connections(monkeypatch), Mock(wraps=instance.get_run_records)
        monkeypatch.setattr(instance, "get_run_records", queries)
        for name in names:
            sensor = defs.resolve_sensor_def(f"{name}_stale_sensor")
            with dg.build_sensor_context(
                instance=instance, resources={"cache_pipeline__engine": EngineResource()}
            ) as context:
                assert sensor.evaluate_tick(context).run_requests
        assert (opened.call_count, queries.call_count) == (1, 2), (
            "one query for unfinished runs, and one for those that failed"
        )


def test_refetch_window_is_refetched_once_a_local_day(recent_bench: Bench, instance: dg.DagsterInstance) -> None:
    bench, name = recent_bench, recent_bench.report.name
    sensor = bench.definitions().resolve_sensor_def(f"{name}_refetch_sensor")

    def tick(cursor: str | None = None) -> SensorExecutionData:
        resource = {"cache_pipeline__engine": EngineResource()}
        with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resource) as context:
            return sensor.evaluate_tick(context)

    days = _newest(bench, 3)
    assert bench.run(instance, days[0], days[-1]).success
    assert not tick().run_requests, "what was fetched today is not fetched again today"
    _store_age(bench, timedelta(days=1))
    (request,) = list(tick().run_requests or [])
    (repeated,) = list(tick().run_requests or [])
    assert request.run_key == repeated.run_key
    assert keys_of_run(bench.partitions, request.tags) == days, "the window in one run"
    assert request.tags["cache_pipeline/lane"] == "backfill"
    bench.count_queries()
    job = bench.definitions().resolve_job_def(f"{name}_job")
    assert job.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags).success
    assert bench.count_queries() == len(days)
    done = tick()
    assert not done.run_requests
    assert tick(done.cursor).skip_message == "the partitions of the window have been fetched again today"


def _store_age(bench: Bench, age: timedelta) -> None:
    """Let all that history holds have been fetched so long ago."""
    with psycopg.connect(read_settings().required_postgres_url()) as connection:
        connection.execute(
            "UPDATE cache_pipeline_state.fetch_time SET fetched_at = fetched_at - %s WHERE series = %s",
            (age, bench.series.id),
        )


@pytest.mark.parametrize(
    ("partition", "window", "expected"),
    [
        ("hour", "P1D", ("2026-03-28T23:00Z", "2026-03-29T22:00Z")),
        ("day", "P1D", ("2026-03-28T23:00Z", "2026-03-29T22:00Z")),
        ("day", "P3D", ("2026-03-26T23:00Z", "2026-03-29T22:00Z")),
        ("day", "PT30H", ("2026-03-28T17:00Z", "2026-03-29T22:00Z")),
    ],
)
def test_refetch_window_counts_local_days(partition: str, window: str, expected: tuple[str, str]) -> None:
    """The day before has 23 hours."""
    report = Report.model_validate(declaration(partition=partition, refetch_window=window))
    assert refetch_window(report) is not None
    at = datetime(2026, 3, 30, 9, tzinfo=UTC)
    assert local_days(at, refetch_window(report) or timedelta(0), report.zone) == Interval.parse("/".join(expected))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, timedelta(days=3)),
        ({"partition": "week", "max_query_interval": "P1D"}, timedelta(days=7)),
        ({"refetch_window": "P5D"}, timedelta(days=5)),
        ({"platform": "reportdata", "query_type": "queue-performance", "delivery": None}, None),
    ],
)
def test_default_refetch_window_is_the_vendors(changes: dict[str, Any], expected: timedelta | None) -> None:
    assert refetch_window(Report.model_validate(declaration(**changes))) == expected


def test_report_without_refetch_window_has_no_refetch_sensor(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fields = declaration()
    fields["fetch"]["refetch_window"] = None
    with open_bench(servers, tmp_path, fields) as bench:
        names = [sensor.name for sensor in bench.definitions().sensors or []]
    assert not [name for name in names if name.endswith("_refetch_sensor")]


def _unpublished(bench: Bench, instance: dg.DagsterInstance, cursor: str | None = None) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def("unpublished_sensor")
    resource = {"cache_pipeline__engine": EngineResource()}
    with dg.build_sensor_context(instance=instance, resources=resource, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture
def staged_days(bench: Bench, instance: dg.DagsterInstance) -> list[str]:
    """Stage days by a run that does not publish them."""
    now = datetime.now(UTC)
    days = keys_within(bench.partitions, Interval(now - timedelta(days=8), now - timedelta(days=3)))[:3]
    assert bench.run(instance, days[0], days[-1], layer="staged").success
    bench.count_queries()
    return days


def test_staged_partitions_are_published_without_queries(
    bench: Bench, instance: dg.DagsterInstance, staged_days: list[str]
) -> None:
    (request,) = list(_unpublished(bench, instance).run_requests or [])
    assert keys_of_run(bench.partitions, request.tags) == staged_days
    assert (request.job_name, request.tags["cache_pipeline/lane"]) == ("calls_hour_job", "scheduled")
    (repeated,) = list(_unpublished(bench, instance).run_requests or [])
    assert repeated.run_key == request.run_key, "the same state must have the same run key"
    job = bench.definitions().resolve_job_def("calls_hour_job")
    assert job.execute_in_process(instance=instance, tags=request.tags).success
    assert bench.count_queries() == 0
    assert bench.coverage().final == IntervalSet([bench.interval(staged_days[0], staged_days[-1])])
    published = _unpublished(bench, instance)
    assert not published.run_requests
    assert published.skip_message == "all staged partitions are published or being published"


def test_unchanged_staged_files_are_examined_once(
    bench: Bench, instance: dg.DagsterInstance, staged_days: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.run(instance, staged_days[0], staged_days[-1]).success
    cursor = _unpublished(bench, instance).cursor
    opened = _count_connections(monkeypatch)
    assert _unpublished(bench, instance, cursor).cursor == cursor
    assert opened.call_count == 0
    (bench.data / "staged" / "calls_hour" / bench.series.query_id / "another.part").touch()
    _unpublished(bench, instance, cursor)
    assert opened.call_count == 1


@pytest.mark.parametrize("from_assets", [False, True])
def test_staged_partitions_of_unfinished_run_are_skipped(
    *, bench: Bench, instance: dg.DagsterInstance, staged_days: list[str], from_assets: bool
) -> None:
    defs = bench.definitions()
    # Runs that the UI launches from assets, as backfills are, do not belong to the report's job.
    job = defs.resolve_implicit_global_asset_job_def() if from_assets else defs.resolve_job_def("calls_hour_job")
    selection = frozenset({bench.key("staged")}) if from_assets else None
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, asset_selection=selection)
    assert not _unpublished(bench, instance).run_requests
    instance.report_run_failed(run, "its process was killed")
    assert len(_unpublished(bench, instance).run_requests or []) == 1


def test_failed_publishing_backs_off(bench: Bench, instance: dg.DagsterInstance, staged_days: list[str]) -> None:
    (request,) = list(_unpublished(bench, instance).run_requests or [])
    job = bench.definitions().resolve_job_def("calls_hour_job")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE, tags=dict(request.tags))
    assert not _unpublished(bench, instance).run_requests


def test_stale_days_wait_for_running_and_failed_runs(recent_bench: Bench, instance: dg.DagsterInstance) -> None:
    bench = recent_bench
    (request,) = _requests(bench, instance)
    days = len(keys_of_run(bench.partitions, request.tags))
    job = bench.definitions().resolve_job_def("calls_hour_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags))
    tick = _tick(bench, instance)
    assert (tick.run_requests or []) == []
    assert tick.skip_message == f"{days} partitions are being fetched, or wait after a failure"
    instance.report_run_failed(run, "its process was killed")
    assert _requests(bench, instance) == []


def test_every_sensor_is_off_by_default_and_slow(
    bench: Bench,
) -> None:
    sensors = list(bench.definitions().sensors or [])
    assert {sensor.name for sensor in sensors} >= {
        "calls_hour_stale_sensor",
        "incomplete_sensor",
        "unpublished_sensor",
        "prefetch_sensor",
        "open_partitions_sensor",
    }
    for sensor in sensors:
        assert isinstance(sensor, dg.SensorDefinition)
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
        assert sensor.minimum_interval_seconds is not None
        assert sensor.minimum_interval_seconds >= 60
