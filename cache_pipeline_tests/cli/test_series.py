"""Tests of `series list` and `series drop` on a history of several declarations."""

import json
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports, report_columns
from cache_pipeline.cli.main import main
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import open_history

REPORTS = Path(__file__).parents[2] / "reports"
DAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")


@pytest.fixture
def run_series(servers, tmp_path, monkeypatch, capsys):
    shutil.copy(REPORTS / "queue_day.yaml", tmp_path)
    monkeypatch.setenv("CACHE_PIPELINE_REPORTS_DIR", str(tmp_path))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cache-pipeline", "series", *arguments])
        main()
        return capsys.readouterr().out

    return run


def store(report: Report) -> Series:
    """Store a row of a report whose dimensions are null."""
    series, schema = Series(report), to_arrow_schema(report_columns(report))
    start = {"interval_start": DAY.start, "interval_end": DAY.end}
    row = start | {each.name: None if each.nullable else 1 for each in schema if each.name not in start}
    rows = Rows.from_table(pa.Table.from_pylist([row], schema))
    settings = read_settings()
    migrate_history(settings, {report.name: report})
    with open_history(settings.required_postgres_url()) as history:
        history.replace(
            Replacement(
                series, IntervalSet([DAY]), IntervalSet(), rows, DAY.end, (FetchTime(IntervalSet([DAY]), DAY.end),)
            )
        )
    return series


def test_old_series_is_listed_and_dropped_without_the_current_one(run_series, capsys):
    report = load_reports(read_settings())["queue_day"]
    current = store(report)
    old = store(report.model_copy(update={"group_by": ()}))
    store(report.model_copy(update={"metrics": report.metrics[:1]}))
    listed = {each["id"]: each for each in json.loads(run_series("list", "--json"))}
    assert {name: each["current"] for name, each in listed.items()} == {current.id: True, old.id: False}
    assert old.id in run_series("list")
    assert run_series("drop", old.id) == f"series {old.id} of queue_day dropped, 1 rows\n"
    assert [each["id"] for each in json.loads(run_series("list", "--json"))] == [current.id]
    with psycopg.connect(read_settings().required_postgres_url()) as connection:
        assert connection.execute("SELECT DISTINCT series FROM history.queue_day").fetchall() == [(current.id,)]
        assert connection.execute(
            "SELECT count(*) FROM cache_pipeline_state.fetch_time WHERE series = %s", [old.id]
        ).fetchone() == (0,)


def test_metric_that_is_no_longer_declared_is_named(run_series, tmp_path):
    report = load_reports(read_settings())["queue_day"]
    series = store(report)
    declaration = (tmp_path / "queue_day.yaml").read_text()
    assert ", acwMs]" in declaration
    (tmp_path / "queue_day.yaml").write_text(declaration.replace(", acwMs]", "]"))
    [listed] = json.loads(run_series("list", "--json"))
    assert (listed["id"], listed["current"], listed["undeclared"]) == (series.id, True, ["acwMs"])


@pytest.mark.parametrize(
    ("which", "problem"), [("current", "is the current series of queue_day"), ("unknown", "no series")]
)
def test_series_that_cannot_be_dropped_is_refused(run_series, capsys, which, problem):
    current = store(load_reports(read_settings())["queue_day"])
    with pytest.raises(SystemExit) as ended:
        run_series("drop", current.id if which == "current" else "0" * 32)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_changes_show_both_values_and_their_fetches(run_series, tmp_path, capsys):
    path = tmp_path / "queue_day.yaml"
    with pytest.raises(SystemExit):
        run_series("changes", "queue_day", "2026-01-05/P1D")
    assert "declare time_travel" in capsys.readouterr().err
    path.write_text(path.read_text() + "\ntime_travel: P90D\n")
    settings = read_settings()
    reports = load_reports(settings)
    migrate_history(settings, reports)
    report = reports["queue_day"]
    interval = Interval.parse("2026-01-05/P1D", report.zone)
    columns = report_columns(report)
    figure = next(column.name for column in columns if column.kind == "integer")
    with open_history(settings.required_postgres_url()) as history:
        for fetch, queues in enumerate(({"q1": 5, "q2": 3}, {"q1": 7, "q3": 1})):
            rows = [
                {
                    "interval_start": interval.start,
                    "interval_end": interval.end,
                    **{column.name: None if column.kind == "dimension" else 0 for column in columns},
                    "queue_id": queue,
                    figure: value,
                }
                for queue, value in queues.items()
            ]
            table = pa.Table.from_pylist(rows, to_arrow_schema(columns))
            known = IntervalSet([interval])
            at = FetchTime(known, interval.end + timedelta(days=fetch))
            history.replace(
                Replacement(Series(report), known, IntervalSet(), Rows.from_table(table), interval.end, (at,))
            )
    found = json.loads(run_series("changes", "queue_day", "2026-01-05/P1D"))
    shown = {
        each["group"]["queue_id"]: tuple(values and values[figure] for values in (each["before"], each["after"]))
        for each in found
    }
    assert shown == {"q1": (5, 7), "q2": (3, None), "q3": (None, 1)}
    [changed] = [each for each in found if each["group"]["queue_id"] == "q1"]
    assert datetime.fromisoformat(changed["refetchedAt"]) - datetime.fromisoformat(changed["fetchedAt"]) == timedelta(
        days=1
    )
    assert json.loads(run_series("changes", "queue_day", "2026-01-05/P1D", "--since", "2126-01-01T00:00:00Z")) == []
