"""`api`: the cost of the API's own work on a hot read, and the vendor queries that 500 callers of one cold key cause."""

import asyncio
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from pydantic import HttpUrl, SecretStr
from redis import Redis

from benchmarks.api import targets
from benchmarks.api.load import LoadResult, RequestPlan, run_clients
from benchmarks.api.servers import ChildProcess, free_port, nginx_cache, run_in_process
from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ApiSettings, ClientCredentials, Settings, StandaloneSettings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.postgres.api_keys import PostgresApiKeyStore
from cache_pipeline.storage.postgres.async_pool import connection_pool

_CONNECTIONS = 32
_SECONDS = 4.0
_ROUNDS = 5
_CALLERS = 500
_JOB_SECONDS = 2.0
#: The report of the benchmarks `api` and `jobs`.
REPORT = """\
name: queue_hour
description: Offered by queue, by hour
platform: reportdata
query_type: queue-performance
granularity: PT1H
group_by: [queueId]
metrics: [offered]
partition: day
start: 2026-01-01
fetch:
  expected_groups: 8
"""
# 20 KB, all of it final.
_HOT = "interval=2026-01-05T00:00Z/2026-01-06T06:00Z"
_COLD = "interval=2026-01-12T00:00Z/2026-01-13T00:00Z"


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A server did not start, or a request was not answered with 200.
    """
    simulated = SimulatorSettings(
        job_seconds_base=_JOB_SECONDS, job_seconds_variation=0.0, reportdata_rate_limit=1_000_000
    )
    with ExitStack() as stack:
        servers = stack.enter_context(servers_with_report(simulated, progress))
        settings = servers.settings
        headers = {"Authorization": f"Bearer {create_key(settings)}"}
        ours = stack.enter_context(run_in_process(targets.api, settings))
        stack.enter_context(run_in_process(targets.worker, settings))
        progress("filling the cache")
        body = _fill_cache(f"{ours.message}/v1/reports/queue_hour?{_HOT}", headers)
        with Redis.from_url(settings.required_redis_url()) as redis:
            redis.set(targets.BARE_KEY, body)
        bare = stack.enter_context(run_in_process(targets.bare, settings.required_redis_url(), free_port()))
        rows = _measure_hot_reads(progress, ours, bare, headers)
        progress("hot reads through an nginx cache")
        with nginx_cache(servers.folder / "nginx", ours.message) as cached:
            if cached is not None:
                rows.append(_measure_nginx_cache(cached, headers))
        progress(f"{_CALLERS} callers of one cold key")
        rows.extend(_measure_misses(ours.message, servers.vendor, headers))
        return Result("api", tuple(rows))


@dataclass(frozen=True)
class BenchmarkServers:
    """Stores and a simulated vendor with one declared report.

    Attributes:
        folder: An empty folder for further servers; it has `reports`.
        vendor: The vendor's base URL.
        settings: Settings of processes of this project.
    """

    folder: Path
    vendor: str
    settings: Settings


@contextmanager
def servers_with_report(simulated: SimulatorSettings, progress: ProgressCallback) -> Generator[BenchmarkServers]:
    """Start stores and a vendor, and migrate history for the report `queue_hour`."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "reports").mkdir()
        (folder / "reports" / "queue_hour.yaml").write_text(REPORT)
        progress("starting servers")
        stores = stack.enter_context(embedded_servers(folder / "servers"))
        vendor = stack.enter_context(simulator_process(simulated))
        settings = deployment(stores.postgres_url, stores.redis_url, vendor, folder)
        migrate_history(settings, load_reports(settings))
        yield BenchmarkServers(folder, vendor, settings)


def deployment(postgres_url: str, redis_url: str, vendor: str, folder: Path, platform: str = "reportdata") -> Settings:
    """Return settings for these servers, with a quota that is never the limit."""
    return StandaloneSettings(
        postgres_url=SecretStr(postgres_url),
        redis_url=SecretStr(redis_url),
        reports_dir=folder / "reports",
        data_dir=folder / "data",
        accounts={
            platform: {
                "main": VendorAccount(
                    base_url=HttpUrl(vendor),
                    login_url=HttpUrl(f"{vendor}/oauth/token"),
                    clients=(
                        ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret"), weight=1),
                    ),
                    rate_limit=1_000_000,
                    window_seconds=None,
                )
            }
        },
        api=ApiSettings(shared_caches=True, requests_per_minute=10_000_000),
    )


