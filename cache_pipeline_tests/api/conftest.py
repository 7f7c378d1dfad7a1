"""Fixtures: the HTTP API and its worker on real servers, with a simulated vendor."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from redis.asyncio import Redis

from cache_pipeline.api.app import create_app
from cache_pipeline.api.jobs.worker import Worker
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.settings import ApiSettings, ClientCredentials, JobSettings, Settings, VendorAccount
from cache_pipeline.simulator import Clock, SimulatorSettings, running_simulator
from cache_pipeline.storage.postgres.ad_hoc_series import PostgresAdHocSeries
from cache_pipeline.storage.redis.counters import RedisMetricCounts
from cache_pipeline.upstream import polling
from cache_pipeline.upstream.polling import GuideSchedule
from cache_pipeline_tests.query.declared import declared

REPORT = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=8, start="2025-01-01")
DAY = "2026-01-05T00:00:00Z/2026-01-06T00:00:00Z"
AMPLE_VENDOR = {
    "job_seconds_base": 0.0,
    "job_seconds_per_1000_cells": 0.0,
    "reportdata_rate_limit": 100_000,
    "genesys_rate_limit": 100_000,
    "token_lifetime_seconds": 10_000_000.0,
}


class VendorClock:
    """A clock that starts at noon on a Tuesday."""

    def __init__(self) -> None:
        self._offset = datetime(2026, 1, 6, 12, tzinfo=UTC).timestamp() - time.time()

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time() + self._offset


@dataclass
class Api:
    """A running API.

    Attributes:
        http: A client of the API.
        vendor: A client of the simulated vendor's control endpoints.
        redis: A client of its Redis.
        query_service: The query service of the application.
        settings: Settings of the deployment.
        app: The started application.
    """

    http: httpx.AsyncClient
    vendor: httpx.AsyncClient
    redis: Redis
    query_service: QueryService
    settings: Settings
    app: FastAPI
    _workers: list[tuple[asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)

    async def submits(self) -> int:
        """Return how many queries the vendor has accepted."""
        return (await self.vendor.get("/simulator/counters")).json()["summary"]["submits"]

    def start_worker(self, name: str = "worker-1", **changes: Any) -> Worker:
        """Start a worker in this process; it is drained when the test ends."""
        worker = Worker(
            name,
            self.query_service.report_service,
            self.query_service.reports,
            self.query_service.jobs,
            self.query_service.jobs,
            self.query_service.queue,
            self.query_service.events,
            ProcessCounters(RedisMetricCounts(self.redis, utc_now)),
            self.settings.jobs.model_copy(update=changes),
            PostgresAdHocSeries(self.query_service.jobs._pool, self.settings.required_postgres_url()),  # pyright: ignore[reportAttributeAccessIssue]
            self.settings.api.ad_hoc_series,
            timedelta(days=self.settings.api.ad_hoc_days),
        )
        stop = asyncio.Event()
        self._workers.append((stop, asyncio.create_task(worker.run(stop))))
        return worker

    async def stop_workers(self) -> None:
        """Stop all workers and wait until they have ended."""
        for stop, _ in self._workers:
            stop.set()
        await asyncio.gather(*(task for _, task in self._workers))
        self._workers.clear()

    async def wait_until_finished(self, location: str, seconds: float = 20) -> dict[str, Any]:
        """Wait until a job is finished, and return it."""
        async with asyncio.timeout(seconds):
            while True:
                job = (await self.http.get(location)).json()
                if job["state"] in ("done", "failed", "cancelled"):
                    return job
                await asyncio.sleep(0.05)


class OpenApi(Protocol):
    """Opens an API.

    `changes` are changes of its settings, `clock` is the vendor's, `postgres` another way to the same database, `account_changes` are
    fields of its accounts by vendor, and `vendor_url` is the address of another vendor than the simulated one.
    """

    def __call__(
        self,
        *reports: Report,
        live: Sequence[LiveReport] = (),
        vendor: dict[str, Any] | None = None,
        clock: Clock | None = None,
        postgres: str | None = None,
        account_changes: dict[str, dict[str, Any]] | None = None,
        vendor_url: str | None = None,
        **changes: Any,
    ) -> AbstractAsyncContextManager[Api]: ...


def settings_for(postgres_url: str, redis_url: str, vendor_url: str, **changes: Any) -> Settings:
    """Return the settings of a deployment on these servers."""
    return Settings(
        postgres_url=SecretStr(postgres_url),
        redis_url=SecretStr(redis_url),
        **(
            {
                "accounts": {"reportdata": {"main": account(vendor_url)}},
                "api": ApiSettings(auth="off"),
                "jobs": JobSettings(lease_seconds=2),
            }
            | changes
        ),
    )


def account(vendor_url: str, **changes: Any) -> VendorAccount:
    """Return an account of the simulated vendor with an ample quota."""
    fields: dict[str, Any] = {
        "base_url": vendor_url,
        "login_url": f"{vendor_url}/oauth/token",
        "clients": (ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret")),),
        "rate_limit": 100_000,
        "retention_days": 20_000,
    }
    return VendorAccount(**fields | changes)


@pytest.fixture
def open_api(postgres_database: str, redis_database: str, monkeypatch: pytest.MonkeyPatch) -> OpenApi:
    """Return a function that opens an API without a worker, with short upstream jobs and an ample quota."""
    monkeypatch.setattr(polling, "GuideSchedule", partial(GuideSchedule, first_seconds=0.01, max_seconds=0.05))

    @asynccontextmanager
    async def open_with(
        *reports: Report,
        live: Sequence[LiveReport] = (),
        vendor: dict[str, Any] | None = None,
        clock: Clock | None = None,
        postgres: str | None = None,
        account_changes: dict[str, dict[str, Any]] | None = None,
        vendor_url: str | None = None,
        **changes: Any,
    ) -> AsyncIterator[Api]:
        declared_reports = {each.name: each for each in reports or (REPORT,)}
        with running_simulator(
            SimulatorSettings(**(AMPLE_VENDOR | (vendor or {}))), clock=clock or VendorClock()
        ) as url:
            platforms = {"reportdata", *(report.platform for report in (*reports, *live))}
            fields = account_changes or {}
            accounts = {each: {"main": account(vendor_url or url, **fields.get(each, {}))} for each in platforms}
            changes.setdefault("accounts", accounts)
            settings = settings_for(postgres or postgres_database, redis_database, url, **changes)
            await asyncio.to_thread(migrate_history, settings, declared_reports)
            async with AsyncExitStack() as stack:
                app = create_app(settings, reports=declared_reports, live_reports={each.name: each for each in live})
                await stack.enter_async_context(app.router.lifespan_context(app))
                transport = httpx.ASGITransport(app, raise_app_exceptions=False)
                http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://api"))
                admin = await stack.enter_async_context(httpx.AsyncClient(base_url=url))
                redis = await stack.enter_async_context(open_redis(redis_database))
                api = Api(http, admin, redis, app.state.query_service, settings, app)
                try:
                    yield api
                finally:
                    await api.stop_workers()

    return open_with
