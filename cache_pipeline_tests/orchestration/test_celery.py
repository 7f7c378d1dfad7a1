"""Runs on Celery workers, as dagster.celery.yaml and dagster_celery_config.py set them up: two of them, one quota."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from cache_pipeline.query.interval import IntervalSet
from cache_pipeline_tests.orchestration.workbench import (
    LAYERS,
    SMALL_VENDOR,
    Bench,
    bench_of,
    declared,
    materialized,
    set_account,
)

pytestmark = pytest.mark.serial

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAYS = [f"2024-06-{day:02}" for day in range(3, 6)]
SECONDS = 240.0
CLIENTS = 2
#: Of one client, by the vendor; the days' requests fill it several times over.
REQUESTS, WINDOW_SECONDS = 12, 8.0
REQUESTS_A_DAY = 24


@contextmanager
def running(log: Path, *command: str | Path) -> Generator[subprocess.Popen[bytes]]:
    """A process with children of its own, all of which are gone at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=out, stderr=out, start_new_session=True)
        try:
            yield process
        finally:
            for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(patience)
                    except subprocess.TimeoutExpired:
                        continue


def until(said: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {said}"
        time.sleep(0.2)


@pytest.fixture
def celery_home(servers: pytest.MonkeyPatch, redis_database: str, tmp_path: Path) -> Path:
    """A DAGSTER_HOME with the project's own profile, monitored faster."""
    folder = tmp_path / "home"
    folder.mkdir()
    config = yaml.safe_load((PROJECT / "dagster.celery.yaml").read_text())
    # A run may be lost before it has started too, which its runtime does not end.
    config["run_monitoring"] |= {"poll_interval_seconds": 1, "start_timeout_seconds": 30}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))
    servers.setenv("DAGSTER_HOME", str(folder))
    servers.setenv("CACHE_PIPELINE_CELERY_BROKER_URL", redis_database)
    servers.setenv("CACHE_PIPELINE_CELERY_BACKEND_URL", redis_database)
    return folder


def _worker(stack: ExitStack, folder: Path, name: str) -> subprocess.Popen[bytes]:
    celery = (BIN / "celery", "-A", "dagster_celery.app", "worker")
    return stack.enter_context(
        running(folder / f"{name}.log", *celery, "-Q", "dagster", "-c", "1", "-n", f"{name}@test", "-l", "info")
    )


def _workers_that_said(folder: Path, *words: str) -> set[str]:
    logs = {path.stem: path.read_text() for path in folder.glob("w*.log")}
    return {name for name, text in logs.items() if all(word in text for word in words)}


@pytest.mark.skipif(
    not os.environ.get("CACHE_PIPELINE_TEST_CELERY"),
    reason="waits minutes for lost runs to be given up: CACHE_PIPELINE_TEST_CELERY=1 runs it",
)
@pytest.mark.timeout(900)
def test_two_workers_share_a_backfill_and_the_quota_and_one_may_be_killed(
    servers: pytest.MonkeyPatch, celery_home: Path, tmp_path: Path
) -> None:
    vendor = SMALL_VENDOR.model_copy(update={"genesys_rate_limit": REQUESTS, "rate_window_seconds": WINDOW_SECONDS})
    with bench_of(servers, tmp_path, declared(max_query_interval="PT1H"), vendor) as bench, ExitStack() as stack:
        limits = {"requests_per_window": REQUESTS, "window_seconds": WINDOW_SECONDS}
        set_account(servers, "genesys", str(bench.admin.base_url).rstrip("/"), **limits)
        doomed = _worker(stack, celery_home, "w1")
        _worker(stack, celery_home, "w2")
        stack.enter_context(running(celery_home / "daemon.log", BIN / "dagster-daemon", "run", "-w", "workspace.yaml"))
        # A worker that starts later than the other has done all the runs would take none.
        until("both workers wait for runs", lambda: _workers_that_said(celery_home, "ready.") == {"w1", "w2"})
        _launch()
        with dg.DagsterInstance.get() as instance:
            until(
                "both workers have taken runs",
                lambda: _workers_that_said(celery_home, "execute_job", "received") == {"w1", "w2"},
            )
            until("the vendor's windows are filling", lambda: _summary(bench)["sync_queries"] > REQUESTS)
            os.killpg(doomed.pid, signal.SIGKILL)
            until("the lost run is failed and the others end", lambda: not instance.get_runs(_UNFINISHED, limit=1))
            if _everywhere(bench, instance) != set(DAYS):
                _launch()
            until("every day is in every tier", lambda: _everywhere(bench, instance) == set(DAYS))
        assert bench.coverage().final == IntervalSet([bench.interval(DAYS[0], DAYS[-1])])
        asked = bench.admin.get("/simulator/counters").json()
        assert asked["summary"]["rejected_429"] == 0
        assert asked["summary"]["sync_queries"] >= len(DAYS) * REQUESTS_A_DAY
        # Otherwise two workers that did not share the quota would have had no 429 either.
        assert len(asked["peak_window_share"]) == CLIENTS
        assert min(asked["peak_window_share"].values()) > 0.5


def _summary(bench: Bench) -> dict[str, int]:
    return bench.admin.get("/simulator/counters").json()["summary"]


_UNFINISHED = dg.RunsFilter(
    statuses=[getattr(dg.DagsterRunStatus, name) for name in ("QUEUED", "STARTING", "STARTED", "CANCELING")]
)


def _launch() -> None:
    """What the UI's backfill does, from the command line."""
    command = [BIN / "dagster", "job", "backfill", "-w", "workspace.yaml", "-j", "calls_hour_job", "--noprompt"]
    # A worker that is lost with its machine is told from a busy one by this alone.
    tags = '{"dagster/max_runtime": "60"}'
    days = ["--from", DAYS[0], "--to", DAYS[-1], "--tags", tags]
    subprocess.run([*command, *days], cwd=PROJECT, check=True, capture_output=True, timeout=SECONDS)


def _everywhere(bench: Bench, instance: dg.DagsterInstance) -> set[str]:
    return set.intersection(*(materialized(instance, bench.key(layer)) for layer in LAYERS))
