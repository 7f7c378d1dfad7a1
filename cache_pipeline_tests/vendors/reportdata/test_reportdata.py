"""The guide's contract, spoken with a vendor that keeps it: submit, poll, pages."""

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
    all_pages,
    asked,
    by_group,
    held_job,
    reportdata_report,
    said,
    simulated,
)

STATUS_CALL = "GET /api/v2/analytics/reportdata/query/{id}"
RESULTS_CALL = "GET /api/v2/analytics/reportdata/query/{id}/results"
SUBMIT_CALL = "POST /api/v2/analytics/reportdata/query/async"


async def test_the_rows_of_a_query_are_the_vendors_own_figures(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report()
    async with simulated(shared_redis) as vendor:
        rows = await asked(vendor.reportdata, report)
        assert rows.schema.names == [
            *("interval_start", "interval_end", "media_type", "queue_id"),
            *("handle_ms", "offered"),
        ]
        truth = await vendor.truth(report, DAY)
        offered = {key: value for key, value in by_group(rows, "offered").items() if value}
        assert offered == truth
        assert sum(truth.values()) > 1000


async def test_a_long_result_comes_whole_over_several_pages(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report(granularity="PT15M", metrics=["offered"])
    interval = Interval.parse("2024-06-10T00:00:00Z/2024-06-13T00:00:00Z")
    async with simulated(shared_redis) as vendor:
        job = await vendor.reportdata.submit(report, interval, Lane.backfill)
        pages = await all_pages(vendor.reportdata, job, report)
        truth = await vendor.truth(report, interval)
    assert len(pages) >= 3
    assert {page.rows.num_rows for page in pages[:-1]} == {1000}
    found: dict[tuple[str, ...], int] = {}
    for page in pages:
        found |= by_group(page.rows, "offered")
    assert found == truth
    assert len(found) == sum(page.rows.num_rows for page in pages)


async def test_a_poll_tells_the_percent_and_done_only_when_completed(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0, "job_seconds_variation": 0.0})
    async with simulated(shared_redis, slow, clock) as vendor:
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        seen = []
        for _ in range(3):
            seen.append(await vendor.reportdata.status(job))
            clock.seconds += 50
    assert [(status.done, status.percent) for status in seen] == [(False, 0.0), (False, 50.0), (True, 100.0)]


async def test_a_page_carries_the_vendors_watermark(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated(shared_redis, clock=SettableClock("2024-06-12T10:00:30+00:00")) as vendor:
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        pages = await all_pages(vendor.reportdata, job, reportdata_report())
    assert {page.watermark for page in pages} == {datetime(2024, 6, 12, 9, 58, tzinfo=UTC)}


async def test_a_job_that_the_vendor_gave_up_ends_at_once_in_its_words(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={"fail_jobs": 1})
        job = await vendor.reportdata.submit(reportdata_report(), DAY, Lane.interactive)
        with pytest.raises(UpstreamJobFailed, match=rf"{job.id} failed: the query failed: a fault on demand"):
            await vendor.reportdata.status(job)


async def test_only_the_filtered_rows_come(shared_redis: redis.asyncio.Redis) -> None:
    everything = reportdata_report()
    async with simulated(shared_redis) as vendor:
        queues = Counter(row["queue_id"] for row in (await asked(vendor.reportdata, everything)).to_pylist())
        wanted = sorted(queues)[:2]
        filters = {"predicates": [{"dimension": "queueId", "operator": "in", "values": wanted}]}
        rows = await asked(vendor.reportdata, reportdata_report(filters=filters))
    assert len(queues) > 2
    assert Counter(rows["queue_id"].to_pylist()) == {name: queues[name] for name in wanted}


async def test_days_are_those_of_the_reports_zone_also_when_the_clocks_change(
    shared_redis: redis.asyncio.Redis,
) -> None:
    report = reportdata_report(granularity="P1D", time_zone="Europe/Berlin", chunk="P1W", group_by=["queueId"])
    spring = Interval.parse("2024-03-29T23:00:00Z/2024-04-01T22:00:00Z")
    async with simulated(shared_redis) as vendor:
        rows = await asked(vendor.reportdata, report, spring)
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


async def test_every_poll_and_page_goes_out_as_the_client_that_submitted(shared_redis: redis.asyncio.Redis) -> None:
    report = reportdata_report()
    async with simulated(shared_redis) as vendor:
        jobs = [await vendor.reportdata.submit(report, DAY, Lane.backfill) for _ in range(7)]
        submitted = Counter(job.oauth_client for job in jobs)
        for job in jobs:
            await vendor.reportdata.status(job)
            await vendor.reportdata.status(job)
            await all_pages(vendor.reportdata, job, report)
        assert set(submitted) == {"alpha", "beta", "gamma"}
        assert await vendor.calls(SUBMIT_CALL) == submitted
        assert await vendor.calls(STATUS_CALL) == {client: 2 * count for client, count in submitted.items()}
        assert await vendor.calls(RESULTS_CALL) == submitted


async def test_a_question_the_vendor_does_not_understand_is_refused_in_its_words(
    shared_redis: redis.asyncio.Redis,
) -> None:
    async with simulated(shared_redis) as vendor:
        with pytest.raises(UpstreamRefused, match=r"refused with 400: .*colour.*columns"):
            await vendor.reportdata.submit(reportdata_report(metrics=["colour"]), DAY, Lane.interactive)


async def _submitted(**changes: Any) -> dict[str, Any]:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "job-1", "status": "queued"})

    async with said(answer) as client:
        job = await ReportDataAdapter(client).submit(reportdata_report(**changes), DAY, Lane.backfill)
    assert (job.id, job.oauth_client, job.lane, job.answer) == ("job-1", "alpha", Lane.backfill, None)
    (request,) = sent
    assert (request.method, request.url.path) == ("POST", "/api/v2/analytics/reportdata/query/async")
    assert request.extensions["lane"] is Lane.backfill
    return json.loads(request.content)


