"""Tests of the CXone adapter: exports by date, one CSV behind a signed URL, one call in thirty seconds."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis.asyncio

from cache_pipeline.errors import SchemaMismatch, UpstreamJobFailed, UpstreamJobGone, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.base import ResultPage, VendorJob
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter, access_key_login
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    SECRETS,
    fetch_rows,
    genesys_report,
    mock_client,
    simulated_vendor,
)

#: No conversation crosses midnight; one call is allowed every 50 ms.
SETTINGS = INSTANT.model_copy(
    update={"conversations_per_working_day": 600, "organisation_zone": "UTC", "cxone_call_seconds": 0.05}
)
NOW = datetime(2024, 6, 12, 10, 0, 30, tzinfo=UTC)


def extract(**changes: Any) -> Report:
    base = {"platform": "cxone", "rows": "conversations", "group_by": [], "metrics": ["nOffered", "tTalk", "tHandle"]}
    return genesys_report(**(base | {"tiers": ["history"]} | changes))


@dataclass(frozen=True)
class Extraction:
    cxone: CxoneAdapter
    admin: httpx.AsyncClient
    clock: SettableClock
    sent: list[httpx.Request]

    async def files(self) -> int:
        calls = (await self.admin.get("/simulator/counters")).json()["calls"]
        return sum(call["count"] for call in calls if call["call"].startswith("GET /data-extraction-files"))


@asynccontextmanager
async def extraction(
    redis_client: redis.asyncio.Redis, settings: SimulatorSettings = SETTINGS
) -> AsyncGenerator[Extraction]:
    clock = SettableClock()

    class RecordingTransport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request)
            # The vendor's clock only advances by the time between calls.
            clock.seconds += 2 * settings.cxone_call_seconds if request.url.path.startswith("/data-ext") else 0
            return await super().handle_async_request(request)

    sent: list[httpx.Request] = []
    with running_simulator(settings, clock=clock) as url:
        config = UpstreamConfig(
            platform="cxone",
            base_url=url,
            login_url=f"{url}/authentication/v1/token/access-key",
            clients=(OAuthClient(client_id="alpha", client_secret=SECRETS["alpha"]),),
            policy=QuotaPolicy(limit=1, window_seconds=0.05, reserve=0),
        )
        async with (
            create_upstream_client(
                config, redis_client, login_request=access_key_login, transport=RecordingTransport()
            ) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            yield Extraction(CxoneAdapter(client, now=lambda: NOW), admin, clock, sent)


async def test_extract_rows_equal_those_of_genesys(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = extract()
    async with extraction(shared_redis) as vendor:
        rows = await fetch_rows(vendor.cxone, report)
    async with simulated_vendor(shared_redis, SETTINGS) as other:
        theirs = await fetch_rows(other.genesys, report.model_copy(update={"platform": "genesys"}))
    names = [name for name in rows.schema.names if name not in ("division_id", "ani", "dnis")]
    one, two = ({row["conversation_id"]: row for row in table.select(names).to_pylist()} for table in (rows, theirs))
    assert one == two
    assert len(one) > 300


async def test_grouped_report_counts_and_sums_the_extract(shared_redis: redis.asyncio.Redis) -> None:
    report = extract(rows=None, group_by=["queueId", "mediaType"], metrics=["nOffered", "nConnected", "tTalk"])
    async with extraction(shared_redis) as vendor:
        rows = await fetch_rows(vendor.cxone, report)
    async with simulated_vendor(shared_redis, SETTINGS) as other:
        sums = Counter[str]()
        for row in (await fetch_rows(other.genesys, extract(platform="genesys"))).to_pylist():
            sums["offered"] += row["n_offered"]
            sums["talk"] += row["t_talk"]
    assert sum(rows["n_offered"].to_pylist()) == sums["offered"] > 300
    assert sum(rows["t_talk_sum"].to_pylist()) == sums["talk"]
    assert sum(rows["n_connected"].to_pylist()) == sum(rows["t_talk_count"].to_pylist())
    assert CxoneAdapter.columns(report) == GenesysAdapter.columns(report)


async def test_only_the_file_is_fetched_without_our_token(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        await fetch_rows(vendor.cxone, extract())
        files = await vendor.files()
    signed = {request.url.path.split("/")[1]: "authorization" in request.headers for request in vendor.sent}
    assert signed == {"authentication": False, "data-extraction": True, "data-extraction-files": False}
    assert files == 1
    kinds = [request.method for request in vendor.sent if request.url.path.startswith("/data-extraction/")]
    assert kinds == ["POST", "GET"], "the URL from the status is used while it is valid"


async def test_expired_url_is_requested_again(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        assert (await vendor.cxone.status(job)).done
        vendor.clock.seconds += 40
        pages = [page async for page in vendor.cxone.pages(job, extract())]
        files = await vendor.files()
    assert sum(page.rows.num_rows for page in pages) > 300
    assert files == 1


@pytest.mark.parametrize("included", [True, False])
async def test_end_date_never_loses_or_duplicates_rows(shared_redis: redis.asyncio.Redis, included: bool) -> None:
    settings = SETTINGS.model_copy(update={"cxone_end_date_included": included})
    afternoon = Interval(DAY.start + timedelta(hours=12), DAY.end)
    async with extraction(shared_redis, settings) as vendor:
        day_rows = await fetch_rows(vendor.cxone, extract())
        afternoon_rows = await fetch_rows(vendor.cxone, extract(), afternoon)
    starts = day_rows["conversation_start"].to_pylist()
    assert all(DAY.start <= start < DAY.end for start in starts)
    assert afternoon_rows.num_rows == sum(start >= afternoon.start for start in starts) > 100


async def test_watermark_is_half_an_hour_behind(shared_redis: redis.asyncio.Redis) -> None:
    async with extraction(shared_redis) as vendor:
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        assert (await vendor.cxone.status(job)).done
        watermarks = {page.watermark async for page in vendor.cxone.pages(job, extract())}
    assert watermarks == {NOW - timedelta(minutes=30)}


def _answers(*statuses: int) -> Callable[[httpx.Request], httpx.Response]:
    remaining = list(statuses)

    def answer(_: httpx.Request) -> httpx.Response:
        status = remaining.pop(0)
        return httpx.Response(status, json="job-9" if status == 202 else {"message": "busy"})

    return answer


async def test_submit_retries_a_few_403s_from_a_busy_tenant() -> None:
    async with mock_client(_answers(403, 403, 202)) as client:
        job = await CxoneAdapter(client, now=lambda: NOW).submit(extract(), DAY, Lane.backfill)
    assert job.id.startswith("job-9?")
    async with mock_client(_answers(403, 403, 403, 403)) as client:
        with pytest.raises(UpstreamRefused, match="refused with 403: busy"):
            await CxoneAdapter(client).submit(extract(), DAY, Lane.backfill)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [("fail_jobs", UpstreamJobFailed, "a fault on demand"), ("vanish_jobs", UpstreamJobGone, "Unable to find")],
)
async def test_failed_or_lost_job_raises_with_a_reason(
    shared_redis: redis.asyncio.Redis, fault: str, error: type[UpstreamJobFailed], words: str
) -> None:
    async with extraction(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={fault: 1})
        job = await vendor.cxone.submit(extract(), DAY, Lane.backfill)
        with pytest.raises(error, match=words):
            await vendor.cxone.status(job)


SUBMITTED = VendorJob(f"job-1?interval={DAY}&at={NOW.isoformat()}", "alpha", Lane.scheduled)
HEADER = "Segment ID,Start Date,Talk Time,Handle Time\r\n"


async def _read(body: bytes, report: Report) -> list[ResultPage]:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/file"):
            return httpx.Response(200, content=body)
        result = {"url": "https://elsewhere.invalid/file"}
        return httpx.Response(200, json={"jobStatus": {"id": "job-1", "status": "SUCCEEDED", "result": result}})

    async with mock_client(answer) as client:
        return [page async for page in CxoneAdapter(client).pages(SUBMITTED, report)]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "lacks the columns Segment ID, Start Date, Handle Time, Talk Time"),
        (b"Segment ID,Start Date\r\n", "lacks the columns Handle Time, Talk Time"),
        (f"{HEADER}s-1,2024-06-10T08:00:00Z,5\r\n".encode(), "line 2 of the extract has a different number of cells"),
        (f"{HEADER}s-1,yesterday,5,9\r\n".encode(), "Start Date"),
        (f"{HEADER}s-1,2024-06-10T08:00:00Z,long,9\r\n".encode(), "Talk Time is 'long'"),
        (f'{HEADER}"s-1,2024-06-10T08:00:00Z,5,9\r\n'.encode(), "not CSV"),
        (f"{HEADER}\xff".encode("latin-1"), "not CSV in UTF-8"),
    ],
)
async def test_malformed_extract_error_names_the_problem(body: bytes, problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _read(body, extract(metrics=["tTalk", "tHandle"]))


async def test_csv_quotes_line_breaks_and_byte_order_mark() -> None:
    body = f'{HEADER}"a, ""b""\nc",2024-06-10T08:00:00Z,1.5,2\r\n'.encode("utf-8-sig")
    (page,) = await _read(body, extract(metrics=["tTalk", "tHandle"]))
    (row,) = page.rows.to_pylist()
    assert (row["conversation_id"], row["t_talk"], row["t_handle"]) == ('a, "b"\nc', 1500, 2000)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query_type": "qm-workflows"}, "query_type"),
        ({"rows": "segments", "metrics": ["tTalk"]}, "rows"),
        ({"metrics": ["tAcw"]}, "metrics"),
        ({"rows": None, "group_by": ["wrapUpCode"]}, "group_by"),
        ({"max_query_interval": "P1M", "granularity": "P1D"}, "fetch.max_query_interval"),
        ({"filters": {"predicates": [{"dimension": "queueId", "values": ["a"]}]}}, "filters"),
    ],
)
def test_unsupported_declaration_is_reported_by_field(changes: dict[str, Any], field: str) -> None:
    assert [name for name, _ in CxoneAdapter.check_declaration(extract(**changes))] == [field]
