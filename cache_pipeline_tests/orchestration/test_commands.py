"""Dagster's own commands on the project as it stands: they validate it, list what it has, and scaffold a report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache_pipeline.query.declarations import read_report
from cache_pipeline_tests.orchestration.workbench import declared, write_reports

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("home")]


def _said(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["dg check defs", "dagster definitions validate -w workspace.yaml"])
def test_the_project_is_valid_as_it_stands(command: str, servers: pytest.MonkeyPatch) -> None:
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(PROJECT / "reports"))
    _said(*command.split())


def test_a_mistake_in_a_declaration_fails_the_validation_by_file_line_and_field(
    servers: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_reports(tmp_path / "reports", [declared(granularity="PT7M")])
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    command = [BIN / "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "calls_hour.yaml:" in done.stdout + done.stderr
    assert ": granularity" in done.stdout + done.stderr


def test_dg_lists_what_the_reports_give(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", [declared()])
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    listed = json.loads(_said("dg", "list", "defs", "--json"))
    assert {each["asset_key"] for each in listed["assets"]} == {
        f"{layer}/calls_hour" for layer in ("staged", "history", "hot", "edge")
    }
    named = {kind: {each["name"] for each in listed[kind]} for kind in ("jobs", "schedules", "sensors")}
    assert "calls_hour_job" in named["jobs"]
    assert "calls_hour_schedule" in named["schedules"]
    assert {"calls_hour_stale_sensor", "open_partitions_sensor"} <= named["sensors"]


def test_dg_lists_the_components_that_another_project_can_use() -> None:
    listed = json.loads(_said("dg", "list", "components", "--json"))
    keys = {each["key"] for each in listed["items"]}
    assert "cache_pipeline.orchestration.component.ReportFolder" in keys


@pytest.fixture
def scaffolded(servers: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A report that `dg` has scaffolded into another folder than the project's own."""
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path / "reports"))
    before = {path for path in (PROJECT / "cache_pipeline").rglob("*") if path.is_dir()}
    kind = "cache_pipeline.orchestration.component.DeclaredReport"
    _said("dg", "scaffold", "defs", kind, "scaffolded_calls", "--platform", "genesys")
    made = {path for path in (PROJECT / "cache_pipeline").rglob("*") if path.is_dir()} - before
    assert [path for path in made if path.name != "__pycache__"] == [], "nothing is left in the package"
    return tmp_path / "reports" / "scaffolded_calls.yaml"


def test_dg_scaffolds_a_report_that_loads_as_it_stands(scaffolded: Path) -> None:
    report = read_report(scaffolded)
    assert (report.name, report.platform) == ("scaffolded_calls", "genesys")
    assert "scaffolded_calls" in _said("dg", "list", "defs")
