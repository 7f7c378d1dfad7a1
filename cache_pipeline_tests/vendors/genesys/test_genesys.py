"""Tests of Genesys aggregates, in one request and by job."""

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
    by_group,
    fetch_rows,
    genesys_report,
    mock_client,
    read_pages,
    simulated_vendor,
    submitted_job,
)

JOBS = "/api/v2/analytics/conversations/aggregates/jobs"
STATUS_CALL, RESULTS_CALL = f"GET {JOBS}/{{jobId}}", f"GET {JOBS}/{{jobId}}/results"
SUBMIT_CALL, DELETE_CALL = f"POST {JOBS}", f"DELETE {JOBS}/{{jobId}}"


def _job() -> VendorJob:
    return submitted_job(f"{JOBS}/job-1")


def _bucket(*metrics: dict[str, Any], hour: int = 0) -> dict[str, Any]:
    interval = f"2024-06-10T{hour:02}:00:00.000Z/2024-06-10T{hour + 1:02}:00:00.000Z"
    return {"interval": interval, "metrics": list(metrics)}


async def _read(body: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        pages = await read_pages(GenesysAdapter(client), _job(), genesys_report(**changes))
    return pa.concat_tables([page.rows for page in pages]).to_pylist()


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_query_rows_match_the_vendors_figures(shared_redis: redis.asyncio.Redis, delivery: str) -> None:
    report = genesys_report(delivery=delivery)
    async with simulated_vendor(shared_redis) as vendor:
        rows = await fetch_rows(vendor.genesys, report)
        truth = await vendor.truth(report, DAY)
    assert {key: value for key, value in by_group(rows, "n_offered").items() if value} == truth
    assert sum(truth.values()) > 1000


async def test_both_deliveries_return_equal_rows(shared_redis: redis.asyncio.Redis) -> None:
    metrics = ["nOffered", "tHandle", "tAbandon", "oServiceLevel"]
    async with simulated_vendor(shared_redis) as vendor:
        tables = [
            await fetch_rows(vendor.genesys, genesys_report(delivery=delivery, metrics=metrics))
            for delivery in ("sync", "async")
        ]
    one, other = (sorted(table.to_pylist(), key=str) for table in tables)
    assert one == other
    assert tables[0].schema == tables[1].schema


async def test_synchronous_answer_needs_one_request(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated_vendor(shared_redis) as vendor:
        job = await vendor.genesys.submit(genesys_report(delivery="sync"), DAY, Lane.interactive)
        assert (await vendor.genesys.status(job)).is_done
        (page,) = await read_pages(vendor.genesys, job, genesys_report(delivery="sync"))
        await vendor.genesys.cancel(job)
        summary = (await vendor.admin.get("/simulator/counters")).json()["summary"]
    assert page.rows.num_rows > 100
    assert page.watermark is None
    assert (summary["requests"], summary["sync_queries"]) == (1, 1)


async def test_job_repr_omits_the_answer() -> None:
    assert "figures" not in repr(VendorJob("", "alpha", Lane.interactive, answer={"results": ["figures"]}))


async def test_job_results_are_complete_over_several_pages(shared_redis: redis.asyncio.Redis) -> None:
    many_groups = INSTANT.model_copy(update={"agents": 300})
    changes = {"granularity": "P1D", "group_by": ["queueId", "mediaType", "userId"], "metrics": ["nConnected"]}
    report = genesys_report(**changes)
    async with simulated_vendor(shared_redis, many_groups) as vendor:
        job = await vendor.genesys.submit(report, DAY, Lane.backfill)
        pages = await read_pages(vendor.genesys, job, report)
        synchronous = await fetch_rows(vendor.genesys, genesys_report(**changes, delivery="sync"))
    assert len(pages) > 1
    paged: dict[tuple[str, ...], int] = {}
    for page in pages:
        paged |= by_group(page.rows, "n_connected")
    assert len(paged) == sum(page.rows.num_rows for page in pages) > 1000
    assert paged == by_group(synchronous, "n_connected")


async def test_running_job_reports_no_percent(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0, "job_seconds_variation": 0.0})
    async with simulated_vendor(shared_redis, slow, clock) as vendor:
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        statuses = []
        for _ in range(3):
            statuses.append(await vendor.genesys.status(job))
            clock.seconds += 50
    assert [(status.is_done, status.percent) for status in statuses] == [(False, None), (False, None), (True, None)]


async def test_cancel_deletes_the_job_as_its_own_client(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    slow = INSTANT.model_copy(update={"job_seconds_base": 100.0})
    async with simulated_vendor(shared_redis, slow, clock) as vendor:
        jobs = [await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive) for _ in range(4)]
        for job in jobs:
            await vendor.genesys.cancel(job)
        deleted = await vendor.calls(DELETE_CALL)
        with pytest.raises(UpstreamJobFailed, match="its state is CANCELLED"):
            await vendor.genesys.status(jobs[0])
    assert deleted == Counter(job.oauth_client for job in jobs)
    assert set(deleted) == {"alpha", "beta", "gamma"}


async def test_failed_job_raises_with_the_vendors_message(shared_redis: redis.asyncio.Redis) -> None:
    async with simulated_vendor(shared_redis) as vendor:
        await vendor.admin.post("/simulator/faults", json={"fail_jobs": 1})
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        with pytest.raises(UpstreamJobFailed, match="failed: the query failed: a fault on demand"):
            await vendor.genesys.status(job)


async def test_expired_job_raises(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock()
    async with simulated_vendor(shared_redis, INSTANT, clock) as vendor:
        job = await vendor.genesys.submit(genesys_report(), DAY, Lane.interactive)
        clock.seconds += INSTANT.job_lifetime_seconds - 1
        assert (await vendor.genesys.status(job)).is_done
        clock.seconds += 2
        with pytest.raises(UpstreamJobFailed, match="its state is EXPIRED"):
            await vendor.genesys.status(job)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "EXPIRED"])
