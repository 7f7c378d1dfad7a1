"""Tests that a command imports only what it needs, and that what `--help` shows without imports is true."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cache_pipeline.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
#: Packages that take long to import, or that only some commands need.
HEAVY = {
    "adbc_driver_postgresql",
    "alembic",
    "cryptography",
    "dagster",
    "fastapi",
    "httpx",
    "numpy",
    "obstore",
    "pandas",
    "prometheus_client",
    "psycopg",
    "pyarrow",
    "pydantic",
    "redis",
    "rich",
    "sqlalchemy",
    "starlette",
    "taskiq",
    "tenacity",
    "uvicorn",
    "yaml",
}


def imported_by(code):
    """Return the top-level modules that a new process has after the code."""
    probe = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN = "import sys; from cache_pipeline.cli.main import main; sys.argv = ['cache-pipeline', {}]\ntry: main()\nexcept SystemExit: pass"


@pytest.mark.parametrize("arguments", ["'--help'", "'--version'", "'no-such-command'"])
def test_help_imports_nothing_heavy(arguments):
    assert imported_by(RUN.format(arguments)) & HEAVY == set()


def test_help_of_every_command_is_true():
    context = click.Context(cli)
    for name, short_help in cli.short_helps().items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(limit=200) == short_help
    assert cli.list_commands(context) == sorted(cli.short_helps())


def test_help_lists_every_command():
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=200).output
    for name, short_help in cli.short_helps().items():
        assert f"  {name} " in shown
        assert " ".join(short_help.split()) in " ".join(shown.split())


def test_hot_answer_imports_no_other_store(servers, simulator_url, tmp_path, monkeypatch):
    """A hot answer needs Redis alone: neither history, nor migrations, nor what fetches from the vendor."""
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(REPOSITORY / "reports"))
    # The answer expires within five seconds, so this process only makes sure that it is in the hot tier under our key.
    code = f"""
import asyncio, sys

from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.stores import open_hot_tier
from cache_pipeline.cli.query import _hot_answer
from cache_pipeline.query.query_request import NO_OVERRIDES, resolve_request
from cache_pipeline.settings import read_settings
settings = read_settings()
report = load_reports(settings)["queue_day"]
request = resolve_request(report, "{(datetime.now(UTC) - timedelta(days=3)):%Y-%m-%d}/P1D", NO_OVERRIDES, ())
assert asyncio.run(_hot_answer(settings, request)) is None
"""
    # The Redis driver looks whether cryptography is installed.
    assert imported_by(code) & HEAVY - {"cryptography", "pydantic", "redis", "yaml"} == set()


@pytest.mark.parametrize("process", ["cache_pipeline.api.server", "cache_pipeline.api.jobs.worker_process"])
def test_idle_processes_hold_no_arrow(process):
    """Arrow and NumPy take 50 MB, which a process needs only once it reads rows; the others likewise."""
    unneeded = {
        "alembic",
        "dagster",
        "httpx",
        "numpy",
        "obstore",
        "pandas",
        "pyarrow",
        "rich",
        "sqlalchemy",
        "tenacity",
    }
    assert imported_by(f"import {process}") & unneeded == set()


def test_worker_imports_no_web_server():
    imported = imported_by("import cache_pipeline.api.jobs.worker_process")
    assert imported & {"prometheus_client", "uvicorn"} == set()


def test_code_location_imports_only_what_dagster_does():
    """A code location reads declarations and builds definitions; stores and vendors are for the processes that run steps."""
    own = imported_by("import cache_pipeline.definitions") - imported_by("import dagster")
    assert own & (HEAVY | {"opentelemetry", "psycopg_pool", "pythonjsonlogger"}) == set()
