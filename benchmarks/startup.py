"""`startup`: processor time of commands that do little, of loading the code location, and memory of idle processes.

Processor time is that of the whole child process, user and system, less that of `python -c pass`; the least of some runs, because
other work on the machine only lengthens it. The hot answer is put into a real Redis beforehand. The code location's peer is a Dagster project of one asset, job, schedule and sensor for
each report.
"""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from pydantic import SecretStr
from redis.asyncio import Redis

from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.embedded import EmbeddedServers, embedded_servers
from cache_pipeline.query.query_request import NO_OVERRIDES, resolve_request
from cache_pipeline.service.clipping import clip_request
from cache_pipeline.settings import Settings, StandaloneSettings
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.redis.hot import RedisHotTier
from cache_pipeline.storage.ttl import HOT_TTL_TIER

_ROOT = Path(__file__).parents[1]
_RUNS = 7
_READY_SECONDS = 120.0
_SETTLE_SECONDS = 5.0
_COMMAND = (sys.executable, "-c", "from cache_pipeline.cli.main import main; main()")
_PEER = "minimal Dagster project"
_MINIMAL = """
import dagster as dg
def definitions(name):
    @dg.asset(name=name, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def asset(): ...
    job = dg.define_asset_job(f"{name}_job", [asset])
    @dg.sensor(name=f"{name}_sensor", job=job)
    def sensor(): ...
    schedule = dg.ScheduleDefinition(name=f"{name}_schedule", job=job, cron_schedule="0 0 * * *")
    return dg.Definitions(assets=[asset], jobs=[job], sensors=[sensor], schedules=[schedule])
defs = dg.Definitions.merge(*(definitions(f"report_{number}") for number in range(4)))
"""
_LOAD = "defs.get_repository_def().load_all_definitions()"


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A process failed.
    """
    with tempfile.TemporaryDirectory() as name, simulator_process(SimulatorSettings()) as vendor:
        folder = Path(name)
        shutil.copytree(_ROOT / "reports", folder / "reports")
        with embedded_servers(folder / "servers") as servers:
            environment = _environment(folder, servers, vendor)
            return Result("startup", tuple(_rows(progress, folder, servers, environment)))


def _environment(folder: Path, servers: EmbeddedServers, vendor: str) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CACHE_PIPELINE_") and name != "DAGSTER_HOME"
    }
    client = {"client_id": "demo-client", "client_secret": "demo-secret"}
    account = {"base_url": vendor, "login_url": f"{vendor}/oauth/token", "clients": [client]}
    return {
        **inherited,
        "PYTHONPATH": str(_ROOT),
        "CACHE_PIPELINE_POSTGRES_URL": servers.postgres_url,
        "CACHE_PIPELINE_REDIS_URL": servers.redis_url,
        "CACHE_PIPELINE_DATA_DIR": str(folder / "data"),
        "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN": json.dumps(account),
        "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN": json.dumps(account),
    }


def _rows(
    progress: ProgressCallback, folder: Path, servers: EmbeddedServers, environment: Mapping[str, str]
) -> Generator[Row]:
    progress("python -c pass")
    (bare,) = _cpu_seconds([(sys.executable, "-c", "pass")], folder, environment)
    progress("--help")
    (shown,) = _cpu_seconds([(*_COMMAND, "--help")], folder, environment)
    yield Row("--help, over python -c pass", round(shown - bare, 3), "s CPU", target=Target("ours", "<=", 0.3))
    settings = StandaloneSettings(
        postgres_url=SecretStr(servers.postgres_url),
        redis_url=SecretStr(servers.redis_url),
        reports_dir=folder / "reports",
    )
    progress("query of a hot answer")
    migrate_history(settings, load_reports(settings))
    interval = f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}/P1D"
    asyncio.run(_put_hot_answer(settings, interval))
    (queried,) = _cpu_seconds([(*_COMMAND, "query", "queue_day", interval, "--json")], folder, environment)
    yield Row(
        "query of a hot answer, over python -c pass",
        round(queried - bare, 3),
        "s CPU",
        target=Target("ours", "<=", 0.8),
    )
    progress("code location")
    (folder / "minimal.py").write_text(_MINIMAL)
    modules = ("cache_pipeline.definitions", "minimal")
    ours, peer = _cpu_seconds(
        [(sys.executable, "-c", f"from {module} import defs; {_LOAD}") for module in modules], folder, environment
    )
    yield Row(
        "code location of 4 reports",
        round(ours, 3),
        "s CPU",
        {_PEER: round(peer, 3)},
        target=Target("ratio", "<=", 1.3),
    )
    yield from _memory_rows(progress, folder, environment)


def _memory_rows(progress: ProgressCallback, folder: Path, environment: Mapping[str, str]) -> Generator[Row]:
    home = folder / "home"
    home.mkdir()
    shutil.copy(_ROOT / "dagster.yaml", home)
    for name, arguments, added, target in (
        ("api process", ("api", "--port", "0"), {"CACHE_PIPELINE_API__AUTH": "off"}, 130.0),
        ("worker process", ("worker",), {}, 170.0),
        ("worker process with DAGSTER_HOME", ("worker",), {"DAGSTER_HOME": str(home)}, 170.0),
    ):
        progress(f"idle {name}")
        with _running((*_COMMAND, *arguments), folder, {**environment, **added}) as pid:
            yield Row(f"idle {name}", _resident_megabytes(pid), "MB", target=Target("ours", "<=", target))


async def _put_hot_answer(settings: Settings, interval: str) -> None:
    report = load_reports(settings)["queue_day"]
    query = clip_request(resolve_request(report, interval, NO_OVERRIDES, ()), datetime.now(UTC), settings.tenant)
    body = {"report": report.name, "columns": ["interval_start"], "rows": [], "timeZone": report.time_zone}
    answer = Answer(json.dumps(body).encode(), '"etag"', Completeness(query.interval.end, None, None, None))
    async with Redis.from_url(settings.required_redis_url()) as redis:
        await RedisHotTier(redis).put([(query, answer)], datetime.now(UTC))
        # Long enough for all runs; it would expire within five seconds.
        await redis.persist(query.cache_key(HOT_TTL_TIER))


def _cpu_seconds(commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str]) -> list[float]:
    """Return the least processor time of each command, after one run that fills the caches. The commands take turns."""
    runs = [[_run(command, folder, environment) for command in commands] for _ in range(_RUNS + 1)]
    return [min(seconds) for seconds in zip(*runs[1:], strict=True)]


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> float:
    """Run a command and return its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # noqa: S603 - runs this project with this interpreter
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command[2:])[:100]} failed: {done.stderr.strip()[-300:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def _running(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Generator[int]:
    """Run a process and yield its id once it announces that it is ready."""
    process = subprocess.Popen(  # noqa: S603 - runs this project with this interpreter
        command, cwd=folder, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _await_announcement(process.stderr)
        yield process.pid
    finally:
        process.terminate()
        process.communicate(timeout=_READY_SECONDS)


def _await_announcement(output: IO[str] | None) -> None:
    lines: list[str] = []
    for line in output or ():
        lines.append(line)
        if "HTTP API on" in line or "is ready" in line:
            return
    raise BenchmarkError(f"the process ended: {''.join(lines).strip()[-300:]}")


def _resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process some seconds after its start, when it has connected to everything."""
    time.sleep(_SETTLE_SECONDS)
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(resident.split()[1]) / 1000, 1)
