"""`backfill`: 100 daily partitions in one Dagster run, compared with the quota's limit and with one run per partition."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
from pydantic import SecretStr

from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.accounts import open_quotas
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import StandaloneSettings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings

_PARTITIONS = 100
_SINGLE_RUNS = 3
_LIMIT, _WINDOW_SECONDS = 30, 10.0
_REPORT = """\
name: offered_day
description: Offered by queue, by day
platform: genesys
query_type: conversations
granularity: P1D
group_by: [queueId]
metrics: [nOffered]
volume_metric: nOffered
partition: day
start: 2020-01-01
fetch:
  delivery: sync
  max_query_interval: P1D
  expected_groups: 1
"""


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark: one run of the whole range, and some runs of one day.

    Raises:
        BenchmarkError: A backfill failed or sent fewer requests than it must.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "reports").mkdir()
        (folder / "reports" / "offered_day.yaml").write_text(_REPORT)
        shutil.copy(Path(__file__).parents[1] / "dagster.yaml", folder)
        progress("starting servers")
        vendor_settings = SimulatorSettings(genesys_rate_limit=_LIMIT, rate_window_seconds=_WINDOW_SECONDS)
        with embedded_servers(folder / "servers") as stores, simulator_process(vendor_settings) as vendor:
            environment = _environment(folder, stores.postgres_url, stores.redis_url, vendor)
            return Result("backfill", tuple(_rows(progress, folder, environment, vendor)))


def _environment(folder: Path, postgres_url: str, redis_url: str, vendor: str) -> dict[str, str]:
    account = {
        "base_url": vendor,
        "login_url": f"{vendor}/oauth/token",
        "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
        "rate_limit": _LIMIT,
        "window_seconds": _WINDOW_SECONDS,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_PIPELINE_")}
    return {
        **inherited,
        "DAGSTER_HOME": str(folder),
        "CACHE_PIPELINE_POSTGRES_URL": postgres_url,
        "CACHE_PIPELINE_REDIS_URL": redis_url,
        "CACHE_PIPELINE_REPORTS_DIR": str(folder / "reports"),
        "CACHE_PIPELINE_DATA_DIR": str(folder / "data"),
        "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": json.dumps(account),
    }


def _rows(progress: ProgressCallback, folder: Path, environment: dict[str, str], vendor: str) -> list[Row]:
    last = datetime.now(UTC).date() - timedelta(days=2)
    first = last - timedelta(days=_PARTITIONS)
    progress(f"{_PARTITIONS} partitions in one run")
    full_range = _run_backfill(folder, environment, vendor, first, last)
    if full_range.calls < _PARTITIONS:
        raise BenchmarkError(f"{full_range.calls} requests for {_PARTITIONS} days")
    single = list[float]()
    for number in range(_SINGLE_RUNS):
        progress(f"a run of one partition, {number + 1} of {_SINGLE_RUNS}")
        day = first - timedelta(days=2 + number)
        single.append(_run_backfill(folder, environment, vendor, day, day + timedelta(days=1)).wall)
    allowed = full_range.calls / asyncio.run(_granted_requests_per_second(environment))
    return [
        Row(
            f"{_PARTITIONS} partitions in one run, without launch; limit: {full_range.calls} requests at the backfill "
            "lane's quota",
            round(full_range.wall - full_range.launch, 1),
            "s",
            limit=round(allowed, 1),
            target=Target("ratio", "<=", 1.1),
        ),
        Row(
            "launch by Dagster: the process, the plan, and an event for each planned partition", full_range.launch, "s"
        ),
        Row("requests refused with 429", full_range.refused, "answers", target=Target("ours", "=", 0)),
        Row(
            f"launch and run in a new process (peer: {_SINGLE_RUNS} runs of one partition, times "
            f"{_PARTITIONS / _SINGLE_RUNS:.0f})",
            round(full_range.wall, 1),
            "s",
            {"one run per partition": round(sum(single) / _SINGLE_RUNS * _PARTITIONS, 1)},
        ),
    ]


@dataclass(frozen=True)
class _FinishedBackfill:
    """A finished backfill.

    Attributes:
        wall: Seconds from the start of the process to its end.
        launch: Seconds until Dagster recorded the start of the run.
        calls: Requests that the vendor counted.
        refused: Requests that the vendor refused with 429.
    """

    wall: float
    launch: float
    calls: int
    refused: int


def _run_backfill(folder: Path, environment: dict[str, str], vendor: str, first: date, end: date) -> _FinishedBackfill:
    httpx.delete(f"{vendor}/simulator/counters").raise_for_status()
    command = [sys.executable, "-m", "cache_pipeline.orchestration.backfill", "offered_day", str(first), str(end)]
    started = time.time()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    wall = time.time() - started
    if done.returncode:
        raise BenchmarkError(f"the backfill exited with {done.returncode}: {done.stdout[-500:]} {done.stderr[-1500:]}")
    run_id = json.loads(done.stdout.splitlines()[-1])["outcome"]["run_id"]
    with psycopg.connect(environment["CACHE_PIPELINE_POSTGRES_URL"]) as connection:
        row = connection.execute("SELECT start_time FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    if row is None:
        raise BenchmarkError(f"Dagster has no run {run_id}")
    summary = httpx.get(f"{vendor}/simulator/counters").json()["summary"]
    return _FinishedBackfill(wall, round(row[0] - started, 1), summary["requests"], summary["rejected_429"])


async def _granted_requests_per_second(environment: dict[str, str]) -> float:
    """Return the requests per second that the quota grants the backfill lane."""
    settings = StandaloneSettings(
        redis_url=SecretStr(environment["CACHE_PIPELINE_REDIS_URL"]),
        accounts={
            "genesys": {
                "main": VendorAccount.model_validate_json(environment["CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN"])
            }
        },
    )
    async with open_quotas(settings) as quotas:
        policy, _ = quotas["genesys"]
        return policy.slots(Lane.backfill) / policy.guarded_window_seconds
