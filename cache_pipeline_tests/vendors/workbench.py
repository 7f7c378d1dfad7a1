"""Helpers for adapter tests: declarations, a simulated vendor over HTTP, and a client with mocked responses."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pyarrow as pa
import redis.asyncio
from pydantic import SecretStr

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.rows.merge import CollectedRows
from cache_pipeline.simulator import Clock, SimulatorSettings, running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.dialect import DIALECT
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.base import ResultPage, VendorAdapter, VendorJob
from cache_pipeline.vendors.declaration_rules import use_row_keys
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.query.declared import grouped

SECRETS = {name: SecretStr(f"secret of {name}") for name in ("alpha", "beta", "gamma")}
DAY = Interval.parse("2024-06-10T00:00:00Z/2024-06-11T00:00:00Z")
INSTANT = SimulatorSettings(
    clients=SECRETS,
    job_seconds_base=0,
    job_seconds_per_1000_cells=0,
    reportdata_rate_limit=10_000,
    genesys_rate_limit=10_000,
    reportdata_max_rows=100_000,
)

_COMMON = {
    "name": "queue_hour",
    "description": "Offered by queue and medium",
    "granularity": "PT1H",
    "group_by": ["queueId", "mediaType"],
    "partition": "day",
    "start": "2024-01-01",
    "tiers": ["history", "hot"],
}


def reportdata_report(**changes: Any) -> Report:
    vendor = {"platform": "reportdata", "query_type": "queue-performance", "metrics": ["offered", "handleMs"]}
    return use_row_keys(Report.model_validate(grouped({**_COMMON, **vendor, **changes})))


def genesys_report(**changes: Any) -> Report:
    vendor = {"platform": "genesys", "query_type": "conversations", "metrics": ["nOffered", "tHandle"]}
    return use_row_keys(Report.model_validate(grouped({**_COMMON, **vendor, **changes})))


@dataclass(frozen=True)
class Vendor:
    """Both platforms of one simulated vendor, behind the real transport and quota."""

    reportdata: ReportDataAdapter
    genesys: GenesysAdapter
    admin: httpx.AsyncClient

    async def truth(self, report: Report, interval: Interval) -> dict[tuple[str, ...], int]:
        """Return the simulator's own offered calls by bucket start and group."""
        params = {
            "interval": str(interval),
            "granularity": report.granularity,
            "groupBy": ",".join(report.group_by),
            "timeZone": report.time_zone,
        }
        rows = (await self.admin.get("/simulator/truth", params=params)).json()["rows"]
        return {
            (row["intervalStart"].replace(".000Z", "Z"), *(row[name] for name in report.group_by)): row["offered"]
            for row in rows
        }

    async def calls(self, route: str) -> dict[str, int]:
        """Return the answered calls of a route, by OAuth client."""
        entries = (await self.admin.get("/simulator/counters")).json()["calls"]
        counts: dict[str, int] = {}
        for entry in entries:
            if entry["call"] == route:
                counts[entry["client_id"]] = counts.get(entry["client_id"], 0) + entry["count"]
        return counts


@asynccontextmanager
async def simulated_vendor(
    shared_redis: redis.asyncio.Redis, settings: SimulatorSettings = INSTANT, clock: Clock | None = None
) -> AsyncGenerator[Vendor]:
    with running_simulator(settings, clock=clock) as url:

        def config(platform: str) -> UpstreamConfig:
            return UpstreamConfig(
                account=platform,
                base_url=url,
                login_url=f"{url}/oauth/token",
                clients=tuple(OAuthClient(client_id=name, client_secret=secret) for name, secret in SECRETS.items()),
                policy=QuotaPolicy(limit=5000, window_seconds=60),
                dialect=find_vendor(platform).dialect,
            )

        async with (
            create_upstream_client(config("reportdata"), shared_redis) as reportdata_client,
            create_upstream_client(config("genesys"), shared_redis) as genesys_client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            yield Vendor(ReportDataAdapter(reportdata_client), GenesysAdapter(genesys_client), admin)


@asynccontextmanager
async def mock_client(answer: Callable[[httpx.Request], httpx.Response]) -> AsyncGenerator[httpx.AsyncClient]:
    """Open a client whose requests a function answers; responses name the OAuth client as the real transport does."""

    def handle(request: httpx.Request) -> httpx.Response:
        response = answer(request)
        response.extensions["oauth_client"] = request.extensions.get("oauth_client", "alpha")
        response.extensions[DIALECT] = find_vendor("genesys").dialect
        return response

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="https://vendor.invalid") as client:
        yield client


def submitted_job(job_id: str = "job-1") -> VendorJob:
    return VendorJob(job_id, "beta", Lane.scheduled)


async def read_pages(platform: VendorAdapter, job: VendorJob, report: Report) -> list[ResultPage]:
    return [page async for page in platform.pages(job, report)]


async def fetch_rows(platform: VendorAdapter, report: Report, interval: Interval = DAY) -> pa.Table:
    """Return the rows of one query whose job finishes at once."""
    job = await platform.submit(report, interval, Lane.scheduled)
    assert (await platform.status(job)).is_done
    return merge_pages(await read_pages(platform, job, report), platform, report)


def merge_pages(pages: Iterable[ResultPage], platform: VendorAdapter, report: Report) -> pa.Table:
    """Return the rows of an answer as they are stored."""
    collected = CollectedRows(report, platform.columns(report))
    for page in pages:
        collected.append(page.rows, page.split)
    return collected.merge().rows.to_table()


def by_group(rows: pa.Table, value: str) -> dict[tuple[str, ...], int]:
    """Return one column by bucket start and group; fail if two rows share both."""
    dimensions = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    values: dict[tuple[str, ...], int] = {}
    for row in rows.to_pylist():
        start = row["interval_start"].strftime("%Y-%m-%dT%H:%M:%SZ")
        key = (start, *(row[name] for name in dimensions))
        assert key not in values
        values[key] = row[value]
    return values
