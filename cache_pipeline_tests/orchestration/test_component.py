"""Tests of the `dg` component for a folder of reports and of the scaffolder for new ones."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from cache_pipeline.errors import SettingsError
from cache_pipeline.orchestration.build import build_defs
from cache_pipeline.orchestration.component import NewReport, ReportFolder, ReportScaffolder, ReportUpkeep
from cache_pipeline.query.declarations import DeclarationError, read_report
from cache_pipeline_tests.orchestration.workbench import Bench, declaration, materialized, step_failures, write_reports


# Both warnings come from the way Dagster reads defs.yaml.
@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated", "ignore:.*is currently in beta")
@pytest.mark.usefixtures("environment")
def test_component_loads_a_folder_into_another_project(tmp_path: Path) -> None:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=ReportFolder, defs_yaml_contents=_yaml({"folder": "declared"}), defs_path="calls"
        )
        write_reports(folder / "declared", [declaration()])
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, defs):
            assert isinstance(component, ReportFolder)
            dg.Definitions.validate_loadable(defs)
            assert {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()} == {
                f"calls_hour/{layer}" for layer in ("staged", "history", "hot", "edge")
            }


# Both warnings come from the way Dagster reads defs.yaml.
@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated", "ignore:.*is currently in beta")
@pytest.mark.usefixtures("environment")
def test_folders_and_upkeep_compose_with_a_project_of_its_own() -> None:
    @dg.asset
    def own(engine: dg.ResourceParam[str]) -> None:
        assert engine

    project = dg.Definitions(assets=[own], resources={"engine": "the project's"}, executor=dg.multiprocess_executor)
    with create_defs_folder_sandbox() as sandbox:
        for name in ("calls", "chats"):
            folder = sandbox.scaffold_component(
                component_cls=ReportFolder, defs_yaml_contents=_yaml({"folder": "declared"}), defs_path=name
            )
            write_reports(folder / "declared", [declaration(name=f"{name}_hour")])
        upkeep = {
            "type": "cache_pipeline.orchestration.component.ReportUpkeep",
            "attributes": {"folders": ["../calls/declared", "../chats/declared"]},
        }
        sandbox.scaffold_component(component_cls=ReportUpkeep, defs_yaml_contents=upkeep, defs_path="upkeep")
        with sandbox.build_all_defs() as defs:
            merged = dg.Definitions.merge(defs, project)
            dg.Definitions.validate_loadable(merged)
            keys = {spec.key.to_user_string() for spec in merged.resolve_all_asset_specs()}
            assert {"own", "calls_hour/history", "chats_hour/history"} <= keys
            repository = merged.get_repository_def()
            assert {"calls_hour_job", "chats_hour_job", "edge_maintenance_job"} <= set(repository.job_names)
            assert merged.executor is dg.multiprocess_executor
            assert repository.get_job("calls_hour_job").executor_def is dg.in_process_executor
            assert repository.has_sensor_def("open_partitions_sensor")


# Both warnings come from the way Dagster reads defs.yaml.
@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated", "ignore:.*is currently in beta")
@pytest.mark.usefixtures("environment")
def test_upkeep_refuses_a_name_that_two_folders_declare() -> None:
    with create_defs_folder_sandbox() as sandbox:
        upkeep = {
            "type": "cache_pipeline.orchestration.component.ReportUpkeep",
            "attributes": {"folders": ["one", "two"]},
        }
        folder = sandbox.scaffold_component(component_cls=ReportUpkeep, defs_yaml_contents=upkeep, defs_path="upkeep")
        for name in ("one", "two"):
            write_reports(folder / name, [declaration()])
        with pytest.raises(Exception, match="Error while building definitions") as refused, sandbox.build_all_defs():
            pass
        assert isinstance(refused.value.__cause__, DeclarationError)
        assert "calls_hour: another folder declares a report of this name" in str(refused.value.__cause__)


def _yaml(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "cache_pipeline.orchestration.component.ReportFolder", "attributes": attributes}


def _scaffold(folder: Path, name: str, **options: str) -> None:
    target = folder / "package" / name
    target.mkdir(parents=True)
    kind = "cache_pipeline.orchestration.component.DeclaredReport"
    ReportScaffolder().scaffold(
        dg.ScaffoldRequest(kind, target, "python", folder, NewReport(**{"platform": "reportdata", **options}))
    )


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("platform", ["reportdata", "genesys"])
def test_scaffolded_report_is_one_valid_yaml_file(tmp_path: Path, platform: str) -> None:
    _scaffold(tmp_path, "new_report", platform=platform, time_zone="Europe/Berlin")
    path = tmp_path / "reports" / "new_report.yaml"
    report = read_report(path)
    assert (report.name, report.platform, report.time_zone) == ("new_report", platform, "Europe/Berlin")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    assert not (tmp_path / "package" / "new_report").exists()
    dg.Definitions.validate_loadable(build_defs())


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("name", "options"),
    [("New Report", {}), ("queue_hour", {"platform": "unknown"}), ("queue_hour", {"start": "soon"})],
)
def test_invalid_declaration_is_not_scaffolded(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    with pytest.raises((DeclarationError, SettingsError)):
        _scaffold(tmp_path, name, **options)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


@pytest.mark.usefixtures("environment")
def test_scaffolding_never_overwrites_a_report(tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [declaration()])
    before = (tmp_path / "reports" / "calls_hour.yaml").read_text()
    with pytest.raises(FileExistsError, match="choose another name"):
        _scaffold(tmp_path, "calls_hour")
    assert (tmp_path / "reports" / "calls_hour.yaml").read_text() == before


def test_report_added_as_yaml_is_materialised(bench: Bench, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    added = declaration(name="abandoned_hour", metrics=["nOffered", "tAbandon"])
    write_reports(tmp_path / "reports", [added])
    defs = build_defs()
    assert {spec.group_name for spec in defs.resolve_all_asset_specs()} == {"calls_hour", "abandoned_hour", "names"}
    job = defs.resolve_job_def("abandoned_hour_job")
    result = job.execute_in_process(instance=instance, partition_key="2024-06-10", raise_on_error=False)
    assert result.success, step_failures(result)
    for layer in ("staged", "history", "hot", "edge"):
        assert materialized(instance, dg.AssetKey(["abandoned_hour", layer])) == {"2024-06-10"}
