"""Tests of the report-data adapter against a vendor that follows the guide's contract: submit, poll, pages."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis.asyncio

from cache_pipeline.errors import UpstreamJobFailed, UpstreamRefused
from cache_pipeline.query.interval import Interval, parse_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors.reportdata.adapter import ReportDataAdapter
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    by_group,
    fetch_rows,
    mock_client,
    read_pages,
    reportdata_report,
    simulated_vendor,
    submitted_job,
)

STATUS_CALL = "GET /api/v2/analytics/reportdata/query/{id}"
RESULTS_CALL = "GET /api/v2/analytics/reportdata/query/{id}/results"
SUBMIT_CALL = "POST /api/v2/analytics/reportdata/query/async"


async def test_query_rows_match_the_vendors_figures(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report()
    async with simulated_vendor(shared_redis) as vendor:
        rows = await fetch_rows(vendor.reportdata, report)
        assert rows.schema.names == [
            *("interval_start", "interval_end", "media_type", "queue_id"),
            *("handle_ms", "offered"),
        ]
        truth = await vendor.truth(report, DAY)
        offered = {key: value for key, value in by_group(rows, "offered").items() if value}
        assert offered == truth
        assert sum(truth.values()) > 1000


async def test_long_result_is_complete_over_several_pages(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report(granularity="PT15M", metrics=["offered"])
    interval = Interval.parse("2024-06-10T00:00:00Z/2024-06-13T00:00:00Z")
    async with simulated_vendor(shared_redis) as vendor:
        job = await vendor.reportdata.submit(report, interval, Lane.backfill)
        pages = await read_pages(vendor.reportdata, job, report)
        truth = await vendor.truth(report, interval)
    assert len(pages) >= 3
    assert {page.rows.num_rows for page in pages[:-1]} == {1000}
    paged: dict[tuple[str, ...], int] = {}
    for page in pages:
        paged |= by_group(page.rows, "offered")
    assert paged == truth
    assert len(paged) == sum(page.rows.num_rows for page in pages)


async def test_poll_reports_percent_until_completed(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0, "job_seconds_variation": 0.0})
    async with simulated_vendor(shared_redis, slow, clock) as vendor:
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        statuses = []
        for _ in range(3):
            statuses.append(await vendor.reportdata.status(job))
            clock.seconds += 50
    assert [(status.is_done, status.percent) for status in statuses] == [(False, 0.0), (False, 50.0), (True, 100.0)]


async def test_page_has_the_vendors_watermark(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated_vendor(shared_redis, clock=SettableClock("2024-06-12T10:00:30+00:00")) as vendor:
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        pages = await read_pages(vendor.reportdata, job, reportdata_report())
    assert {page.watermark for page in pages} == {datetime(2024, 6, 12, 9, 58, tzinfo=UTC)}


async def test_failed_job_raises_with_the_vendors_message(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated_vendor(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={"fail_jobs": 1})
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        with pytest.raises(UpstreamJobFailed, match=rf"{job.id} failed: the query failed: a fault on demand"):
            await vendor.reportdata.status(job)


async def test_filter_returns_only_matching_rows(shared_redis: redis.asyncio.Redis) -> None:
    everything = reportdata_report()
    async with simulated_vendor(shared_redis) as vendor:
        queues = Counter(row["queue_id"] for row in (await fetch_rows(vendor.reportdata, everything)).to_pylist())
        selected = sorted(queues)[:2]
        filters = {"predicates": [{"dimension": "queueId", "operator": "in", "values": selected}]}
        rows = await fetch_rows(vendor.reportdata, reportdata_report(filters=filters))
    assert len(queues) > 2
    assert Counter(rows["queue_id"].to_pylist()) == {name: queues[name] for name in selected}


async def test_days_follow_the_reports_zone_across_clock_changes(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = reportdata_report(
        granularity="P1D", time_zone="Europe/Berlin", max_query_interval="P1W", group_by=["queueId"]
    )
    spring = Interval.parse("2024-03-29T23:00:00Z/2024-04-01T22:00:00Z")
    async with simulated_vendor(shared_redis) as vendor:
        rows = await fetch_rows(vendor.reportdata, report, spring)
        truth = await vendor.truth(report, spring)
    hours = {
        row["interval_start"].isoformat(): (row["interval_end"] - row["interval_start"]).total_seconds() / 3600
        for row in rows.to_pylist()
    }
    assert hours == {
        "2024-03-29T23:00:00+00:00": 24,
        "2024-03-30T23:00:00+00:00": 23,
        "2024-03-31T22:00:00+00:00": 24,
    }
    assert by_group(rows, "offered") == truth


async def test_polls_and_pages_use_the_submitting_client(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report()
    async with simulated_vendor(shared_redis) as vendor:
        jobs = [await vendor.reportdata.submit(report, DAY, Lane.backfill) for _ in range(7)]
        submitted = Counter(job.oauth_client for job in jobs)
        for job in jobs:
            await vendor.reportdata.status(job)
            await vendor.reportdata.status(job)
            await read_pages(vendor.reportdata, job, report)
        assert set(submitted) == {"alpha", "beta", "gamma"}
        assert await vendor.calls(SUBMIT_CALL) == submitted
        assert await vendor.calls(STATUS_CALL) == {client: 2 * count for client, count in submitted.items()}
        assert await vendor.calls(RESULTS_CALL) == submitted


async def test_refused_query_raises_with_the_vendors_message(
    shared_redis: redis.asyncio.Redis,
) -> None:
    async with simulated_vendor(shared_redis) as vendor:
        with pytest.raises(UpstreamRefused, match=r"refused with 400: .*colour.*columns"):
            await vendor.reportdata.submit(reportdata_report(metrics=["colour"]), DAY, Lane.interactive)


async def _submitted_body(**changes: Any) -> dict[str, Any]:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "job-1", "status": "queued"})

    async with mock_client(answer) as client:
        job = await ReportDataAdapter(client).submit(reportdata_report(**changes), DAY, Lane.backfill)
    assert (job.id, job.oauth_client, job.lane, job.answer) == ("job-1", "alpha", Lane.backfill, None)
    (request,) = sent
    assert (request.method, request.url.path) == ("POST", "/api/v2/analytics/reportdata/query/async")
    assert request.extensions["lane"] is Lane.backfill
    return json.loads(request.content)


async def test_query_body_has_the_guides_fields() -> None:
    assert await _submitted_body() == {
        "reportId": "queue-performance",
        "timeGrouping": "byHour",
        "interval": "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z",
        "groupBy": ["mediaType", "queueId"],
        "columns": ["handleMs", "offered"],
    }


async def test_filters_are_sent_in_canonical_order() -> None:
    predicates = [
        {"dimension": "queueId", "operator": "notIn", "values": ["b", "a", "b"]},
        {"dimension": "mediaType", "operator": "in", "values": ["voice"]},
    ]
    body = await _submitted_body(time_zone="Europe/Berlin", filters={"type": "or", "predicates": predicates})
    assert body["timeZone"] == "Europe/Berlin"
    assert body["filters"] == {
        "type": "or",
        "predicates": [
            {"dimension": "mediaType", "operator": "in", "values": ["voice"]},
            {"dimension": "queueId", "operator": "notIn", "values": ["a", "b"]},
        ],
    }


@pytest.mark.parametrize(
    ("granularity", "grouping"),
    [
        *(("PT15M", "by15Minutes"), ("PT30M", "by30Minutes"), ("PT1H", "byHour")),
        *(("P1D", "byDay"), ("P1W", "byWeek")),
    ],
)
async def test_each_granularity_has_its_time_grouping(granularity: str, grouping: str) -> None:
    max_query_interval = "P1W" if granularity == "P1W" else "P1D"
    partition = "week" if granularity == "P1W" else "day"
    body = await _submitted_body(granularity=granularity, max_query_interval=max_query_interval, partition=partition)
    assert body["timeGrouping"] == grouping


async def test_pages_follow_the_cursor_as_the_jobs_client() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        page = len(sent)
        return httpx.Response(200, json={"rows": [], **({"cursor": f"page {page + 1}"} if page < 3 else {})})

    async with mock_client(answer) as client:
        pages = await read_pages(ReportDataAdapter(client), submitted_job(), reportdata_report())
    assert len(pages) == 3
    assert [request.url.params.get("cursor") for request in sent] == [None, "page 2", "page 3"]
    assert {request.url.params["pageSize"] for request in sent} == {"1000"}
    assert {request.extensions["oauth_client"] for request in sent} == {"beta"}
    assert {request.extensions["lane"] for request in sent} == {Lane.scheduled}


async def test_empty_result_is_one_empty_page() -> None:
    watermark = "2024-06-11T01:00:00Z"
    async with mock_client(
        lambda _: httpx.Response(200, json={"id": "job-1", "dataAvailabilityDate": watermark})
    ) as client:
        (page,) = await read_pages(ReportDataAdapter(client), submitted_job(), reportdata_report())
    assert page.rows.num_rows == 0
    assert page.rows.schema.names[-2:] == ["handle_ms", "offered"]
    assert page.watermark == parse_instant(watermark)


async def test_missing_dimension_is_null() -> None:
    row = {"intervalStart": DAY.start.isoformat(), "intervalEnd": "2024-06-10T01:00:00Z", "offered": 1, "handleMs": 2}
    async with mock_client(lambda _: httpx.Response(200, json={"rows": [{**row, "queueId": "q"}]})) as client:
        (page,) = await read_pages(ReportDataAdapter(client), submitted_job(), reportdata_report())
    assert page.rows.to_pylist()[0]["media_type"] is None
    assert page.rows.to_pylist()[0]["queue_id"] == "q"


async def test_failed_job_without_a_reason_raises() -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"status": "failed"})) as client:
        with pytest.raises(UpstreamJobFailed, match="job-1 failed: the vendor gave no reason"):
            await ReportDataAdapter(client).status(submitted_job())


async def test_poll_without_a_percentage_is_accepted() -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"status": "processing"})) as client:
        status = await ReportDataAdapter(client).status(submitted_job())
    assert (status.is_done, status.percent) == (False, None)


async def test_cancel_sends_nothing() -> None:
    async with mock_client(lambda _: pytest.fail("no request is expected")) as client:
        await ReportDataAdapter(client).cancel(submitted_job())