async def test_the_query_has_the_guides_fields_and_leaves_out_defaults() -> None:
    assert await _submitted() == {
        "reportId": "queue-performance",
        "timeGrouping": "byHour",
        "interval": "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z",
        "groupBy": ["mediaType", "queueId"],
        "columns": ["handleMs", "offered"],
    }


async def test_filters_and_time_zone_go_out_in_canonical_order() -> None:
    predicates = [
        {"dimension": "queueId", "operator": "notIn", "values": ["b", "a", "b"]},
        {"dimension": "mediaType", "operator": "in", "values": ["voice"]},
    ]
    body = await _submitted(time_zone="Europe/Berlin", filters={"type": "or", "predicates": predicates})
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
    chunk = "P1W" if granularity == "P1W" else "P1D"
    partition = "week" if granularity == "P1W" else "day"
    body = await _submitted(granularity=granularity, chunk=chunk, partition=partition)
    assert body["timeGrouping"] == grouping


async def test_pages_are_asked_for_by_cursor_as_the_jobs_own_client() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        page = len(sent)
        return httpx.Response(200, json={"rows": [], **({"cursor": f"page {page + 1}"} if page < 3 else {})})

    async with said(answer) as client:
        pages = await all_pages(ReportDataAdapter(client), held_job(), reportdata_report())
    assert len(pages) == 3
    assert [request.url.params.get("cursor") for request in sent] == [None, "page 2", "page 3"]
    assert {request.url.params["pageSize"] for request in sent} == {"1000"}
    assert {request.extensions["oauth_client"] for request in sent} == {"beta"}
    assert {request.extensions["lane"] for request in sent} == {Lane.scheduled}


async def test_an_empty_result_is_one_empty_page_of_the_declared_columns() -> None:
    watermark = "2024-06-11T01:00:00Z"
    async with said(lambda _: httpx.Response(200, json={"id": "job-1", "dataAvailabilityDate": watermark})) as client:
        (page,) = await all_pages(ReportDataAdapter(client), held_job(), reportdata_report())
    assert page.rows.num_rows == 0
    assert page.rows.schema.names[-2:] == ["handle_ms", "offered"]
    assert page.watermark == parse_instant(watermark)


async def test_a_dimension_that_a_row_lacks_is_null() -> None:
    row = {"intervalStart": DAY.start.isoformat(), "intervalEnd": "2024-06-10T01:00:00Z", "offered": 1, "handleMs": 2}
    async with said(lambda _: httpx.Response(200, json={"rows": [{**row, "queueId": "q"}]})) as client:
        (page,) = await all_pages(ReportDataAdapter(client), held_job(), reportdata_report())
    assert page.rows.to_pylist()[0]["media_type"] is None
    assert page.rows.to_pylist()[0]["queue_id"] == "q"


async def test_a_failed_job_without_a_reason_says_so() -> None:
    async with said(lambda _: httpx.Response(200, json={"status": "failed"})) as client:
        with pytest.raises(UpstreamJobFailed, match="job-1 failed: the vendor gave no reason"):
            await ReportDataAdapter(client).status(held_job())


async def test_a_poll_without_a_percentage_is_a_poll_all_the_same() -> None:
    async with said(lambda _: httpx.Response(200, json={"status": "processing"})) as client:
        status = await ReportDataAdapter(client).status(held_job())
    assert (status.done, status.percent) == (False, None)


async def test_cancelling_sends_nothing_where_the_contract_has_no_cancel() -> None:
    async with said(lambda _: pytest.fail("nothing is to be sent")) as client:
        await ReportDataAdapter(client).cancel(held_job())
