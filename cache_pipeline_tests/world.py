"""A report service on real servers, with the simulated vendor behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream import polling
from cache_pipeline.upstream.polling import GuideSchedule
from cache_pipeline_tests.query.declared import declared

#: A Tuesday noon; nothing here depends on the machine's date.
NOON = datetime(2026, 1, 6, 12, tzinfo=UTC)
REPORT = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=8)


@dataclass
class SteppedClock:
    """One clock for the vendor and the service; it advances only when a test says so."""

    at: datetime = NOON

    def now(self) -> float:
        """Return the seconds since the epoch, as the simulator expects."""
        return self.at.timestamp()

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        """Advance the clock."""
        self.at += timedelta(**by)


async def partitions_of(events: AsyncIterator[Any]) -> AsyncIterator[FetchedPartition | FailedPartition]:
    """Return only the partitions of what a fetch yields."""
    async for event in events:
        if isinstance(event, FetchedPartition | FailedPartition):
            yield event


@dataclass
class World:
    """A running service, its Redis, and the administration interface of its vendor."""

    service: ReportService
    redis: Redis
    admin: httpx.AsyncClient
    clock: SteppedClock
    settings: Settings

    async def fetch_and_store(self, interval: Interval, report: Report = REPORT) -> list[ChunkResult]:
        """Fetch and store one interval as a run of Dagster does; return the verdicts on the vendor's answers."""
        verdicts: list[ChunkResult] = []
        async for event in self.service.fetch(report, {"it": interval}, Lane.interactive):
            if isinstance(event, ChunkResult):
                verdicts.append(event)
            if isinstance(event, FailedPartition):
                raise event.error
            if isinstance(event, FetchedPartition):
                await self.service.store(report, [event])
        return verdicts

    async def submits(self) -> int:
        """Return how many queries the vendor has accepted."""
        return (await self.admin.get("/simulator/counters")).json()["summary"]["submits"]

    async def faults(self, **faults: int | str) -> None:
        """Set the faults of the next requests."""
        assert (await self.admin.post("/simulator/faults", json=faults)).status_code == 200

    async def truth(self, report: Report, interval: Interval) -> list[list[Any]]:
        """Return the true rows of an answer."""
        query = {
            "interval": str(interval),
            "granularity": report.granularity,
            "groupBy": ",".join(report.group_by),
            "timeZone": report.time_zone,
        }
        rows = (await self.admin.get("/simulator/truth", params=query)).json()["rows"]
        return sorted(
            [_plain(row["intervalStart"]), _plain(row["intervalEnd"]),
             *(row[name] for name in report.group_by), row["offered"]] for row in rows
        )  # fmt: skip


def _plain(instant: str) -> str:
    return instant.replace(".000Z", "Z")


class OpenWorld(Protocol):
    """Opens a world; the keyword arguments are settings of the simulator."""

    def __call__(self, *reports: Report, **changes: Any) -> AbstractAsyncContextManager[World]: ...


@pytest.fixture
def open_world(postgres_database: str, redis_database: str, monkeypatch: pytest.MonkeyPatch) -> OpenWorld:
    """Return a function that opens a service with short jobs and a large quota."""
    monkeypatch.setattr(polling, "GuideSchedule", partial(GuideSchedule, first_seconds=0.01, max_seconds=0.05))
    for name in (
        "CACHE_PIPELINE_ACCOUNTS__GENESYS__MAIN__BASE_URL",
        "CACHE_PIPELINE_ACCOUNTS__REPORTDATA__MAIN__BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)

    @asynccontextmanager
    async def opened(*reports: Report, **changes: Any) -> AsyncIterator[World]:
        clock = SteppedClock()
        vendor = {
            "job_seconds_base": 0.0,
            "job_seconds_per_1000_cells": 0.0,
            "reportdata_rate_limit": 10_000,
            "genesys_rate_limit": 10_000,
            "token_lifetime_seconds": 10_000_000.0,
        }
        with running_simulator(SimulatorSettings(**(vendor | changes)), clock=clock) as url:
            account = VendorAccount(
                base_url=url,  # pyright: ignore[reportArgumentType]
                login_url=f"{url}/oauth/token",  # pyright: ignore[reportArgumentType]
                clients=(ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret")),),
                rate_limit=10_000,
                # An emptied Redis grants no requests for one window.
                window_seconds=0.5,
            )
            settings = Settings(
                postgres_url=SecretStr(postgres_database),
                redis_url=SecretStr(redis_database),
                accounts={name: {"main": account} for name in {"reportdata", *(each.platform for each in reports)}},
            )
            await asyncio.to_thread(migrate_history, settings, {each.name: each for each in reports or (REPORT,)})
            async with (
                open_service(settings) as service,
                Redis.from_url(redis_database) as redis,
                httpx.AsyncClient(base_url=url) as admin,
            ):
                yield World(replace(service, clock=clock), redis, admin, clock, settings)

    return opened
