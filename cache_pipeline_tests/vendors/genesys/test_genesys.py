"""The real vendor's aggregates, in one request and by job."""

import json
from collections import Counter
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis.asyncio

from cache_pipeline.errors import SchemaMismatch, UpstreamJobFailed, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    all_pages,
    asked,
    by_group,
    genesys_report,
    held_job,
    said,
    simulated,
)

JOBS = "/api/v2/analytics/conversations/aggregates/jobs"
STATUS_CALL, RESULTS_CALL = f"GET {JOBS}/{{jobId}}", f"GET {JOBS}/{{jobId}}/results"
SUBMIT_CALL, DELETE_CALL = f"POST {JOBS}", f"DELETE {JOBS}/{{jobId}}"


def _job() -> VendorJob:
    return held_job(f"{JOBS}/job-1")


def _bucket(*metrics: dict[str, Any], hour: int = 0) -> dict[str, Any]:
    interval = f"2024-06-10T{hour:02}:00:00.000Z/2024-06-10T{hour + 1:02}:00:00.000Z"
    return {"interval": interval, "metrics": list(metrics)}


async def _read(body: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    async with said(lambda _: httpx.Response(200, json=body)) as client:
        pages = await all_pages(GenesysAdapter(client), _job(), genesys_report(**changes))
    return pa.concat_tables([page.rows for page in pages]).to_pylist()


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_the_rows_of_a_query_are_the_vendors_own_figures(
    shared_redis: redis.asyncio.Redis, delivery: str
) -> None:
    report = genesys_report(delivery=delivery)
    async with simulated(shared_redis) as vendor:
        rows = await asked(vendor.genesys, report)
        truth = await vendor.truth(report, DAY)
    assert {key: value for key, value in by_group(rows, "n_offered").items() if value} == truth
    assert sum(truth.values()) > 1000


async def test_both_deliveries_give_equal_rows(shared_redis: redis.asyncio.Redis) -> None:
    metrics = ["nOffered", "tHandle", "tAbandon", "oServiceLevel"]
    async with simulated(shared_redis) as vendor:
        tables = [
            await asked(vendor.genesys, genesys_report(delivery=delivery, metrics=metrics))
            for delivery in ("sync", "async")
        ]
    one, other = (sorted(table.to_pylist(), key=str) for table in tables)
    assert one == other
    assert tables[0].schema == tables[1].schema


async def test_a_synchronous_answer_needs_no_second_request(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated(shared_redis) as vendor:
        job = await vendor.genesys.submit(genesys_report(delivery="sync"), DAY, Lane.interactive)
        assert (await vendor.genesys.status(job)).done
        (page,) = await all_pages(vendor.genesys, job, genesys_report(delivery="sync"))
        await vendor.genesys.cancel(job)
        summary = (await vendor.admin.get("/simulator/counters")).json()["summary"]
    assert page.rows.num_rows > 100
    assert page.watermark is None
    assert (summary["requests"], summary["sync_queries"]) == (1, 1)


async def test_the_answer_held_in_a_job_does_not_fill_its_repr() -> None:
    assert "figures" not in repr(VendorJob("", "alpha", Lane.interactive, answer={"results": ["figures"]}))


async def test_a_jobs_results_come_whole_over_several_pages(shared_redis: redis.asyncio.Redis) -> None:
    many_groups = INSTANT.model_copy(update={"agents": 300})
    wish = {"granularity": "P1D", "group_by": ["queueId", "mediaType", "userId"], "metrics": ["nConnected"]}
    report = genesys_report(**wish)
    async with simulated(shared_redis, many_groups) as vendor:
        job = await vendor.genesys.submit(report, DAY, Lane.backfill)
        pages = await all_pages(vendor.genesys, job, report)
        at_once = await asked(vendor.genesys, genesys_report(**wish, delivery="sync"))
    assert len(pages) > 1
    paged: dict[tuple[str, ...], int] = {}
    for page in pages:
        paged |= by_group(page.rows, "n_connected")
    assert len(paged) == sum(page.rows.num_rows for page in pages) > 1000
    assert paged == by_group(at_once, "n_connected")


async def test_a_running_job_is_not_done_and_tells_no_percent(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0, "job_seconds_variation": 0.0})
    async with simulated(shared_redis, slow, clock) as vendor:
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        seen = []
        for _ in range(3):
            seen.append(await vendor.genesys.status(job))
            clock.seconds += 50
    assert [(status.done, status.percent) for status in seen] == [(False, None), (False, None), (True, None)]


async def test_cancelling_deletes_the_job_at_the_vendor_as_its_own_client(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0})
    async with simulated(shared_redis, slow, clock) as vendor:
        jobs = [await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive) for _ in range(4)]
        for job in jobs:
            await vendor.genesys.cancel(job)
        deleted = await vendor.calls(DELETE_CALL)
        with pytest.raises(UpstreamJobFailed, match="it is CANCELLED"):
            await vendor.genesys.status(jobs[0])
    assert deleted == Counter(job.oauth_client for job in jobs)
    assert set(deleted) == {"alpha", "beta", "gamma"}


