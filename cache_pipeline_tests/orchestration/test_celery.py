"""Tests of runs on two Celery workers with one quota, set up by dagster.celery.yaml and dagster_celery_config.py."""

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
    declaration,
    materialized,
    open_bench,
    set_account,
)

pytestmark = pytest.mark.serial

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAYS = [f"2024-06-{day:02}" for day in range(3, 6)]
SECONDS = 240.0
CLIENTS = 2
#: The vendor's limit for one client; the days' requests fill it several times.
REQUESTS, WINDOW_SECONDS = 12, 8.0
REQUESTS_A_DAY = 24


@contextmanager
def running(log: Path, *command: str | Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a process; end it and its children when the block ends."""
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


def wait_until(event: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {event}"
        time.sleep(0.2)


@pytest.fixture
def celery_home(servers: pytest.MonkeyPatch, redis_database: str, tmp_path: Path) -> Path:
    """Set a DAGSTER_HOME with the project's Celery profile and faster run monitoring."""
    folder = tmp_path / "home"
    folder.mkdir()
    config = yaml.safe_load((PROJECT / "dagster.celery.yaml").read_text())
    # A run may also be lost before it has started, when the runtime limit does not apply.
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


def _workers_whose_log_has(folder: Path, *words: str) -> set[str]:
    logs = {path.stem: path.read_text() for path in folder.glob("w*.log")}
    return {name for name, text in logs.items() if all(word in text for word in words)}


@pytest.mark.skipif(
    not os.environ.get("CACHE_PIPELINE_TEST_CELERY"),
    reason="waits minutes until lost runs time out: set CACHE_PIPELINE_TEST_CELERY=1 to run it",
)
@pytest.mark.timeout(900)
def test_two_celery_workers_share_backfill_and_quota_despite_kill(
    servers: pytest.MonkeyPatch, celery_home: Path, tmp_path: Path
) -> None:
    vendor = SMALL_VENDOR.model_copy(update={"genesys_rate_limit": REQUESTS, "rate_window_seconds": WINDOW_SECONDS})
    with open_bench(servers, tmp_path, declaration(max_query_interval="PT1H"), vendor) as bench, ExitStack() as stack:
        limits = {"rate_limit": REQUESTS, "window_seconds": WINDOW_SECONDS}
        set_account(servers, "genesys", str(bench.admin.base_url).rstrip("/"), **limits)
        killed_worker = _worker(stack, celery_home, "w1")
        _worker(stack, celery_home, "w2")
        stack.enter_context(running(celery_home / "daemon.log", BIN / "dagster-daemon", "run", "-w", "workspace.yaml"))
        # A worker that starts after the other has finished all runs would take none.
        wait_until("both workers wait for runs", lambda: _workers_whose_log_has(celery_home, "ready.") == {"w1", "w2"})
        _launch()
        with dg.DagsterInstance.get() as instance:
            wait_until(
                "both workers have taken runs",
                lambda: _workers_whose_log_has(celery_home, "execute_job", "received") == {"w1", "w2"},
            )
            wait_until("the vendor's windows are filling", lambda: _summary(bench)["sync_queries"] > REQUESTS)
            os.killpg(killed_worker.pid, signal.SIGKILL)
            wait_until("the lost run is failed and the others end", lambda: not instance.get_runs(_UNFINISHED, limit=1))
            if _in_every_tier(bench, instance) != set(DAYS):
                _launch()
            wait_until("every day is in every tier", lambda: _in_every_tier(bench, instance) == set(DAYS))
        # Nothing is provisional but quiet hours, whose empty answers need a second look.
        coverage = bench.coverage()
        assert coverage.final | coverage.awaits_second_look == IntervalSet([bench.interval(DAYS[0], DAYS[-1])])
        assert coverage.provisional == coverage.awaits_second_look
        counters = bench.admin.get("/simulator/counters").json()
        assert counters["summary"]["rejected_429"] == 0
        assert counters["summary"]["sync_queries"] >= len(DAYS) * REQUESTS_A_DAY
        # With idle windows, two workers that did not share the quota would have had no 429 either.
        assert len(counters["peak_window_share"]) == CLIENTS
        assert min(counters["peak_window_share"].values()) > 0.5


def _summary(bench: Bench) -> dict[str, int]:
    return bench.admin.get("/simulator/counters").json()["summary"]


_UNFINISHED = dg.RunsFilter(
    statuses=[getattr(dg.DagsterRunStatus, name) for name in ("QUEUED", "STARTING", "STARTED", "CANCELING")]
)


def _launch() -> None:
    """Launch from the command line what the UI's backfill launches."""
    command = [BIN / "dagster", "job", "backfill", "-w", "workspace.yaml", "-j", "calls_hour_job", "--noprompt"]
    # Only the runtime limit distinguishes a worker that is lost with its machine from a busy one.
    tags = '{"dagster/max_runtime": "60"}'
    days = ["--from", DAYS[0], "--to", DAYS[-1], "--tags", tags]
    subprocess.run([*command, *days], cwd=PROJECT, check=True, capture_output=True, timeout=SECONDS)


def _in_every_tier(bench: Bench, instance: dg.DagsterInstance) -> set[str]:
    return set.intersection(*(materialized(instance, bench.key(layer)) for layer in LAYERS))
