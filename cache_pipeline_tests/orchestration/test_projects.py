"""Tests of `dg` on a copy of this project, and on a new project that has two folders of reports beside its own assets."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml

from cache_pipeline_tests.orchestration.user_interface import Ui, free_port, running
from cache_pipeline_tests.orchestration.workbench import LAYERS, Bench, declaration, materialized, write_reports

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAY = "2024-06-10"
OWN = """
import dagster as dg


@dg.asset
def own(engine: dg.ResourceParam[str]) -> None:
    assert engine == "the project's"


@dg.definitions
def project() -> dg.Definitions:
    return dg.Definitions(assets=[own], resources={"engine": "the project's"}, executor=dg.in_process_executor)
"""
# What `create-dagster project` writes.
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
PYPROJECT = """
[project]
name = "centre"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "centre"
registry_modules = ["centre.components.*"]
"""

pytestmark = [pytest.mark.timeout(1500), pytest.mark.system, pytest.mark.usefixtures("home")]


def _run(folder: Path, *command: str, sources: Sequence[Path]) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_scaffolded_asset_is_loaded_and_launched(servers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(
        PROJECT / "cache_pipeline", copy / "cache_pipeline", ignore=shutil.ignore_patterns("__pycache__", "page")
    )
    shutil.copy(PROJECT / "pyproject.toml", copy)
    shutil.copytree(PROJECT / "reports", copy / "reports")
    servers.setenv("CACHE_PIPELINE_REPORTS_DIR", str(copy / "reports"))
    _run(copy, "dg", "scaffold", "defs", "dagster.asset", "handmade.py", sources=[copy])
    assert (copy / "cache_pipeline" / "defs" / "handmade.py").exists()
    # It checks the YAML files too.
    _run(copy, "dg", "check", "defs", sources=[copy])
    listed = json.loads(_run(copy, "dg", "list", "defs", "--json", sources=[copy]))
    assert {"handmade", "queue_day/staged"} <= {each["asset_key"] for each in listed["assets"]}
    _run(copy, "dg", "launch", "--assets", "handmade", sources=[copy])
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("handmade"))


@pytest.fixture
def new_project(bench: Bench, tmp_path: Path) -> Path:
    """Return a new project with two folders of reports, one of which declares the bench's report."""
    folder = tmp_path / "centre-project"
    defs = folder / "src" / "centre" / "defs"
    defs.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (defs.parent / "definitions.py").write_text(DEFINITIONS)
    for package in (defs.parent, defs, defs.parent / "components"):
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
    (defs / "own.py").write_text(OWN)
    for name, declared in (("calls", declaration()), ("chats", declaration(name="chats_hour"))):
        write_reports(_component(defs / name, "ReportFolder", {"folder": "declared"}) / "declared", [declared])
    _component(defs / "upkeep", "ReportUpkeep", {"folders": ["../calls/declared", "../chats/declared"]})
    return folder


def _component(folder: Path, kind: str, attributes: dict[str, object]) -> Path:
    folder.mkdir()
    content = {"type": f"cache_pipeline.orchestration.component.{kind}", "attributes": attributes}
    (folder / "defs.yaml").write_text(yaml.safe_dump(content))
    return folder


REPORTS = ("calls_hour", "chats_hour")
#: Both reports need these names; there is one asset for a deployment.
NAMES = "names/genesys/main/queues"


def test_new_project_loads_lists_and_launches(new_project: Path) -> None:
    sources = [new_project / "src", PROJECT]
    _run(new_project, "dg", "check", "defs", sources=sources)
    listed = json.loads(_run(new_project, "dg", "list", "defs", "--json", sources=sources))
    assert {each["asset_key"] for each in listed["assets"]} == {
        "own",
        NAMES,
        *(f"{name}/{layer}" for name in REPORTS for layer in LAYERS),
    }
    assert "open_partitions_sensor" in {each["name"] for each in listed["sensors"]}
    _run(new_project, "dg", "launch", "--assets", "own", sources=sources)
    _run(new_project, "dg", "launch", "--job", "chats_hour_job", "--partition", DAY, sources=sources)
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("own"))
        for layer in LAYERS:
            assert materialized(instance, dg.AssetKey(["chats_hour", layer])) == {DAY}


def test_new_project_materialises_both_folders_in_the_ui(
    new_project: Path, home: Path, servers: pytest.MonkeyPatch
) -> None:
    servers.setenv("PYTHONPATH", os.pathsep.join(map(str, [new_project / "src", PROJECT])))
    port, log = free_port(), home / "dagster.log"
    # The daemon looks for backfills when it starts, and then every thirty seconds.
    dev = ("dagster", "dev", "-h", "127.0.0.1", "-p", str(port), "-m", "centre.definitions")
    with running(log, *dev, folder=new_project), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        ui = Ui(http, log)
        ui.wait("the project is loaded", ui.is_up)
        assert ui.ended_runs(ui.backfill(REPORTS, [DAY])) == ["SUCCESS"]
        materialised = {f"{name}/{layer}": True for name in REPORTS for layer in LAYERS}
        assert ui.assets() == {"own": False, NAMES: False, **materialised}