def create_key(settings: Settings) -> str:
    """Return a new key that may query every report."""
    return asyncio.run(_create_key(settings))


async def _create_key(settings: Settings) -> str:
    async with connection_pool(settings.required_postgres_url(), 1) as pool:
        return await PostgresApiKeyStore(pool).create(
            "benchmark", Principal("", settings.tenant, None, Lane.interactive)
        )


def _fill_cache(url: str, headers: dict[str, str]) -> bytes:
    answer = httpx.get(url, headers={**headers, "Prefer": "wait=60"}, timeout=90)
    if answer.status_code != 200:
        raise BenchmarkError(f"the first read was answered with {answer.status_code}: {answer.text[:300]}")
    # Repeat the request with the measured URL, so that its answer is cached.
    return httpx.get(url, headers=headers).raise_for_status().content


def _measure_hot_reads(
    progress: ProgressCallback, ours: ChildProcess, bare: ChildProcess, headers: dict[str, str]
) -> list[Row]:
    """Measure both servers in turns, so that other load on the machine affects both."""
    results: dict[str, list[LoadResult]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(_ROUNDS):
        for name, server in (("ours", ours), ("bare", bare)):
            progress(f"hot reads, round {number + 1} of {_ROUNDS}: {name}")
            before = server.cpu_seconds()
            load = run_clients(
                RequestPlan(f"{server.message}/v1/reports/queue_hour?{_HOT}", headers, _CONNECTIONS, _SECONDS)
            )
            after = server.cpu_seconds()
            results[name].append(load)
            if before is not None and after is not None:
                cpu[name].append((after - before) / (load.per_second * _SECONDS) * 1e6)
    peer = "a bare Starlette route"
    size = results["ours"][0].bytes / 1000
    rows = [
        Row(
            f"hot reads of {size:.0f} KB, with API key, rate limit, ETag and metrics",
            round(median(load.per_second for load in results["ours"])),
            "requests/s",
            {peer: round(median(load.per_second for load in results["bare"]))},
            target=Target("ratio", ">=", 1.0),
        ),
        Row(
            "hot reads: 99th percentile",
            round(median(load.p99_ms for load in results["ours"]), 1),
            "ms",
            {peer: round(median(load.p99_ms for load in results["bare"]), 1)},
        ),
    ]
    if cpu["ours"] and cpu["bare"]:
        rows.append(
            Row(
                "hot reads: CPU time per read",
                round(median(cpu["ours"])),
                "µs",
                {peer: round(median(cpu["bare"]))},
            )
        )
    return rows


def _measure_nginx_cache(url: str, headers: dict[str, str]) -> Row:
    load = run_clients(RequestPlan(f"{url}/v1/reports/queue_hour?{_HOT}", headers, _CONNECTIONS, _SECONDS))
    return Row("hot reads through an nginx cache", round(load.per_second), "requests/s")


def _measure_misses(url: str, vendor: str, headers: dict[str, str]) -> list[Row]:
    httpx.delete(f"{vendor}/simulator/counters").raise_for_status()
    waiting = {**headers, "Prefer": "wait=60"}
    started = time.perf_counter()
    run_clients(RequestPlan(f"{url}/v1/reports/queue_hour?{_COLD}", waiting, _CALLERS))
    took = time.perf_counter() - started
    summary = httpx.get(f"{vendor}/simulator/counters").json()["summary"]
    return [
        Row(
            f"{_CALLERS} identical misses: upstream queries",
            summary["submits"],
            "queries",
            target=Target("ours", "=", 1),
        ),
        Row(
            f"{_CALLERS} identical misses: time to the last answer (the vendor alone takes {_JOB_SECONDS:.0f} s)",
            round(took, 2),
            "s",
        ),
    ]
