"""Tests of the backfill process: its progress, its outcome, and its errors."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cache_pipeline.errors import QueryError, UnknownReport
from cache_pipeline.orchestration.backfill import main, run_backfill
from cache_pipeline_tests.orchestration.workbench import Bench

FIRST, END = date(2024, 6, 10), date(2024, 6, 12)
CHECKS = {
    *(f"calls_hour/staged:{name}" for name in ("completeness", "schema", "watermark")),
    "calls_hour/history:drift",
    "calls_hour/history:no_open_partitions",
    "calls_hour/edge:tiers_agree",
}


class Messages(list[dict[str, object]]):
    """Collects the progress messages of a backfill."""

    def __call__(self, message: dict[str, object]) -> None:
        self.append(message)


def test_backfill_reports_progress_and_one_outcome(bench: Bench, home: Path) -> None:
    messages = Messages()
    outcome = run_backfill("calls_hour", FIRST, END, messages)
    assert messages == [{"done": number, "total": 2} for number in (1, 2)]
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(outcome["run_id"])
    assert run is not None, "the run must appear in the UI"
    assert run.is_success
    assert run.tags["cache_pipeline/lane"] == "backfill"
    checks = {check["check"]: (check["passed"], check["failed_before"]) for check in outcome["checks"]}
    assert checks == dict.fromkeys(CHECKS, (True, 0))
    assert {name: value for name, value in outcome.items() if name not in ("run_id", "checks")} == {
        "report": "calls_hour",
        "success": True,
        "partitions": 2,
        "error": "",
    }
    assert bench.count_queries() == 2

    repeated = Messages()
    assert run_backfill("calls_hour", FIRST, END, repeated)["success"]
    assert repeated == [], "all partitions were staged already"
    assert bench.count_queries() == 0


def test_backfill_outcome_shows_error_and_earlier_failures(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.inject_faults(max_rows=1)
    assert main(["calls_hour", "2024-06-10", "2024-06-11"]) == 1
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcome = lines[-1]["outcome"]
    assert not outcome["success"]
    assert outcome["error"].startswith("1 of 1 partitions of calls_hour failed; 2024-06-10: ")
    assert "\n" not in outcome["error"]
    completeness = next(check for check in outcome["checks"] if check["check"].endswith(":completeness"))
    assert not completeness["passed"]

    bench.inject_faults(max_rows=40)
    assert main(["calls_hour", "2024-06-10", "2024-06-11", "--exclusive"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"done": 1, "total": 1}
    repaired = lines[-1]["outcome"]
    assert repaired["success"]
    checks = {check["check"]: (check["passed"], check["failed_before"]) for check in repaired["checks"]}
    name = "calls_hour/staged:completeness"
    assert checks[name][0]
    # Truncations that parts make up for are warnings; only the first run's failure counts.
    assert checks[name][1] == 1
    assert checks == {**dict.fromkeys(CHECKS, (True, 0)), name: checks[name]}


def test_exclusive_backfill_fails_runs_of_killed_processes(bench: Bench, home: Path) -> None:
    job = bench.definitions().resolve_job_def("calls_hour_job")
    with dg.DagsterInstance.get() as instance:
        killed = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
        assert run_backfill("calls_hour", FIRST, date(2024, 6, 11), Messages(), exclusive=True)["success"]
        statuses = {run_id: instance.get_run_by_id(run_id) for run_id in (killed.run_id, other.run_id)}
    found = {run_id: run.status for run_id, run in statuses.items() if run is not None}
    assert found == {killed.run_id: dg.DagsterRunStatus.FAILURE, other.run_id: dg.DagsterRunStatus.NOT_STARTED}


def test_unknown_report_error_lists_declared_reports(bench: Bench, home: Path) -> None:
    with pytest.raises(UnknownReport, match="there is no report 'calls'; declared reports: calls_hour"):
        run_backfill("calls", FIRST, END, Messages())


def test_days_without_partitions_are_refused(bench: Bench, home: Path) -> None:
    with pytest.raises(
        QueryError, match=r"calls_hour has no partition .* 2023-06-10/2023-06-12; its first is 2024-01-01"
    ):
        run_backfill("calls_hour", date(2023, 6, 10), date(2023, 6, 12), Messages())