async def test_a_job_that_the_vendor_failed_ends_in_its_words(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={"fail_jobs": 1})
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        with pytest.raises(UpstreamJobFailed, match="failed: the query failed: a fault on demand"):
            await vendor.genesys.status(job)


async def test_a_job_whose_results_have_expired_has_failed(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    async with simulated(shared_redis, INSTANT, clock) as vendor:
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        clock.seconds += INSTANT.job_lifetime_seconds - 1
        assert (await vendor.genesys.status(job)).done
        clock.seconds += 2
        with pytest.raises(UpstreamJobFailed, match="it is EXPIRED"):
            await vendor.genesys.status(job)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "EXPIRED"])
async def test_each_state_without_a_way_back_is_a_failure(state: str) -> None:
    async with said(lambda _: httpx.Response(200, json={"state": state})) as client:
        with pytest.raises(UpstreamJobFailed, match=f"upstream job job-1 .*: it is {state}"):
            await GenesysAdapter(client).status(_job())


@pytest.mark.parametrize("state", ["QUEUED", "PENDING"])
async def test_a_state_with_hope_is_awaited(state: str) -> None:
    async with said(lambda _: httpx.Response(200, json={"state": state})) as client:
        assert not (await GenesysAdapter(client).status(_job())).done


async def test_every_poll_and_page_goes_out_as_the_client_that_submitted(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report()
    async with simulated(shared_redis) as vendor:
        jobs = [await vendor.genesys.submit(report, DAY, Lane.backfill) for _ in range(7)]
        submitted = Counter(job.oauth_client for job in jobs)
        for job in jobs:
            await vendor.genesys.status(job)
            await all_pages(vendor.genesys, job, report)
        assert set(submitted) == {"alpha", "beta", "gamma"}
        assert await vendor.calls(SUBMIT_CALL) == submitted
        assert await vendor.calls(STATUS_CALL) == submitted
        assert await vendor.calls(RESULTS_CALL) == submitted


async def test_days_are_those_of_the_reports_zone(shared_redis: redis.asyncio.Redis) -> None:
    zone = {"time_zone": "America/New_York", "granularity": "P1D", "chunk": "P1W"}
    report = genesys_report(metrics=["nOffered"], group_by=["mediaType"], **zone)
    autumn = Interval.parse("2024-11-02T04:00:00Z/2024-11-05T05:00:00Z")
    async with simulated(shared_redis) as vendor:
        rows = await asked(vendor.genesys, report, autumn)
        truth = await vendor.truth(report, autumn)
    starts = {row["interval_start"].isoformat() for row in rows.to_pylist()}
    assert starts <= {f"2024-11-{day}:00:00+00:00" for day in ("02T04", "03T04", "04T05")}
    assert "2024-11-04T05:00:00+00:00" in starts
    assert by_group(rows, "n_offered") == truth


async def test_only_the_filtered_rows_come(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(delivery="sync", metrics=["nOffered"])
    async with simulated(shared_redis) as vendor:
        everything = await asked(vendor.genesys, report)
        queues = sorted({row["queue_id"] for row in everything.to_pylist()})[:2]
        predicates = [
            {"dimension": "queueId", "operator": "in", "values": queues},
            {"dimension": "mediaType", "operator": "in", "values": ["voice"]},
        ]
        filtered = report.model_validate({**report.model_dump(), "filters": {"predicates": predicates}})
        rows = await asked(vendor.genesys, filtered)
    expected = {
        key: value for key, value in by_group(everything, "n_offered").items() if key[1] == "voice" and key[2] in queues
    }
    assert expected
    assert by_group(rows, "n_offered") == expected


async def test_a_question_the_vendor_does_not_understand_is_refused_in_its_words(
    shared_redis: redis.asyncio.Redis,
) -> None:
    async with simulated(shared_redis) as vendor:
        with pytest.raises(UpstreamRefused, match=r"refused with 400: .*nColours.*metrics"):
            await vendor.genesys.submit(genesys_report(metrics=["nColours"]), DAY, Lane.interactive)


@pytest.mark.parametrize(("delivery", "path"), [("sync", "query"), ("async", "jobs")])
async def test_the_query_has_the_vendors_fields(delivery: str, path: str) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, json={"jobId": "job-1"})

    filters = {"predicates": [{"dimension": "queueId", "operator": "in", "values": ["b", "a"]}]}
    report = genesys_report(delivery=delivery, filters=filters, time_zone="Europe/Berlin")
    async with said(answer) as client:
        await GenesysAdapter(client).submit(report, DAY, Lane.backfill)
    (request,) = sent
    assert request.url.path == f"/api/v2/analytics/conversations/aggregates/{path}"
    # Only a question that leaves nothing behind at the vendor may be repeated when its answer is lost.
    assert request.extensions.get("idempotent", False) == (delivery == "sync")
    clause = {
        "type": "or",
        "predicates": [{"dimension": "queueId", "operator": "matches", "value": value} for value in ("a", "b")],
    }
    assert json.loads(request.content) == {
        "interval": "2024-06-10T00:00:00Z/2024-06-11T00:00:00Z",
        "granularity": "PT1H",
        "timeZone": "Europe/Berlin",
        "groupBy": ["mediaType", "queueId"],
        "metrics": ["nOffered", "tHandle"],
        "filter": {"type": "and", "clauses": [clause]},
        **({"pageSize": 1000} if delivery == "async" else {}),
    }


@pytest.mark.parametrize("body", [{}, {"results": None}, {"results": []}, {"results": [{"group": {}}]}])
async def test_an_empty_answer_is_one_empty_page_of_the_declared_columns(body: dict[str, Any]) -> None:
    async with said(lambda _: httpx.Response(200, json=body)) as client:
        (page,) = await all_pages(GenesysAdapter(client), _job(), genesys_report())
    assert page.rows.num_rows == 0
    assert "t_handle_sum" in page.rows.schema.names


async def test_what_had_no_event_adds_nought_and_has_no_extremes() -> None:
    group = {"mediaType": "voice", "queueId": "q"}
    data = [_bucket({"metric": "nOffered", "stats": {"count": 3}}), _bucket(hour=1)]
    busy, quiet = await _read(
        {"results": [{"group": group, "data": data}]}, metrics=["nOffered", "tHandle", "oServiceLevel"]
    )
    nothing = dict.fromkeys(("t_handle_count", "t_handle_sum"), 0)
    nothing |= dict.fromkeys(("o_service_level_numerator", "o_service_level_denominator"), 0)
    nothing |= dict.fromkeys(("t_handle_min", "t_handle_max"))
    assert {name: busy[name] for name in ("n_offered", *nothing)} == {"n_offered": 3, **nothing}
    assert {name: quiet[name] for name in ("n_offered", *nothing)} == {"n_offered": 0, **nothing}


async def test_statistics_beyond_the_declared_ones_are_left_out() -> None:
    stats = {"count": 2, "sum": 30, "min": 10, "max": 20, "ratio": 0.5}
    data = [_bucket({"metric": "tHandle", "stats": stats})]
    (row,) = await _read({"results": [{"group": {"queueId": "q"}, "data": data}]}, metrics=["tHandle"])
    assert {name: value for name, value in row.items() if name.startswith("t_")} == {
        "t_handle_count": 2,
        "t_handle_sum": 30.0,
        "t_handle_min": 10.0,
        "t_handle_max": 20.0,
    }
    assert row["media_type"] is None


async def test_a_metric_that_was_not_asked_for_is_a_mismatch() -> None:
    data = [_bucket({"metric": "nTransferred", "stats": {"count": 3}})]
    with pytest.raises(SchemaMismatch, match=r"\['nTransferred'\] were not asked for"):
        await _read({"results": [{"group": {}, "data": data}]})


async def _told(metric: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """The columns of one metric in the one bucket in which these entries are told of it."""
    data = [_bucket(*({"metric": metric, **entry} for entry in entries))]
    (row,) = await _read({"results": [{"group": {}, "data": data}]}, metrics=[metric], group_by=[])
    return {name: value for name, value in row.items() if not name.startswith("interval_")}


async def test_an_observation_keeps_what_is_told_of_it_and_says_null_of_what_is_not() -> None:
    empty = dict.fromkeys(f"o_media_count_{name}" for name in ("count", "sum", "min", "max"))
    assert await _told("oMediaCount", {"stats": {"count": 3}}) == empty | {"o_media_count_count": 3}
    assert await _told("oMediaCount", {"stats": {"count": 3, "sum": 5, "min": 1, "max": 2, "p95": 2}}) == {
        "o_media_count_count": 3,
        "o_media_count_sum": 5.0,
        "o_media_count_min": 1.0,
        "o_media_count_max": 2.0,
    }
    assert await _told("oMediaCount") == empty
    assert await _told("oServiceTarget", {"stats": {"target": 0.8}}) == {"o_service_target": 0.8}
    assert await _told("oServiceTarget") == {"o_service_target": None}


@pytest.mark.parametrize(
    ("metric", "stats", "problem"),
    [
        (
            "oMediaCount",
            {"ratio": 0.5},
            "oMediaCount is told without its count or sum or min or max: there is only ratio",
        ),
        ("oMediaCount", {"current": 5}, "there is only current"),
        ("oServiceTarget", {"ratio": 0.5}, "oServiceTarget is told without its target: there is only ratio"),
        ("oServiceLevel", {"ratio": 0.5, "numerator": 1}, "oServiceLevel is told without its denominator"),
        ("nOffered", {"sum": 3}, "nOffered is told without its count: there is only sum"),
        ("nOffered", {}, "there is nothing"),
        ("nOffered", {"count": None}, "nOffered is told without its count"),
        ("tHandle", {"count": 3}, "tHandle is told without its sum"),
    ],
)
async def test_a_metric_that_is_not_told_as_it_is_declared_is_a_mismatch_and_never_nought(
    metric: str, stats: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _told(metric, {"stats": stats})


async def test_a_metric_that_is_told_in_parts_is_a_mismatch_and_no_part_of_it_is_kept() -> None:
    parts = [{"qualifier": state, "stats": {"count": 3, "sum": 9}} for state in ("open", "closed")]
    with pytest.raises(SchemaMismatch, match=r"tHandle is told for 'open', which is a qualifier that no column is for"):
        await _told("tHandle", *parts)
    with pytest.raises(SchemaMismatch, match="nOffered is told twice"):
        await _told("nOffered", {"stats": {"count": 3}}, {"stats": {"count": 4}})


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_a_report_of_another_family_has_the_vendors_own_figures(
    shared_redis: redis.asyncio.Redis, delivery: str
) -> None:
    report = genesys_report(
        query_type="taskmanagement",
        group_by=["queueId"],
        metrics=["nWorkitemsCreated", "tWorkitemsHandled", "oWorkitemsServiceLevel"],
        delivery=delivery,
    )
    async with simulated(shared_redis) as vendor:
        rows = (await asked(vendor.genesys, report)).to_pylist()
    assert sum(row["n_workitems_created"] for row in rows) > 100
    assert all(
        row["t_workitems_handled_max"] <= row["t_workitems_handled_sum"]
        for row in rows
        if row["t_workitems_handled_count"]
    )
    assert sum(row["o_workitems_service_level_numerator"] for row in rows) > 0


async def test_an_observation_is_told_in_columns_of_its_own(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(group_by=[], metrics=["oMediaCount", "oServiceTarget", "tTalk"])
    async with simulated(shared_redis) as vendor:
        rows = (await asked(vendor.genesys, report)).to_pylist()
    busy = [row for row in rows if row["t_talk_count"]]
    assert busy
    assert all(row["o_media_count_count"] == row["o_media_count_sum"] == row["t_talk_count"] for row in busy)
    assert {row["o_service_target"] for row in rows} <= {0.8, None}
