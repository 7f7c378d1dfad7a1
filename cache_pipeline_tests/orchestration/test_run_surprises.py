"""What Dagster does that a reader of its documentation would not expect, and that this project is built around.

Each of these holds a surprise as it is with the versions locked here, or our answer to it. One that begins to fail after an
upgrade says which of the project's arrangements can be taken out.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from sqlalchemy import make_url

from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline_tests.orchestration.workbench import Bench, declared, recorded, write_reports

PROJECT = Path(__file__).parents[2]
DAYS = dg.StaticPartitionsDefinition(["a", "b"])
DATES = ["2024-06-10", "2024-06-11"]


def test_a_plain_postgresql_url_means_the_driver_that_dagsters_storage_speaks() -> None:
    assert make_url("postgresql://localhost/x").get_driver_name() == "psycopg2"


def test_dagster_its_webserver_and_its_storage_are_of_one_release() -> None:
    core, web, storage = (version(name) for name in ("dagster", "dagster-webserver", "dagster-postgres"))
    assert core == web
    assert core.rpartition(".")[2] == storage.rpartition(".")[2]


def _materialised(*definitions: Any, partition: str | None = None, instance: dg.DagsterInstance) -> Any:
    return dg.materialize(list(definitions), partition_key=partition, instance=instance, raise_on_error=False)


def test_a_blocking_check_comes_after_the_write_so_it_protects_only_what_lies_downstream(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset
    def written() -> None:
        pass

    @dg.asset_check(asset=written, blocking=True)
    def never() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    @dg.asset(deps=[written])
    def downstream() -> None:
        pass

    result = _materialised(written, never, downstream, instance=instance)
    assert not result.success
    assert instance.get_latest_materialization_event(written.key) is not None
    assert instance.get_latest_materialization_event(downstream.key) is None


def test_a_retry_policy_does_not_try_a_failed_check_again(instance: dg.DagsterInstance) -> None:
    tried: list[int] = []

    @dg.asset(
        retry_policy=dg.RetryPolicy(max_retries=3),
        check_specs=[dg.AssetCheckSpec("never", asset="fetched", blocking=True)],
    )
    def fetched() -> dg.MaterializeResult:
        tried.append(1)
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="never")])

    assert not _materialised(fetched, instance=instance).success
    assert len(tried) == 1


def test_each_partition_of_a_range_has_a_verdict_of_its_own_in_storage(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    assert bench.run(instance, *DATES).success
    for name in ("completeness", "schema", "watermark"):
        found = recorded(instance, bench.check(name))
        assert {one.partition for one in found if one.passed} == {*DATES, None}
        history = instance.event_log_storage.get_asset_check_execution_history(bench.check(name), limit=100)
        assert {record.status.value for record in history} == {"SUCCEEDED"}, "none stays planned for ever"


def test_a_range_of_partitions_in_the_wrong_order_covers_nothing_so_a_run_of_none_must_fail_by_itself() -> None:
    both = dg.MultiPartitionsDefinition({"interval": DAYS, "report": dg.StaticPartitionsDefinition(["y", "x"])})
    assert list(both.get_partition_keys_in_range(dg.PartitionKeyRange("a|x", "b|y"))) == []


def test_no_asset_is_automated_by_a_condition_that_fires_twice_on_one_failure(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_reports(tmp_path / "reports", [declared()])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    defs = build_defs()
    assert {spec.automation_condition for spec in defs.resolve_all_asset_specs()} == {None}
    assert defs.executor is dg.in_process_executor, (
        "a process for each step would cost seconds, and a client of its own"
    )


def test_the_projects_instance_file_is_loaded_by_dagster_with_every_setting_that_it_makes(
    servers: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    servers.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_runtime_seconds == 21600
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 1)
        assert instance.run_retries_retry_on_asset_or_op_failure is False
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        assert (limits.max_concurrent_runs, limits.tag_concurrency_limits) == (
            6,
            [{"key": "dagster/backfill", "limit": 3}],
        )


def test_celery_launches_whole_runs_and_never_steps_and_keeps_their_state_where_it_can_be_read(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = yaml.safe_load((PROJECT / "dagster.celery.yaml").read_text())
    launcher = config["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_celery.launcher", "CeleryRunLauncher")
    assert launcher["config"]["backend"] == {"env": "CACHE_PIPELINE_CELERY_BACKEND_URL"}
    assert config["run_monitoring"]["max_runtime_seconds"] > 0, "a lost worker's run would stay started for ever"
    write_reports(tmp_path / "reports", [declared()])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    assert build_defs().executor is dg.in_process_executor


def test_a_backfilled_old_day_turns_the_freshness_badge_green_and_the_sensor_knows_better(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    assert bench.run(instance, DATES[0]).success
    sensor = bench.definitions().resolve_sensor_def("calls_hour_stale_sensor")
    with dg.build_sensor_context(instance=instance, resources={"engine": EngineResource()}) as context:
        assert sensor.evaluate_tick(context).run_requests
