"""Tests of unexpected behaviour of Dagster that this project depends on or works around.

Each test states the behaviour of the locked versions, or the workaround. A test that fails after an upgrade shows which
workaround is no longer needed.
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
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, recorded_evaluations, write_reports

PROJECT = Path(__file__).parents[2]
DAYS = dg.StaticPartitionsDefinition(["a", "b"])
DATES = ["2024-06-10", "2024-06-11"]


def test_plain_postgresql_url_selects_psycopg2() -> None:
    assert make_url("postgresql://localhost/x").get_driver_name() == "psycopg2"


def test_dagster_packages_are_of_one_release() -> None:
    core, web, storage = (version(name) for name in ("dagster", "dagster-webserver", "dagster-postgres"))
    assert core == web
    assert core.rpartition(".")[2] == storage.rpartition(".")[2]


def _materialise(*definitions: Any, partition: str | None = None, instance: dg.DagsterInstance) -> Any:
    return dg.materialize(list(definitions), partition_key=partition, instance=instance, raise_on_error=False)


def test_blocking_check_protects_only_downstream_assets(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset
    def written() -> None:
        pass

    @dg.asset_check(asset=written, blocking=True)
    def always_fails() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    @dg.asset(deps=[written])
    def downstream() -> None:
        pass

    result = _materialise(written, always_fails, downstream, instance=instance)
    assert not result.success
    assert instance.get_latest_materialization_event(written.key) is not None
    assert instance.get_latest_materialization_event(downstream.key) is None


def test_retry_policy_ignores_failed_checks(instance: dg.DagsterInstance) -> None:
    attempts: list[int] = []

    @dg.asset(
        retry_policy=dg.RetryPolicy(max_retries=3),
        check_specs=[dg.AssetCheckSpec("never", asset="fetched", blocking=True)],
    )
    def fetched() -> dg.MaterializeResult:
        attempts.append(1)
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="never")])

    assert not _materialise(fetched, instance=instance).success
    assert len(attempts) == 1


def test_each_partition_of_a_range_has_its_evaluation(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, *DATES).success
    for name in ("completeness", "schema", "watermark"):
        found = recorded_evaluations(instance, bench.check(name))
        assert {one.partition for one in found if one.passed} == {*DATES, None}
        history = instance.event_log_storage.get_asset_check_execution_history(bench.check(name), limit=100)
        assert {record.status.value for record in history} == {"SUCCEEDED"}, "no evaluation remains planned"


def test_reversed_partition_range_is_empty() -> None:
    both = dg.MultiPartitionsDefinition({"interval": DAYS, "report": dg.StaticPartitionsDefinition(["y", "x"])})
    assert list(both.get_partition_keys_in_range(dg.PartitionKeyRange("a|x", "b|y"))) == []


def test_fetching_assets_have_no_automation_condition_and_one_process(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_reports(tmp_path / "reports", [declaration()])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    defs = build_defs()
    automated = {spec.key.path[-1] for spec in defs.resolve_all_asset_specs() if spec.automation_condition}
    assert automated == {"hot", "edge"}, "a condition sees no coverage, which decides what is fetched"
    assert defs.executor is dg.in_process_executor, (
        "a process for each step would cost seconds and need its own HTTP client"
    )


def test_dagster_applies_the_project_instance_file(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_celery_profile_launches_whole_runs_with_readable_state(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = yaml.safe_load((PROJECT / "dagster.celery.yaml").read_text())
    launcher = config["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_celery.launcher", "CeleryRunLauncher")
    assert launcher["config"]["backend"] == {"env": "CACHE_PIPELINE_CELERY_BACKEND_URL"}
    assert config["run_monitoring"]["max_runtime_seconds"] > 0, "otherwise a lost worker's run would never end"
    write_reports(tmp_path / "reports", [declaration()])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    assert build_defs().executor is dg.in_process_executor


def test_stale_sensor_ignores_the_freshness_badge(bench: Bench, instance: dg.DagsterInstance) -> None:
    assert bench.run(instance, DATES[0]).success
    sensor = bench.definitions().resolve_sensor_def("calls_hour_stale_sensor")
    with dg.build_sensor_context(instance=instance, resources={"cache_pipeline__engine": EngineResource()}) as context:
        assert sensor.evaluate_tick(context).run_requests
