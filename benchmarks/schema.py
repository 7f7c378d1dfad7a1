"""`schema`: requests to the vendor when a metric is added to, or removed from, a declaration whose year is held.

The peer of an added metric is a first backfill of a report with that metric alone, by the same rules on the same servers; the
least is one query for each day. Everything runs for real, on a clock that the vendor and the service share.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from pydantic import SecretStr

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import Settings, StandaloneSettings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings, running_simulator

_DAYS = 365
_YEAR = Interval(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
_BEFORE, _ADDED = ("nOffered", "tAnswered", "tHandle"), "nTransferred"


@dataclass
class _Clock:
    at: datetime = _YEAR.end + timedelta(days=3)

    def now(self) -> float:
        return self.at.timestamp()

    def __call__(self) -> datetime:
        return self.at


@dataclass(frozen=True)
class _World:
    service: ReportService
    vendor: httpx.AsyncClient
    clock: _Clock
    settings: Settings

    async def requests(self, report: Report) -> int:
        """Declare a report, fetch what history lacks of its year, and return the requests to the vendor."""
        await asyncio.to_thread(migrate_history, self.settings, {report.name: report})
        before = await self._count()
        # A second round takes the second looks that the first one asks for.
        for _ in range(2):
            async for event in self.service.fetch(report, {"year": _YEAR}, Lane.backfill):
                if isinstance(event, FailedPartition):
                    raise BenchmarkError(str(event.error))
                if isinstance(event, FetchedPartition):
                    await self.service.store(report, [event])
            self.clock.at += timedelta(minutes=20)
        coverage = self.service.history.coverage(self.service.series(report))
        if not coverage.final.covers(_YEAR):
            raise BenchmarkError(f"{report.name} is not final: {coverage.final}")
        return await self._count() - before

    async def _count(self) -> int:
        return (await self.vendor.get("/simulator/counters")).json()["summary"]["sync_queries"]


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A fetch failed, or left a part of the year provisional.
    """
    return asyncio.run(_measure(progress))


async def _measure(progress: ProgressCallback) -> Result:
    with tempfile.TemporaryDirectory() as name:
        async with _opened(Path(name)) as world:
            progress("a year of a report")
            await world.requests(_report("held", *_BEFORE))
            progress("the same with one metric more")
            added = await world.requests(_report("held", *_BEFORE, _ADDED))
            progress("without it, and in another order")
            removed = await world.requests(_report("held", *reversed(_BEFORE)))
            progress("a year of that metric alone")
            alone = await world.requests(_report("alone", _ADDED))
    target = Target("ours", "<=", alone)
    return Result(
        "schema",
        (
            Row(
                f"add a metric to {_DAYS} days held: requests",
                added,
                "requests",
                peers={"that metric alone": alone},
                limit=_DAYS,
                target=target,
            ),
            Row(
                f"remove a metric from {_DAYS} days held: requests", removed, "requests", target=Target("ours", "<=", 0)
            ),
        ),
    )


def _report(name: str, *metrics: str) -> Report:
    return Report.model_validate(
        {
            "name": name,
            "description": "Figures by queue and medium, by hour",
            "platform": "genesys",
            "query_type": "conversations",
            "granularity": "PT1H",
            "group_by": ["queueId", "mediaType"],
            "metrics": metrics,
            "partition": "day",
            "start": "2025-01-01",
            "fetch": {"delivery": "sync", "max_query_interval": "P1D"},
        }
    )


@asynccontextmanager
async def _opened(folder: Path) -> AsyncGenerator[_World]:
    clock = _Clock()
    vendor = SimulatorSettings(genesys_rate_limit=100_000, token_lifetime_seconds=10_000_000.0)
    with embedded_servers(folder) as stores, running_simulator(vendor, clock=clock) as url:
        account = VendorAccount.model_validate(
            {
                "base_url": url,
                "login_url": f"{url}/oauth/token",
                "clients": [{"client_id": "demo-client", "client_secret": "demo-secret"}],
                "rate_limit": 100_000,
                "window_seconds": 0.5,
            }
        )
        settings = StandaloneSettings(
            postgres_url=SecretStr(stores.postgres_url),
            redis_url=SecretStr(stores.redis_url),
            accounts={"genesys": {"main": account}},
        )
        await asyncio.to_thread(migrate_history, settings, {})
        async with open_service(settings) as service, httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield _World(replace(service, clock=clock), client, clock, settings)
