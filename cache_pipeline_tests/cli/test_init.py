"""Tests of `cache-pipeline init` from a wheel in a new environment: what it makes is accepted by our commands and Dagster's."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from click.testing import CliRunner

from cache_pipeline.cli.init import init
from cache_pipeline.errors import CommandError
from cache_pipeline.simulator.server import running_simulator
from cache_pipeline.simulator.settings import SimulatorSettings

REPOSITORY = Path(__file__).parents[2]
#: The program `dg`, as its package installs it.
DG = "from dagster_dg_cli.cli import main; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the built wheel beside this environment's other packages; return the folder of its programs."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=REPOSITORY, check=True
    )
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    # A path in a .pth file is added as it is: the checkout's own .pth file there has no effect.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(installed, project, program, *arguments, timeout=110, settings=MappingProxyType({})):
    """Run a program of the new environment in the project, and return its output."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("CACHE_PIPELINE_", "PYTHON"))
    }
    done = subprocess.run(
        [str(installed / program), *arguments],
        cwd=project,
        env=inherited | {"COLUMNS": "160", "PATH": f"{installed}:{os.environ['PATH']}", **settings},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    output = run(installed, folder, "cache-pipeline", "init", "centre")
    assert "cache-pipeline demo" in output
    return folder / "centre"


@pytest.mark.timeout(240)
def test_project_from_a_wheel_is_complete(installed, project):
    imported = run(installed, project, "python", "-c", "import cache_pipeline; print(cache_pipeline.__file__)")
    assert str(installed.parent) in imported, "the wheel is tested, not the checkout"
    made = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert made >= {
        ".env.example",
        ".gitignore",
        "contact_centre/definitions.py",
        "README.md",
        "dagster.yaml",
        "deploy/compose/compose.yaml",
        "pyproject.toml",
        "reports/queue_day.yaml",
        "workspace.yaml",
    }
    assert "queue_day" in run(installed, project, "cache-pipeline", "reports")


@pytest.mark.timeout(240)
def test_dagster_and_dg_accept_the_project(installed, project, postgres_database):
    settings = {"CACHE_PIPELINE_POSTGRES_URL": postgres_database}
    validate = ("-m", "dagster", "definitions", "validate", "-w", "workspace.yaml")
    run(installed, project, "python", *validate, settings=settings)
    run(installed, project, "python", "-c", DG, "check", "defs", settings=settings)
    listed = json.loads(run(installed, project, "python", "-c", DG, "list", "defs", "--json", settings=settings))
    assert {asset["asset_key"] for asset in listed["assets"]} >= {"queue_day/staged", "queue_day/history"}


@pytest.mark.timeout(240)
def test_report_works_with_the_account_of_the_example(installed, project, postgres_database, redis_database):
    with running_simulator(SimulatorSettings()) as url:
        example = (project / ".env.example").read_text()
        filled = {
            r"(?m)^(CACHE_PIPELINE_POSTGRES_URL=).*": postgres_database,
            r"(?m)^(CACHE_PIPELINE_REDIS_URL=).*": redis_database,
            '()"region": "eu_central_1"': f'"base_url": "{url}", "login_url": "{url}/oauth/token"',
            '("client_id": )"..."': '"demo-client"',
            '("client_secret": )"..."': '"demo-secret"',
        }
        for pattern, value in filled.items():
            example, count = re.subn(pattern, rf"\g<1>{value}", example)
            assert count == 1, pattern
        (project / ".env").write_text(example)
        # The commands of the README, up to those that run until they are stopped.
        exported, tried, _ = re.findall(r"(?s) +```sh\n(.*?) +```", (project / "README.md").read_text())
        script = f"set -e\n{exported}{tried}"
        output = run(installed, project, "/bin/bash", "-c", script, timeout=220)
        shown = json.loads(output[output.index("{") :])
    (project / ".env").unlink()
    assert shown["rows"]


@pytest.mark.timeout(300)
@pytest.mark.system
def test_demo_runs_in_the_project(installed, project):
    output = run(installed, project, "cache-pipeline", "demo", timeout=280)
    assert "executives.html" in output
    assert "Next: cache-pipeline dev" in output


def test_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    refused = CliRunner().invoke(init, [str(tmp_path)])
    assert isinstance(refused.exception, CommandError)
    assert "is not empty" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_example_names_only_known_settings(tmp_path):
    from cache_pipeline.settings import Settings

    assert CliRunner().invoke(init, [str(tmp_path)]).exit_code == 0
    named = [line.split("=")[0] for line in (tmp_path / ".env.example").read_text().splitlines() if line[:1] != "#"]
    known = {f"CACHE_PIPELINE_{name.upper()}" for name in Settings.model_fields}
    assert {name.partition("__")[0] for name in named} <= known
    yaml.safe_load((tmp_path / "workspace.yaml").read_text())
