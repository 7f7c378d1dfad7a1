"""Tests of the sensors that request runs: stale, refetch and unpublished partitions."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from cache_pipeline.bootstrap import report_columns
from cache_pipeline.orchestration.partitions import keys_of_run, keys_within, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import arrow_schema
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.postgres.history import Replacement, open_history
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, open_bench


def _tick(bench: Bench, instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def(f"{bench.report.name}_stale_sensor")
    with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": EngineResource()}) as context:
        return sensor.evaluate_tick(context)


def _requests(bench: Bench, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    return list(_tick(bench, instance).run_requests or [])


def _store_coverage(bench: Bench, *, final: list[str], provisional: list[str] | None = None, age: timedelta) -> None:
    def of(keys: list[str]) -> IntervalSet:
        return IntervalSet(partition_intervals(bench.partitions, keys).values())

    fetched_at = datetime.now(UTC) - age
    with open_history(read_settings().required_postgres_url()) as history:
        rows = arrow_schema(report_columns(bench.report)).empty_table()
        fetched = FetchTime(of(final) | of(provisional or []), fetched_at)
        # The vendor's watermark is the start of the provisional figures.
        watermark = next((part.start for part in of(provisional or [])), fetched_at)
        replacement = Replacement(bench.series, of(final), of(provisional or []), rows, watermark, (fetched,))
        history.replace(replacement)


@pytest.fixture
def hourly_bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with open_bench(servers, tmp_path, declaration(partition="hour", finality_delay="P3D")) as bench:
        yield bench


def _recent(bench: Bench) -> list[str]:
    now = datetime.now(UTC)
    return keys_within(bench.partitions, Interval(now - timedelta(days=2), now))


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
    _store_coverage(hourly_bench, final=rest, provisional=[last], age=timedelta(minutes=1))
    result = _tick(hourly_bench, instance)
    assert not result.run_requests
    assert result.skip_message == f"all {len(rest) + 1} recent partitions are fresh"


def test_fetched_partition_is_not_requested_again(bench: Bench, instance: dg.DagsterInstance) -> None:
    (request,) = _requests(bench, instance)
    (key,) = keys_of_run(bench.partitions, request.tags)
    assert bench.run(instance, key, tags=dict(request.tags)).success
    assert bench.count_queries() >= 1
    assert _requests(bench, instance) == []


def test_refetch_window_is_refetched_once_a_day(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with open_bench(servers, tmp_path, declaration(refetch_window="P3D")) as bench:
        name = bench.report.name
        sensor = bench.definitions().resolve_sensor_def(f"{name}_refetch_sensor")
        with dg.build_sensor_context(instance=instance) as context:
            (request,) = list(sensor.evaluate_tick(context).run_requests or [])
            (repeated,) = list(sensor.evaluate_tick(context).run_requests or [])
        keys = keys_of_run(bench.partitions, request.tags)
        assert 2 <= len(keys) <= 3
        assert request.run_key == repeated.run_key, "once a day"
        assert request.tags["cache_pipeline/lane"] == "backfill"
        assert bench.run(instance, keys[0], keys[-1]).success
        bench.count_queries()
        assert bench.run(instance, keys[0], keys[-1]).success
        assert bench.count_queries() == 0, "history holds the figures"
        job = bench.definitions().resolve_job_def(f"{name}_job")
        assert job.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags).success
        assert bench.count_queries() >= len(keys)


def test_report_without_refetch_window_has_no_refetch_sensor(bench: Bench) -> None:
    names = [sensor.name for sensor in bench.definitions().sensors or []]
    assert not [name for name in names if name.endswith("_refetch_sensor")]


def _unpublished(bench: Bench, instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def("unpublished_sensor")
    with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": EngineResource()}) as context:
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


def test_stale_days_wait_for_running_and_failed_runs(bench: Bench, instance: dg.DagsterInstance) -> None:
    (request,) = _requests(bench, instance)
    job = bench.definitions().resolve_job_def("calls_hour_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags))
    tick = _tick(bench, instance)
    assert (tick.run_requests or []) == []
    assert tick.skip_message == "1 ranges are being fetched, or wait after a failure"
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
