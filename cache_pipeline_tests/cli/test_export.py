"""Tests of `cache-pipeline export` as its own process: what it prints, writes and connects to, and that a kill does no harm."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.cli.main import main
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history

REPORTS = Path(__file__).parents[2] / "reports"
HALF_YEAR = Interval.parse("2026-01-01T00:00:00Z/2026-07-01T00:00:00Z")
SECRET = "planted-secret-value"
#: Runs the command line, and reports each connection to another machine.
GUARDED = """
import ipaddress, sys
from cache_pipeline.cli.main import main

def report_connection(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
        if isinstance(host, str) and host != "localhost" and not host.startswith(("/", "127.", "::1")):
            sys.stderr.write(f"connects to {host}\\n")

sys.addaudithook(report_connection)
main()
"""


@pytest.fixture
def environment(servers, tmp_path, monkeypatch):
    """Store half a year of a report, and return the environment of an export of it."""
    report_dir = tmp_path / "reports"
    report_dir.mkdir()
    text = (REPORTS / "queue_day.yaml").read_text()
    (report_dir / "queue_day.yaml").write_text(text)
    home = tmp_path / "home"
    home.mkdir()
    changes = {
        "CACHE_PIPELINE_REPORTS_DIR": str(report_dir),
        "CACHE_PIPELINE_DATA_DIR": str(tmp_path / "data"),
        "CACHE_PIPELINE_WAREHOUSE_URL": f"duckdb://{tmp_path}/warehouse.duckdb",
        "HOME": str(home),
    }
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    store(HALF_YEAR)
    return os.environ.copy()


def store(interval: Interval, figure: int = 1, minutes: int = 0) -> None:
    """Store one row for each day of an interval."""
    settings = read_settings()
    reports = load_reports(settings)
    report = reports["queue_day"]
    migrate_history(settings, reports)
    schema = to_arrow_schema(report_columns(report))
    days = [interval.start + timedelta(days=number) for number in range(interval.length.days)]
    rows = [
        {"interval_start": day, "interval_end": day + timedelta(days=1)}
        | {field.name: None if field.nullable else figure for field in schema if not field.name.startswith("interval")}
        for day in days
    ]
    fetched = FetchTime(IntervalSet([interval]), HALF_YEAR.end + timedelta(minutes=minutes))
    with open_history(settings.required_postgres_url()) as history:
        table = Rows.from_table(pa.Table.from_pylist(rows, schema))
        series = Series(report, settings.tenant)
        history.replace(Replacement(series, IntervalSet([interval]), IntervalSet(), table, interval.end, (fetched,)))


def exported(tmp_path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        return connection.execute(
            "SELECT epoch(interval_start), offered, is_final FROM cache_pipeline.queue_day ORDER BY 1"
        ).fetchall()


def view_rows() -> list[tuple[object, ...]]:
    with psycopg.connect(read_settings().required_postgres_url()) as connection:
        return connection.execute(
            "SELECT extract(epoch FROM interval_start)::float8, offered, is_final FROM reporting.queue_day ORDER BY 1"
        ).fetchall()


def test_killed_export_resumes_and_equals_history(environment, tmp_path):
    command = [sys.executable, "-c", "from cache_pipeline.cli.main import main; main()", "export", "queue_day"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("queue_day: 20")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    store(Interval.parse("2026-02-10T00:00:00Z/2026-02-12T00:00:00Z"), figure=5, minutes=5)
    done = subprocess.run([sys.executable, "-c", GUARDED, "export", "queue_day"], env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "connects to" not in done.stderr
    assert "unchanged" in done.stdout
    assert not done.stdout.rstrip().endswith(" 0 unchanged"), "what was recorded before the kill is not sent again"
    assert exported(tmp_path) == view_rows()
    assert list((tmp_path / "home").rglob("*")) == [], "dlt keeps its files in the deployment's folder"
    assert list((tmp_path / "data" / "warehouse").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["export", "queue_day", "--to", f"oracle://u:{SECRET}@h/d"], "expected one of az://"),
        (["export", "queue_day", "--to", f"postgresql://u:{SECRET}@127.0.0.1:1/d"], "cannot be used"),
        (["export", "no_such_report"], "no_such_report"),
        (["export"], "no report declares publish.warehouse"),
        (["export", "queue_day", "--interval", "yesterday"], "interval"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_bad_input_is_one_line(monkeypatch, capsys, arguments, problem):
    monkeypatch.setattr(sys, "argv", ["cache-pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert len(error.splitlines()) == 1
    assert SECRET not in error
