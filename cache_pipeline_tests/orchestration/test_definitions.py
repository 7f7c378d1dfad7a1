"""Tests of the code location: the definitions that each declared report becomes, without any server."""

import runpy
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from cache_pipeline.errors import SettingsError
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.partitions import report_partitions
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.schedules import finality_cron, keys_final_since_last_tick
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.report import Report
from cache_pipeline_tests.orchestration.workbench import LAYERS, STAGED_CHECKS, declaration, write_reports

REPORTS = Path(__file__).parents[2] / "reports"
NAMES = {"conversation_day", "conversation_hour", "queue_day", "queue_interval"}


@pytest.fixture
def defs(environment: pytest.MonkeyPatch) -> dg.Definitions:
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(REPORTS))
    return build_defs()


def _build(environment: pytest.MonkeyPatch, folder: Path, **changes: object) -> dg.Definitions:
    write_reports(folder / "reports", [declaration(**changes)])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(folder / "reports"))
    return build_defs()


def test_project_reports_load_without_servers_or_accounts(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_entry_point_has_the_same_assets(defs: dg.Definitions, environment: pytest.MonkeyPatch) -> None:
    entry_point = runpy.run_module("cache_pipeline.definitions")["defs"]
    assert {spec.key for spec in entry_point.resolve_all_asset_specs()} == {
        spec.key for spec in defs.resolve_all_asset_specs()
    }


def test_each_report_has_four_assets_in_one_group(defs: dg.Definitions) -> None:
    groups = {spec.key.to_user_string(): spec.group_name for spec in defs.resolve_all_asset_specs()}
    assert groups == {
        **{f"{name}/{layer}": name for name in NAMES for layer in LAYERS},
        "names/genesys/main/queues": "names",
        "names/reportdata/main/queues": "names",
    }


def test_node_names_tell_assets_of_a_report_apart(defs: dg.Definitions) -> None:
    # A node of Dagster's graph shows the last part of the asset's key.
    names = [spec.key.path[-1] for spec in defs.resolve_all_asset_specs() if spec.group_name == "queue_day"]
    assert sorted(names) == sorted(LAYERS)


def test_assets_depend_on_staged_then_history(defs: dg.Definitions) -> None:
    parents = {
        spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps}
        for spec in defs.resolve_all_asset_specs()
        if spec.key.path[0] == "queue_day"
    }
    assert parents == {
        "queue_day/staged": set(),
        "queue_day/history": {"queue_day/staged"},
        "queue_day/hot": {"queue_day/history"},
        "queue_day/edge": {"queue_day/history"},
    }


def test_asset_has_owner_kinds_columns_and_description(defs: dg.Definitions) -> None:
    (spec,) = [spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(["queue_day", "history"])]
    assert list(spec.owners) == ["team:operations"]
    assert spec.kinds == {"history", "postgres"}
    assert spec.description is not None
    assert spec.description.startswith("History: kept for years")
    assert spec.description.endswith("\n\nOffered, answered, abandoned and handling by queue, by local day.")
    columns = spec.metadata["dagster/column_schema"]
    assert isinstance(columns, dg.TableSchema)
    named = {column.name: column.type for column in columns.columns}
    assert list(named)[:3] == ["interval_start", "interval_end", "queue_id"]
    assert named["offered"] == "int64"
    described = {column.name: column.description for column in columns.columns}
    assert described["acw_ms"] == "acwMs: after-call work of agents, total in milliseconds"


def test_only_checks_on_staged_block(
    defs: dg.Definitions,
) -> None:
    specs = [spec for check in defs.asset_checks or [] for spec in check.check_specs]
    for name in NAMES:
        staged = {spec.name: spec.blocking for spec in specs if spec.asset_key == dg.AssetKey([name, "staged"])}
        edge = {spec.name: spec.blocking for spec in specs if spec.asset_key == dg.AssetKey([name, "edge"])}
        assert staged == dict.fromkeys(STAGED_CHECKS, True)
        assert edge == {"tiers_agree": False}
        history = {spec.name: spec.blocking for spec in specs if spec.asset_key == dg.AssetKey([name, "history"])}
        assert history == {"drift": False, "no_open_partitions": False}


