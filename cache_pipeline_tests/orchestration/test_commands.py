"""Tests of Dagster's commands on this project: validate, list and scaffold."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache_pipeline.query.declarations import read_report
from cache_pipeline_tests.orchestration.workbench import declaration, write_reports

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("home")]


def _run(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["dg check defs", "dagster definitions validate -w workspace.yaml"])
def test_project_definitions_are_valid(command: str, servers: pytest.MonkeyPatch) -> None:
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(PROJECT / "reports"))
    _run(*command.split())


def test_validation_names_file_line_and_field_of_a_mistake(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [declaration(granularity="PT7M")])
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    command = [BIN / "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "calls_hour.yaml:" in done.stdout + done.stderr
    assert ": granularity" in done.stdout + done.stderr


def test_dg_lists_definitions_of_the_reports(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [declaration()])
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    listed = json.loads(_run("dg", "list", "defs", "--json"))
    assert {each["asset_key"] for each in listed["assets"]} == {
        *(f"calls_hour/{layer}" for layer in ("staged", "history", "hot", "edge")),
        "names/genesys/main/queues",
    }
    named = {kind: {each["name"] for each in listed[kind]} for kind in ("jobs", "schedules", "sensors")}
    assert "calls_hour_job" in named["jobs"]
    assert "calls_hour_schedule" in named["schedules"]
    assert {"calls_hour_stale_sensor", "open_partitions_sensor"} <= named["sensors"]


def test_dg_lists_the_component_for_other_projects() -> None:
    listed = json.loads(_run("dg", "list", "components", "--json"))
    keys = {each["key"] for each in listed["items"]}
    assert "cache_pipeline.orchestration.component.ReportFolder" in keys


@pytest.fixture
def scaffolded(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Scaffold a report with `dg` into a folder outside the project."""
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    before = {path for path in (PROJECT / "cache_pipeline").rglob("*") if path.is_dir()}
    kind = "cache_pipeline.orchestration.component.DeclaredReport"
    _run("dg", "scaffold", "defs", kind, "scaffolded_calls", "--platform", "genesys")
    new_folders = {path for path in (PROJECT / "cache_pipeline").rglob("*") if path.is_dir()} - before
    assert [path for path in new_folders if path.name != "__pycache__"] == [], (
        "scaffolding must leave no folder in the package"
    )
    return tmp_path / "reports" / "scaffolded_calls.yaml"


def test_dg_scaffolds_a_report_that_loads(scaffolded: Path) -> None:
    report = read_report(scaffolded)
    assert (report.name, report.platform) == ("scaffolded_calls", "genesys")
    assert "scaffolded_calls" in _run("dg", "list", "defs")
