"""Tests of runs that are terminated or killed: they leave nothing partial, and the next run finishes them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pyarrow.compute as pc
import pytest
import yaml

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.orchestration.partitions import partition_intervals, range_tags
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.settings import read_settings
from cache_pipeline.storage.postgres.history import open_history
from cache_pipeline_tests.orchestration.workbench import (
    LAYERS,
    SMALL_VENDOR,
    Bench,
    job_declaration,
    materialized,
    open_bench,
    step_failures,
)

PROJECT = Path(__file__).parents[2]
DAYS = [f"2024-06-{day:02}" for day in range(3, 11)]
#: Queries take 0.1 to 4 seconds, so that some partitions are finished long before others.
VENDOR = SMALL_VENDOR.model_copy(update={"job_seconds_base": 2.0, "job_seconds_variation": 0.95})
SECONDS = 100.0

pytestmark = [pytest.mark.timeout(300), pytest.mark.system]


@pytest.fixture
def bench(servers: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Bench]:
    """Open a bench whose partitions are one slow query each."""
    with open_bench(servers, tmp_path, job_declaration(expected_groups=1), VENDOR) as bench:
        yield bench


@contextmanager
def run_process(folder: Path, *command: str) -> Generator["subprocess.Popen[str]"]:
    """Run a process; kill it and its children when the block ends."""
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, dg.DagsterRunStatus.FAILURE), (signal.SIGKILL, dg.DagsterRunStatus.STARTED)],
)
def test_next_run_finishes_a_killed_backfill(
    bench: Bench, home: Path, number: signal.Signals, status: dg.DagsterRunStatus
) -> None:
    days = ("queue_hour", DAYS[0], "2024-06-11")
    with run_process(home, "cache_pipeline.orchestration.backfill", *days) as process:
        for _ in range(2):
            assert process.stdout is not None
            assert process.stdout.readline().startswith('{"done"'), (home / "err").read_text()
        process.send_signal(number)
        process.wait(SECONDS)
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status is status
        _assert_nothing_partial(bench, instance)
        _finish_with_next_run(bench, instance)


LAUNCH_RUN = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
TERMINATE_RUN = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"


def test_next_run_finishes_a_run_terminated_in_ui(bench: Bench, home: Path) -> None:
    config = yaml.safe_load((home / "dagster.yaml").read_text())
    # Without a daemon, queued runs would never start.
    config["run_coordinator"] = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    port = _free_port()
    serve = ("dagster_webserver", "-w", str(PROJECT / "workspace.yaml"), "-p", str(port), "-h", "127.0.0.1")
    with (
        run_process(home, *serve),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as ui,
        dg.DagsterInstance.get() as instance,
    ):
        _wait_until("the UI answers", lambda: _answers(ui))
        run_id = _launch(ui)
        _wait_until("two days are staged", lambda: len(bench.staged_files()) > 1)
        assert _query(ui, TERMINATE_RUN, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
        _wait_until("the run ends", lambda: instance.get_runs()[0].is_finished)
        assert instance.get_runs()[0].status is dg.DagsterRunStatus.CANCELED
        _assert_nothing_partial(bench, instance)
        _finish_with_next_run(bench, instance)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until(event: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {event}"
        time.sleep(0.1)


def _answers(ui: httpx.Client) -> bool:
    try:
        return ui.get("/server_info").status_code == 200
    except httpx.TransportError:
        return False


def _query(ui: httpx.Client, query: str, **variables: Any) -> dict[str, Any]:
    answer = ui.post("/graphql", json={"query": query, "variables": variables}).json()
    assert "errors" not in answer, answer
    return answer["data"]


def _launch(ui: httpx.Client) -> str:
    tags = [{"key": key, "value": value} for key, value in range_tags(DAYS[0], DAYS[-1]).items()]
    location = {"repositoryLocationName": "cache_pipeline", "repositoryName": "__repository__"}
    params = {
        "selector": {**location, "pipelineName": "queue_hour_job"},
        "mode": "default",
        "executionMetadata": {"tags": tags},
    }
    launched = _query(ui, LAUNCH_RUN, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def _assert_nothing_partial(bench: Bench, instance: dg.DagsterInstance) -> None:
    """Check that every partition that is recorded as done is complete, and that no other is recorded."""
    done = materialized(instance, bench.key("staged"))
    assert 2 <= len(done) < len(DAYS)
    assert bench.staged_files() == done
    published = materialized(instance, bench.key("history"))
    assert published <= done
    assert bench.coverage().final == IntervalSet(partition_intervals(bench.partitions, published).values())
    assert bench.coverage().provisional == IntervalSet()


def _finish_with_next_run(bench: Bench, instance: dg.DagsterInstance) -> None:
    """Run again; check that every day is in every tier, and that no day was fetched twice."""
    next_run = bench.run(instance, DAYS[0], DAYS[-1])
    assert next_run.success, step_failures(next_run)
    assert bench.count_queries() == len(DAYS)
    for layer in LAYERS:
        assert materialized(instance, bench.key(layer)) == set(DAYS)
    assert bench.coverage().final == IntervalSet([bench.interval(DAYS[0], DAYS[-1])])
    with open_history(read_settings().required_postgres_url()) as history:
        for day in DAYS:
            rows = history.read(bench.series, bench.interval(day), report_columns(bench.report))
            assert pc.sum(rows["offered"]).as_py() == bench.vendor_total(bench.interval(day))