def test_report_without_drift_tolerance_has_no_drift_check(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [{**declaration(), "freshness": {"drift_tolerance": None}}])
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    assert "drift" not in {spec.name for check in build_defs().asset_checks or [] for spec in check.check_specs}


def test_report_job_has_all_assets_and_checks(defs: dg.Definitions) -> None:
    for name in NAMES:
        job = defs.resolve_job_def(f"{name}_job")
        assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
            f"{name}/{layer}" for layer in LAYERS
        }
        assert {key.name for key in job.asset_layer.asset_graph.asset_check_keys} == {
            *STAGED_CHECKS,
            "drift",
            "no_open_partitions",
            "tiers_agree",
        }
        assert job.partitions_def is not None


@pytest.mark.parametrize(
    ("name", "cron", "zone"),
    [
        ("conversation_hour", "15 0 * * *", "UTC"),
        ("conversation_day", "15 0 * * *", "America/New_York"),
        ("queue_day", "15 0 * * *", "Europe/Berlin"),
        ("queue_interval", "15 * * * *", "Europe/Berlin"),
    ],
)
def test_schedule_waits_for_finality_delay_in_report_zone(
    defs: dg.Definitions, name: str, cron: str, zone: str
) -> None:
    schedule = defs.resolve_schedule_def(f"{name}_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.job_name) == (cron, zone, f"{name}_job")


@pytest.mark.parametrize(
    ("partition", "delay", "cron"),
    [
        ("hour", "PT90S", "2 * * * *"),
        ("hour", "PT2H10M", "10 * * * *"),
        ("day", "PT0S", "0 0 * * *"),
        ("day", "P2DT5H", "0 5 * * *"),
        ("week", "P1DT1H", "0 1 * * 2"),
        ("week", "P6D", "0 0 * * 0"),
    ],
)
def test_schedule_ticks_when_a_partition_becomes_final(partition: str, delay: str, cron: str) -> None:
    fields = declaration(partition=partition, finality_delay=delay, max_query_interval="P1D")
    assert finality_cron(Report.model_validate(fields)) == cron


@pytest.mark.parametrize(
    ("delay", "at", "keys"),
    [
        ("PT15M", "2026-03-27T00:15+01:00", ["2026-03-26"]),
        ("P3D", "2026-03-27T00:00+01:00", ["2026-03-23"]),
        # The clocks go forward on the 29th, five hours after whose midnight it is six o'clock.
        ("PT5H", "2026-03-29T05:00+02:00", []),
        ("PT5H", "2026-03-30T05:00+02:00", ["2026-03-28", "2026-03-29"]),
        ("PT5H", "2026-03-31T05:00+02:00", ["2026-03-30"]),
    ],
)
def test_schedule_fetches_what_has_become_final(delay: str, at: str, keys: list[str]) -> None:
    report = Report.model_validate(declaration(finality_delay=delay))
    assert keys_final_since_last_tick(report, report_partitions(report), datetime.fromisoformat(at)) == keys


def test_schedule_requests_one_run_of_its_partition(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    defs = _build(environment, tmp_path)
    at = datetime(2026, 3, 27, 0, 15, tzinfo=ZoneInfo("Europe/Berlin"))
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=defs.get_repository_def())
    (request,) = defs.resolve_schedule_def("calls_hour_schedule").evaluate_tick(context).run_requests or []
    assert (request.partition_key, request.run_key) == ("2026-03-26", "2026-03-26")


def test_each_report_has_a_stale_sensor(defs: dg.Definitions) -> None:
    for name in NAMES:
        sensor = defs.resolve_sensor_def(f"{name}_stale_sensor")
        assert sensor.job_name == f"{name}_job"
        assert sensor.minimum_interval_seconds == 60


def test_partitions_follow_the_declared_cadence_and_zone(defs: dg.Definitions) -> None:
    found = {
        name: defs.resolve_job_def(f"{name}_job").partitions_def
        for name in ("queue_interval", "queue_day", "conversation_day")
    }
    described = {
        name: (partitions.cron_schedule, partitions.timezone)
        for name, partitions in found.items()
        if isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    }
    assert described == {
        "queue_interval": ("0 * * * *", "Europe/Berlin"),
        "queue_day": ("0 0 * * *", "Europe/Berlin"),
        "conversation_day": ("0 0 * * *", "America/New_York"),
    }


def _layers(defs: dg.Definitions) -> set[str]:
    return {spec.key.path[-1] for spec in defs.resolve_all_asset_specs() if spec.group_name != "names"}


def test_report_has_assets_for_declared_tiers_only(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    defs = _build(environment, tmp_path, tiers=["history"])
    dg.Definitions.validate_loadable(defs)
    assert _layers(defs) == {"staged", "history"}
    names = {spec.name for check in defs.asset_checks or [] for spec in check.check_specs}
    assert names == {*STAGED_CHECKS, "drift", "no_open_partitions"}


def test_edge_without_hot_is_still_compared(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    defs = _build(environment, tmp_path, tiers=["history", "edge"])
    dg.Definitions.validate_loadable(defs)
    assert _layers(defs) == {"staged", "history", "edge"}
    assert "tiers_agree" in {spec.name for check in defs.asset_checks or [] for spec in check.check_specs}


@pytest.mark.parametrize(
    "changes", [{"partition": "week"}, {"finality_delay": "PT2H"}, {"group_by": []}, {"owners": []}]
)
def test_other_kinds_of_reports_load(
    environment: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object]
) -> None:
    dg.Definitions.validate_loadable(_build(environment, tmp_path, **changes))


@pytest.mark.parametrize(
    ("finality_delay", "partition", "cron"),
    [
        ("PT2H30M", "day", "30 2 * * *"),
        ("PT1H", "day", "0 1 * * *"),
        ("P3D", "day", "0 0 * * *"),
        ("PT1H", "week", "0 1 * * 1"),
        ("PT0S", "hour", "0 * * * *"),
    ],
)
def test_finality_delay_moves_the_schedule(
    environment: pytest.MonkeyPatch, tmp_path: Path, finality_delay: str, partition: str, cron: str
) -> None:
    defs = _build(environment, tmp_path, finality_delay=finality_delay, partition=partition)
    assert defs.resolve_schedule_def("calls_hour_schedule").cron_schedule == cron


def test_invalid_declaration_error_names_file_line_and_field(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"calls_hour\.yaml:\d+: granularity"):
        _build(environment, tmp_path, granularity="PT7M")


def test_invalid_setting_error_names_the_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CACHE_PIPELINE_PARTITIONS_FROM", "soon")
    with pytest.raises(SettingsError, match="CACHE_PIPELINE_PARTITIONS_FROM"):
        build_defs()


def test_settings_limit_the_range_of_partitions(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CACHE_PIPELINE_PARTITIONS_FROM", "1999-01-04")
    environment.setenv("CACHE_PIPELINE_PARTITIONS_TO", "1999-01-07")
    partitions = _build(environment, tmp_path).resolve_job_def("calls_hour_job").partitions_def
    assert partitions is not None
    assert partitions.get_partition_keys() == ["1999-01-04", "1999-01-05", "1999-01-06"]


def test_default_resource_can_be_replaced(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CACHE_PIPELINE_REPORTS_DIR", str(REPORTS))

    class OtherEngine(EngineResource):
        pass

    other = OtherEngine()
    assert (build_defs(resource_overrides={"cache_pipeline__engine": other}).resources or {})[
        "cache_pipeline__engine"
    ] is other