async def test_each_terminal_state_but_fulfilled_raises(state: str) -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"state": state})) as client:
        with pytest.raises(UpstreamJobFailed, match=f"upstream job job-1 .*: its state is {state}"):
            await GenesysAdapter(client).status(_job())


@pytest.mark.parametrize("state", ["QUEUED", "PENDING"])
async def test_live_state_is_not_done(state: str) -> None:
    async with mock_client(lambda _: httpx.Response(200, json={"state": state})) as client:
        assert not (await GenesysAdapter(client).status(_job())).is_done


async def test_polls_and_pages_use_the_submitting_client(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report()
    async with simulated_vendor(shared_redis) as vendor:
        jobs = [await vendor.genesys.submit(report, DAY, Lane.backfill) for _ in range(7)]
        submitted = Counter(job.oauth_client for job in jobs)
        for job in jobs:
            await vendor.genesys.status(job)
            await read_pages(vendor.genesys, job, report)
        assert set(submitted) == {"alpha", "beta", "gamma"}
        assert await vendor.calls(SUBMIT_CALL) == submitted
        assert await vendor.calls(STATUS_CALL) == submitted
        assert await vendor.calls(RESULTS_CALL) == submitted


async def test_days_follow_the_reports_time_zone(shared_redis: redis.asyncio.Redis) -> None:
    zone = {"time_zone": "America/New_York", "granularity": "P1D", "max_query_interval": "P1W"}
    report = genesys_report(metrics=["nOffered"], group_by=["mediaType"], **zone)
    autumn = Interval.parse("2024-11-02T04:00:00Z/2024-11-05T05:00:00Z")
    async with simulated_vendor(shared_redis) as vendor:
        rows = await fetch_rows(vendor.genesys, report, autumn)
        truth = await vendor.truth(report, autumn)
    starts = {row["interval_start"].isoformat() for row in rows.to_pylist()}
    assert starts <= {f"2024-11-{day}:00:00+00:00" for day in ("02T04", "03T04", "04T05")}
    assert "2024-11-04T05:00:00+00:00" in starts
    assert by_group(rows, "n_offered") == truth


async def test_filter_returns_only_matching_rows(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(delivery="sync", metrics=["nOffered"])
    async with simulated_vendor(shared_redis) as vendor:
        everything = await fetch_rows(vendor.genesys, report)
        queues = sorted({row["queue_id"] for row in everything.to_pylist()})[:2]
        predicates = [
            {"dimension": "queueId", "operator": "in", "values": queues},
            {"dimension": "mediaType", "operator": "in", "values": ["voice"]},
        ]
        filtered = report.model_validate({**report.model_dump(), "filters": {"predicates": predicates}})
        rows = await fetch_rows(vendor.genesys, filtered)
    expected = {
        key: value for key, value in by_group(everything, "n_offered").items() if key[1] == "voice" and key[2] in queues
    }
    assert expected
    assert by_group(rows, "n_offered") == expected


async def test_refused_query_raises_with_the_vendors_message(
    shared_redis: redis.asyncio.Redis,
) -> None:
    async with simulated_vendor(shared_redis) as vendor:
        with pytest.raises(UpstreamRefused, match=r"refused with 400: .*nColours.*metrics"):
            await vendor.genesys.submit(genesys_report(metrics=["nColours"]), DAY, Lane.interactive)


@pytest.mark.parametrize(("delivery", "path"), [("sync", "query"), ("async", "jobs")])
async def test_query_body_has_the_vendors_fields(delivery: str, path: str) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202, json={"jobId": "job-1"})

    filters = {"predicates": [{"dimension": "queueId", "operator": "in", "values": ["b", "a"]}]}
    report = genesys_report(delivery=delivery, filters=filters, time_zone="Europe/Berlin")
    async with mock_client(answer) as client:
        await GenesysAdapter(client).submit(report, DAY, Lane.backfill)
    (request,) = sent
    assert request.url.path == f"/api/v2/analytics/conversations/aggregates/{path}"
    # Only a query that creates nothing at the vendor may be repeated when its answer is lost.
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
async def test_empty_answer_is_one_empty_page(body: dict[str, Any]) -> None:
    async with mock_client(lambda _: httpx.Response(200, json=body)) as client:
        (page,) = await read_pages(GenesysAdapter(client), _job(), genesys_report())
    assert page.rows.num_rows == 0
    assert "t_handle_sum" in page.rows.schema.names


async def test_omitted_metric_is_zero_without_extremes() -> None:
    group = {"mediaType": "voice", "queueId": "q"}
    data = [_bucket({"metric": "nOffered", "stats": {"count": 3}}), _bucket(hour=1)]
    busy, quiet = await _read(
        {"results": [{"group": group, "data": data}]}, metrics=["nOffered", "tHandle", "oServiceLevel"]
    )
    empty = dict.fromkeys(("t_handle_count", "t_handle_sum"), 0)
    empty |= dict.fromkeys(("o_service_level_numerator", "o_service_level_denominator"), 0)
    empty |= dict.fromkeys(("t_handle_min", "t_handle_max"))
    assert {name: busy[name] for name in ("n_offered", *empty)} == {"n_offered": 3, **empty}
    assert {name: quiet[name] for name in ("n_offered", *empty)} == {"n_offered": 0, **empty}


async def test_undeclared_statistics_are_dropped() -> None:
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


async def test_unrequested_metric_is_a_mismatch() -> None:
    data = [_bucket({"metric": "nTransferred", "stats": {"count": 3}})]
    with pytest.raises(SchemaMismatch, match=r"\['nTransferred'\] were not requested"):
        await _read({"results": [{"group": {}, "data": data}]})


async def _metric_columns(metric: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of one metric, read from a bucket with these entries."""
    data = [_bucket(*({"metric": metric, **entry} for entry in entries))]
    (row,) = await _read({"results": [{"group": {}, "data": data}]}, metrics=[metric], group_by=[])
    return {name: value for name, value in row.items() if not name.startswith("interval_")}


async def test_unreported_statistics_of_an_observation_are_null() -> None:
    empty = dict.fromkeys(f"o_media_count_{name}" for name in ("count", "sum", "min", "max"))
    assert await _metric_columns("oMediaCount", {"stats": {"count": 3}}) == empty | {"o_media_count_count": 3}
    assert await _metric_columns("oMediaCount", {"stats": {"count": 3, "sum": 5, "min": 1, "max": 2, "p95": 2}}) == {
        "o_media_count_count": 3,
        "o_media_count_sum": 5.0,
        "o_media_count_min": 1.0,
        "o_media_count_max": 2.0,
    }
    assert await _metric_columns("oMediaCount") == empty
    assert await _metric_columns("oServiceTarget", {"stats": {"target": 0.8}}) == {"o_service_target": 0.8}
    assert await _metric_columns("oServiceTarget") == {"o_service_target": None}


@pytest.mark.parametrize(
    ("metric", "stats", "problem"),
    [
        (
            "oMediaCount",
            {"ratio": 0.5},
            "oMediaCount lacks its count or sum or min or max; the answer has ratio",
        ),
        ("oMediaCount", {"current": 5}, "the answer has current"),
        ("oServiceTarget", {"ratio": 0.5}, "oServiceTarget lacks its target; the answer has ratio"),
        ("oServiceLevel", {"ratio": 0.5, "numerator": 1}, "oServiceLevel lacks its denominator"),
        ("nOffered", {"sum": 3}, "nOffered lacks its count; the answer has sum"),
        ("nOffered", {}, "the answer has none"),
        ("nOffered", {"count": None}, "nOffered lacks its count"),
        ("tHandle", {"count": 3}, "tHandle lacks its sum"),
    ],
)
async def test_missing_statistic_is_a_mismatch_not_zero(metric: str, stats: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _metric_columns(metric, {"stats": stats})


async def test_metric_reported_in_parts_is_a_mismatch() -> None:
    parts = [{"qualifier": state, "stats": {"count": 3, "sum": 9}} for state in ("open", "closed")]
    with pytest.raises(SchemaMismatch, match=r"tHandle has unknown qualifier 'open'; expected no qualifier"):
        await _metric_columns("tHandle", *parts)
    with pytest.raises(SchemaMismatch, match="nOffered appears twice"):
        await _metric_columns("nOffered", {"stats": {"count": 3}}, {"stats": {"count": 4}})


@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_report_of_another_family_has_figures(shared_redis: redis.asyncio.Redis, delivery: str) -> None:
    report = genesys_report(
        query_type="taskmanagement",
        group_by=["queueId"],
        metrics=["nWorkitemsCreated", "tWorkitemsHandled", "oWorkitemsServiceLevel"],
        delivery=delivery,
    )
    async with simulated_vendor(shared_redis) as vendor:
        rows = (await fetch_rows(vendor.genesys, report)).to_pylist()
    assert sum(row["n_workitems_created"] for row in rows) > 100
    assert all(
        row["t_workitems_handled_max"] <= row["t_workitems_handled_sum"]
        for row in rows
        if row["t_workitems_handled_count"]
    )
    assert sum(row["o_workitems_service_level_numerator"] for row in rows) > 0


async def test_observation_has_its_own_columns(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(group_by=["mediaType"], metrics=["oMediaCount", "oServiceTarget", "tTalk"])
    async with simulated_vendor(shared_redis) as vendor:
        rows = (await fetch_rows(vendor.genesys, report)).to_pylist()
    busy = [row for row in rows if row["t_talk_count"]]
    assert busy
    assert all(row["o_media_count_count"] == row["o_media_count_sum"] == row["t_talk_count"] for row in busy)
    assert {row["o_service_target"] for row in rows} <= {0.8, None}


@pytest.mark.parametrize("group_by", [["userId"], []])
@pytest.mark.parametrize("delivery", ["sync", "async"])
async def test_more_than_a_hundred_users_are_asked_in_several_queries(group_by: list[str], delivery: str) -> None:
    users = [f"u{number:03}" for number in range(250)]
    asked: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path.endswith("/query")
        body = json.loads(request.content)
        named = [predicate["value"] for clause in body["filter"]["clauses"] for predicate in clause["predicates"]]
        asked.append(named)
        bucket = {
            "interval": "2024-06-10T00:00:00.000Z/2024-06-11T00:00:00.000Z",
            "metrics": [{"metric": "tSystemPresence", "qualifier": "ON_QUEUE", "stats": {"sum": 10.0}}],
        }
        if body["groupBy"]:
            groups = [{"group": {"userId": name}, "data": [bucket]} for name in named]
        else:
            total = {**bucket, "metrics": [{**bucket["metrics"][0], "stats": {"sum": 10.0 * len(named)}}]}
            groups = [{"group": {}, "data": [total]}]
        return httpx.Response(200, json={"results": groups})

    report = genesys_report(
        query_type="users",
        group_by=group_by,
        metrics=["tSystemPresence"],
        granularity="P1D",
        delivery=delivery,
        tiers=["history"],
        filters={"type": "and", "predicates": [{"dimension": "userId", "operator": "in", "values": users}]},
    )
    assert list(GenesysAdapter.check_declaration(report)) == []
    async with mock_client(answer) as client:
        rows = await fetch_rows(GenesysAdapter(client), report)
    assert sorted(name for named in asked for name in named) == users
    assert [len(named) for named in asked] == [100, 100, 50]
    assert sum(rows["t_system_presence_on_queue"].to_pylist()) == 2500.0
    assert rows.num_rows == (250 if group_by else 1)


async def test_time_by_organisation_presence_agrees_with_system_presence(shared_redis: redis.asyncio.Redis) -> None:
    common: dict[str, Any] = {"query_type": "users", "granularity": "P1D", "delivery": "sync", "tiers": ["history"]}
    by_presence = genesys_report(
        **common, group_by=["userId", "organizationPresenceId", "systemPresence"], metrics=["tOrganizationPresence"]
    )
    by_state = genesys_report(**common, group_by=["userId"], metrics=["tSystemPresence"])
    assert list(GenesysAdapter.check_declaration(by_presence)) == []
    async with simulated_vendor(shared_redis) as vendor:
        presences = (await fetch_rows(vendor.genesys, by_presence)).to_pylist()
        states = (await fetch_rows(vendor.genesys, by_state)).to_pylist()
    assert len(presences) > len(states) > 0
    found = Counter({(row["user_id"], row["system_presence"]): row["t_organization_presence"] for row in presences})
    for row in states:
        for state in ("OFFLINE", "ON_QUEUE", "MEAL"):
            assert found[row["user_id"], state] == row[f"t_system_presence_{state.lower()}"]
