"""The sensor: what it asks for, how much at once, and that it holds its peace where nothing is stale."""

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
from cache_pipeline_tests.orchestration.workbench import Bench, bench_of, declared


def _tick(bench: Bench, instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def(f"{bench.report.name}_stale_sensor")
    with dg.build_sensor_context(instance=instance, resources={"engine": EngineResource()}) as context:
        return sensor.evaluate_tick(context)


def _asked(bench: Bench, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    return list(_tick(bench, instance).run_requests or [])


def _hold(bench: Bench, *, final: list[str], provisional: list[str] | None = None, age: timedelta) -> None:
    def of(keys: list[str]) -> IntervalSet:
        return IntervalSet(partition_intervals(bench.partitions, keys).values())

    fetched_at = datetime.now(UTC) - age
    with open_history(read_settings().required_postgres_url()) as history:
        rows = arrow_schema(report_columns(bench.report)).empty_table()
        fetched = FetchTime(of(final) | of(provisional or []), fetched_at)
        # The vendor's watermark lies where the provisional figures begin.
        watermark = next((part.start for part in of(provisional or [])), fetched_at)
        held = Replacement(bench.series, of(final), of(provisional or []), rows, watermark, (fetched,))
        history.replace(held)


@pytest.fixture
def hourly(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    with bench_of(servers, tmp_path, declared(partition="hour", finality_delay="P3D")) as bench:
        yield bench


def _recent(bench: Bench) -> list[str]:
    now = datetime.now(UTC)
    return keys_within(bench.partitions, Interval(now - timedelta(days=2), now))


def test_missing_partitions_are_asked_for_in_one_range_with_the_scheduled_lane(
    hourly: Bench, instance: dg.DagsterInstance
) -> None:
    recent = _recent(hourly)
    (request,) = _asked(hourly, instance)
    assert keys_of_run(hourly.partitions, request.tags)[-40:] == recent[-40:]
    assert request.tags["cache_pipeline/lane"] == "scheduled"
    assert hourly.asked() == 0, "deciding asks the vendor nothing"


def test_holes_are_asked_for_newest_first_and_a_few_at_a_time_under_keys_of_their_own(
    hourly: Bench, instance: dg.DagsterInstance
) -> None:
    recent = _recent(hourly)
    _hold(hourly, final=[key for index, key in enumerate(recent) if index % 5], age=timedelta(minutes=1))
    found = _asked(hourly, instance)
    assert len(found) == 3
    ends = [keys_of_run(hourly.partitions, request.tags)[-1] for request in found]
    order = [hourly.partitions.time_window_for_partition_key(key).start for key in ends]
    assert order == sorted(order, reverse=True)
    keys = [request.run_key for request in found]
    assert len(set(keys)) == 3
    assert [request.run_key for request in _asked(hourly, instance)] == keys, "the same staleness asks once"


def test_old_provisional_figures_ask_again_under_a_new_key_after_each_fetch(
    hourly: Bench, instance: dg.DagsterInstance
) -> None:
    recent = _recent(hourly)
    *rest, last = recent
    _hold(hourly, final=rest, provisional=[last], age=timedelta(hours=3))
    (before,) = _asked(hourly, instance)
    _hold(hourly, final=[], provisional=[last], age=timedelta(hours=2))
    (after,) = _asked(hourly, instance)
    assert before.tags == after.tags
    assert before.run_key != after.run_key


def test_fresh_figures_are_left_alone_and_the_tick_says_so(hourly: Bench, instance: dg.DagsterInstance) -> None:
    *rest, last = _recent(hourly)
    _hold(hourly, final=rest, provisional=[last], age=timedelta(minutes=1))
    result = _tick(hourly, instance)
    assert not result.run_requests
    assert result.skip_message == f"all {len(rest) + 1} recent partitions are fresh"


def test_what_the_sensor_asks_for_is_not_asked_for_again_once_it_has_run(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    (request,) = _asked(bench, instance)
    (key,) = keys_of_run(bench.partitions, request.tags)
    assert bench.run(instance, key, tags=dict(request.tags)).success
    assert bench.asked() >= 1
    assert _asked(bench, instance) == []


def test_what_the_vendor_may_have_corrected_is_asked_for_again_once_a_day_though_history_holds_it(
    servers: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with bench_of(servers, tmp_path, declared(refetch_window="P3D")) as bench:
        name = bench.report.name
        sensor = bench.definitions().resolve_sensor_def(f"{name}_refetch_sensor")
        with dg.build_sensor_context(instance=instance) as context:
            (request,) = list(sensor.evaluate_tick(context).run_requests or [])
            (again,) = list(sensor.evaluate_tick(context).run_requests or [])
        keys = keys_of_run(bench.partitions, request.tags)
        assert 2 <= len(keys) <= 3
        assert request.run_key == again.run_key, "once a day"
        assert request.tags["cache_pipeline/lane"] == "backfill"
        assert bench.run(instance, keys[0], keys[-1]).success
        bench.asked()
        assert bench.run(instance, keys[0], keys[-1]).success
        assert bench.asked() == 0, "history holds it"
        job = bench.definitions().resolve_job_def(f"{name}_job")
        assert job.execute_in_process(instance=instance, run_config=request.run_config, tags=request.tags).success
        assert bench.asked() >= len(keys)


def test_a_report_that_declares_no_restatement_has_no_sensor_for_it(bench: Bench) -> None:
    names = [sensor.name for sensor in bench.definitions().sensors or []]
    assert not [name for name in names if name.endswith("_refetch_sensor")]


def _unpublished(bench: Bench, instance: dg.DagsterInstance) -> SensorExecutionData:
    sensor = bench.definitions().resolve_sensor_def("unpublished_sensor")
    with dg.build_sensor_context(instance=instance, resources={"engine": EngineResource()}) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture
def lying(bench: Bench, instance: dg.DagsterInstance) -> list[str]:
    """Days that a run has staged, and did not live to publish."""
    now = datetime.now(UTC)
    days = keys_within(bench.partitions, Interval(now - timedelta(days=8), now - timedelta(days=3)))[:3]
    assert bench.run(instance, days[0], days[-1], only="staged").success
    bench.asked()
    return days


def test_what_a_killed_run_staged_is_published_by_one_run_that_asks_the_vendor_nothing(
    bench: Bench, instance: dg.DagsterInstance, lying: list[str]
) -> None:
    (request,) = list(_unpublished(bench, instance).run_requests or [])
    assert keys_of_run(bench.partitions, request.tags) == lying
    assert (request.job_name, request.tags["cache_pipeline/lane"]) == ("calls_hour_job", "scheduled")
    (again,) = list(_unpublished(bench, instance).run_requests or [])
    assert again.run_key == request.run_key, "the same state asks once"
    job = bench.definitions().resolve_job_def("calls_hour_job")
    assert job.execute_in_process(instance=instance, tags=request.tags).success
    assert bench.asked() == 0
    assert bench.coverage().final == IntervalSet([bench.interval(lying[0], lying[-1])])
    done = _unpublished(bench, instance)
    assert not done.run_requests
    assert done.skip_message == "all staged partitions are published or being published"


@pytest.mark.parametrize("by_its_assets", [False, True])
def test_what_a_run_that_goes_on_has_staged_is_left_to_it(
    *, bench: Bench, instance: dg.DagsterInstance, lying: list[str], by_its_assets: bool
) -> None:
    defs = bench.definitions()
    # What the UI launches on assets, backfills too, is no run of the report's job.
    job = defs.resolve_implicit_global_asset_job_def() if by_its_assets else defs.resolve_job_def("calls_hour_job")
    selection = frozenset({bench.key("staged")}) if by_its_assets else None
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, asset_selection=selection)
    assert not _unpublished(bench, instance).run_requests
    instance.report_run_failed(run, "its process was killed")
    assert len(_unpublished(bench, instance).run_requests or []) == 1


def test_what_cannot_be_published_waits_longer_after_each_failure(
    bench: Bench, instance: dg.DagsterInstance, lying: list[str]
) -> None:
    (request,) = list(_unpublished(bench, instance).run_requests or [])
    job = bench.definitions().resolve_job_def("calls_hour_job")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE, tags=dict(request.tags))
    assert not _unpublished(bench, instance).run_requests


def test_stale_days_that_fail_are_not_asked_for_again_at_once_nor_beside_a_run_of_them(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    (request,) = _asked(bench, instance)
    job = bench.definitions().resolve_job_def("calls_hour_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags))
    told = _tick(bench, instance)
    assert (told.run_requests or []) == []
    assert told.skip_message == "1 ranges are being fetched, or wait after a failure"
    instance.report_run_failed(run, "its process was killed")
    assert _asked(bench, instance) == []


def test_every_sensor_is_off_until_a_person_switches_it_on_and_looks_no_oftener_than_once_a_minute(
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
