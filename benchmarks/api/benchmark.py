"""`api`: what the API's own work costs on a hot read, and what 500 callers of one cold key cost the vendor."""

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
from pydantic import HttpUrl, SecretStr
from redis import Redis

from benchmarks.api import targets
from benchmarks.api.load import Asking, Load, crowd
from benchmarks.api.servers import Running, free_port, nginx_cache, process_of
from benchmarks.quota.processes import simulator_process
from benchmarks.result import BenchmarkError, Result, Row, Target, Tell
from cache_pipeline.api.auth import ApiKeyStore, Principal
from cache_pipeline.api.jobs.job_store import connection_pool
from cache_pipeline.bootstrap import load_reports, migrate_history
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ApiSettings, ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings

_CONNECTIONS = 32
_SECONDS = 4.0
_ROUNDS = 5
_CROWD = 500
_JOB_SECONDS = 2.0
#: The one report of these benchmarks.
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
# 20 KB, and long settled.
_HOT = "interval=2026-01-05T00:00Z/2026-01-06T06:00Z"
_COLD = "interval=2026-01-12T00:00Z/2026-01-13T00:00Z"


def measure(tell: Tell) -> Result:
    """Run it."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "reports").mkdir()
        (folder / "reports" / "queue_hour.yaml").write_text(REPORT)
        tell("starting servers")
        stores = stack.enter_context(embedded_servers(folder / "servers"))
        vendor = stack.enter_context(
            simulator_process(
                SimulatorSettings(
                    job_seconds_base=_JOB_SECONDS, job_seconds_variation=0.0, reportdata_rate_limit=1_000_000
                )
            )
        )
        settings = deployment(stores.postgres_url, stores.redis_url, vendor, folder)
        migrate_history(settings, load_reports(settings))
        headers = {"Authorization": f"Bearer {asyncio.run(_key(settings))}"}
        ours = stack.enter_context(process_of(targets.api, settings))
        stack.enter_context(process_of(targets.worker, settings))
        tell("filling the cache")
        body = _filled(f"{ours.told}/v1/reports/queue_hour?{_HOT}", headers)
        with Redis.from_url(stores.redis_url) as redis:
            redis.set(targets.BARE_KEY, body)
        bare = stack.enter_context(process_of(targets.bare, stores.redis_url, free_port()))
        rows = _hot(tell, ours, bare, headers)
        tell("through an nginx cache")
        with nginx_cache(folder / "nginx", ours.told) as cached:
            if cached is not None:
                rows.append(_cached(cached, headers))
        tell(f"{_CROWD} callers of one cold key")
        rows.extend(_missed(ours.told, vendor, headers))
        return Result("api", tuple(rows))


def deployment(postgres_url: str, redis_url: str, vendor: str, folder: Path) -> Settings:
    """Return settings for these servers, with a quota that is never the limit."""
    return Settings(
        postgres_url=SecretStr(postgres_url),
        redis_url=SecretStr(redis_url),
        reports_dir=folder / "reports",
        data_dir=folder / "data",
        reportdata=VendorAccount(
            base_url=HttpUrl(vendor),
            login_url=HttpUrl(f"{vendor}/oauth/token"),
            clients=(ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret"), weight=1),),
            rate_limit=1_000_000,
            window_seconds=None,
        ),
        genesys=None,
        api=ApiSettings(shared_caches=True, requests_per_minute=10_000_000),
    )


async def _key(settings: Settings) -> str:
    async with connection_pool(settings.required_postgres_url(), 1) as pool:
        return await ApiKeyStore(pool).create("benchmark", Principal("", settings.tenant, None, Lane.interactive))


def _filled(url: str, headers: dict[str, str]) -> bytes:
    answer = httpx.get(url, headers={**headers, "Prefer": "wait=60"}, timeout=90)
    if answer.status_code != 200:
        raise BenchmarkError(f"the first read was answered {answer.status_code}: {answer.text[:300]}")
    # Once more by the URL that is measured, so that it is known.
    return httpx.get(url, headers=headers).raise_for_status().content


def _hot(tell: Tell, ours: Running, bare: Running, headers: dict[str, str]) -> list[Row]:
    """Both in turn, so that what else the machine does falls on both."""
    met: dict[str, list[Load]] = {"ours": [], "bare": []}
    cpu: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(_ROUNDS):
        for name, server in (("ours", ours), ("bare", bare)):
            tell(f"hot reads, round {number + 1} of {_ROUNDS}: {name}")
            before = server.cpu_seconds()
            load = crowd(Asking(f"{server.told}/v1/reports/queue_hour?{_HOT}", headers, _CONNECTIONS, _SECONDS))
            after = server.cpu_seconds()
            met[name].append(load)
            if before is not None and after is not None:
                cpu[name].append((after - before) / (load.a_second * _SECONDS) * 1e6)
    peer = "a bare Starlette route"
    size = met["ours"][0].bytes / 1000
    rows = [
        Row(
            f"hot reads of {size:.0f} KB, with key, limit, ETag and metrics",
            round(median(load.a_second for load in met["ours"])),
            "requests/s",
            {peer: round(median(load.a_second for load in met["bare"]))},
            target=Target("ratio", ">=", 0.8),
        ),
        Row(
            "the same: one in a hundred takes longer than",
            round(median(load.p99_ms for load in met["ours"]), 1),
            "ms",
            {peer: round(median(load.p99_ms for load in met["bare"]), 1)},
        ),
    ]
    if cpu["ours"] and cpu["bare"]:
        rows.append(
            Row(
                "the same: processor time of a read",
                round(median(cpu["ours"])),
                "µs",
                {peer: round(median(cpu["bare"]))},
            )
        )
    return rows


def _cached(url: str, headers: dict[str, str]) -> Row:
    load = crowd(Asking(f"{url}/v1/reports/queue_hour?{_HOT}", headers, _CONNECTIONS, _SECONDS))
    return Row("the same through an nginx cache", round(load.a_second), "requests/s")


def _missed(url: str, vendor: str, headers: dict[str, str]) -> list[Row]:
    httpx.delete(f"{vendor}/simulator/counters").raise_for_status()
    waiting = {**headers, "Prefer": "wait=60"}
    started = time.perf_counter()
    crowd(Asking(f"{url}/v1/reports/queue_hour?{_COLD}", waiting, _CROWD))
    took = time.perf_counter() - started
    summary = httpx.get(f"{vendor}/simulator/counters").json()["summary"]
    return [
        Row(
            f"{_CROWD} identical misses: upstream queries", summary["submits"], "queries", target=Target("ours", "=", 1)
        ),
        Row(
            f"{_CROWD} identical misses: until the last is answered (the vendor alone takes {_JOB_SECONDS:.0f} s)",
            round(took, 2),
            "s",
        ),
    ]
