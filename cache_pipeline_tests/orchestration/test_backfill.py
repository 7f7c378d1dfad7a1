"""A range backfill of one report: its progress while it runs, and its outcome as one record."""

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
    *(f"staged/calls_hour:{name}" for name in ("completeness", "schema", "watermark")),
    "history/calls_hour:drift",
    "history/calls_hour:no_open_partitions",
    "edge/calls_hour:tiers_agree",
}


class Heard(list[dict[str, object]]):
    """What a backfill said."""

    def __call__(self, message: dict[str, object]) -> None:
        self.append(message)


def test_a_backfill_tells_each_staged_partition_and_ends_in_one_outcome(bench: Bench, home: Path) -> None:
    said = Heard()
    outcome = run_backfill("calls_hour", FIRST, END, said)
    assert said == [{"done": number, "total": 2} for number in (1, 2)]
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(outcome["run_id"])
    assert run is not None, "it is seen in the UI like any other run"
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
    assert bench.asked() == 2

    again = Heard()
    assert run_backfill("calls_hour", FIRST, END, again)["success"]
    assert again == [], "nothing was left to stage"
    assert bench.asked() == 0


def test_a_backfill_that_fails_says_why_in_one_line_and_one_that_passes_how_often_it_failed_before(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.fault(max_rows=1)
    assert main(["calls_hour", "2024-06-10", "2024-06-11"]) == 1
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    outcome = lines[-1]["outcome"]
    assert not outcome["success"]
    assert outcome["error"].startswith("1 of 1 partitions of calls_hour failed; 2024-06-10: ")
    assert "\n" not in outcome["error"]
    complete = next(check for check in outcome["checks"] if check["check"].endswith(":completeness"))
    assert not complete["passed"]

    bench.fault(max_rows=40)
    assert main(["calls_hour", "2024-06-10", "2024-06-11", "--exclusive"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"done": 1, "total": 1}
    mended = lines[-1]["outcome"]
    assert mended["success"]
    checks = {check["check"]: (check["passed"], check["failed_before"]) for check in mended["checks"]}
    name = "staged/calls_hour:completeness"
    assert checks[name][0]
    assert checks[name][1] > 1
    assert checks == {**dict.fromkeys(CHECKS, (True, 0)), name: checks[name]}


def test_alone_it_fails_the_run_of_a_process_that_was_killed(bench: Bench, home: Path) -> None:
    job = bench.definitions().resolve_job_def("calls_hour_job")
    with dg.DagsterInstance.get() as instance:
        dead = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
        assert run_backfill("calls_hour", FIRST, date(2024, 6, 11), Heard(), exclusive=True)["success"]
        statuses = {run_id: instance.get_run_by_id(run_id) for run_id in (dead.run_id, other.run_id)}
    found = {run_id: run.status for run_id, run in statuses.items() if run is not None}
    assert found == {dead.run_id: dg.DagsterRunStatus.FAILURE, other.run_id: dg.DagsterRunStatus.NOT_STARTED}


def test_a_report_that_is_not_declared_is_named_with_those_that_are(bench: Bench, home: Path) -> None:
    with pytest.raises(UnknownReport, match="there is no report 'calls'; declared reports: calls_hour"):
        run_backfill("calls", FIRST, END, Heard())


def test_days_without_a_partition_are_refused_with_those_there_are(bench: Bench, home: Path) -> None:
    with pytest.raises(
        QueryError, match=r"calls_hour has no partition .* 2023-06-10/2023-06-12; its first is 2024-01-01"
    ):
        run_backfill("calls_hour", date(2023, 6, 10), date(2023, 6, 12), Heard())
