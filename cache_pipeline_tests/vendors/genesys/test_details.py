"""Tests of Genesys details: conversations, segments and agent states as rows in the bucket in which each begins."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis.asyncio

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import to_arrow_schema
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline.vendors.declaration_rules import find_vendor_problems
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.query.declared import with_changes
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    Vendor,
    fetch_rows,
    genesys_report,
    mock_client,
    read_pages,
    simulated_vendor,
)

# Without threads of days, all figures of a day are known soon after it.
SMALL = INSTANT.model_copy(update={"conversations_per_working_day": 800, "thread_share": 0.0})
NEXT_DAY = Interval(DAY.end, DAY.end + timedelta(days=1))


def rows_report(rows: str, **changes: Any) -> Report:
    metrics = {
        "conversations": ["nOffered", "nTransferred", "tTalk", "tHandle", "tAbandon"],
        "segments": ["tSegmentDuration"],
        "presence": ["tSystemPresence"],
        "routing": ["tAgentRoutingStatus"],
    }[rows]
    family = "users" if rows in ("presence", "routing") else "conversations"
    base = {"rows": rows, "query_type": family, "group_by": [], "metrics": metrics, "tiers": ["history"]}
    return genesys_report(**(base | changes))


async def _total(vendor: Vendor, metric: str, family: str = "conversations") -> dict[str, Any]:
    report = genesys_report(query_type=family, metrics=[metric], group_by=[], granularity="P1D", delivery="sync")
    (row,) = (await fetch_rows(vendor.genesys, report)).to_pylist()
    return row


async def test_conversation_rows_add_up_to_the_aggregates(
    shared_redis: redis.asyncio.Redis,
) -> None:
    # No conversation here crosses midnight, so the conversations that began on the day are those of the day.
    settings = SMALL.model_copy(update={"organisation_zone": "UTC"})
    async with simulated_vendor(shared_redis, settings) as vendor:
        rows = await fetch_rows(vendor.genesys, rows_report("conversations"))
        offered, talk, handle = [await _total(vendor, name) for name in ("nOffered", "tTalk", "tHandle")]
    found = rows.to_pylist()
    assert len({row["conversation_id"] for row in found}) == len(found) == sum(row["n_offered"] for row in found)
    assert len(found) >= offered["n_offered"] > 300
    assert sum(row["t_talk"] for row in found) == pytest.approx(talk["t_talk_sum"], rel=0.05)
    assert sum(row["t_handle"] for row in found) == pytest.approx(handle["t_handle_sum"], rel=0.05)
    for row in found:
        assert row["interval_start"] <= row["conversation_start"] < row["interval_end"]
        assert row["conversation_start"] < row["conversation_end"]
        assert row["first_queue_id"]
        assert (row["agents"] == 0) == (row["last_user_id"] is None) == (row["t_abandon"] > 0)


async def test_conversation_across_a_border_is_returned_once(
    shared_redis: redis.asyncio.Redis,
) -> None:
    settings = SMALL.model_copy(update={"organisation_zone": "America/New_York"})
    report = rows_report("conversations")
    async with simulated_vendor(shared_redis, settings) as vendor:
        first, second = [await fetch_rows(vendor.genesys, report, day) for day in (DAY, NEXT_DAY)]
        both = await fetch_rows(vendor.genesys, report, Interval(DAY.start, NEXT_DAY.end))
        submits = (await vendor.admin.get("/simulator/counters")).json()["summary"]["submits"]
    assert submits == 3
    crossing = [row for row in first.to_pylist() if row["conversation_end"] >= DAY.end]
    assert crossing, "no conversation crosses the border, so this test proves nothing"
    ids = Counter(first["conversation_id"].to_pylist() + second["conversation_id"].to_pylist())
    assert set(ids.values()) == {1}
    assert set(ids) == set(both["conversation_id"].to_pylist())


@pytest.mark.parametrize("rows", ["segments", "presence", "routing"])
async def test_rows_have_unique_keys_and_fit_their_bucket(shared_redis: redis.asyncio.Redis, rows: str) -> None:
    report = rows_report(rows)
    async with simulated_vendor(shared_redis, SMALL) as vendor:
        found = (await fetch_rows(vendor.genesys, report)).to_pylist()
    keys = Counter((row["interval_start"], *(row[_snake(name)] for name in report.group_by)) for row in found)
    assert set(keys.values()) == {1}
    assert len(found) > 300
    duration = {"segments": "t_segment_duration", "presence": "t_system_presence", "routing": "t_agent_routing_status"}
    for row in found:
        start = row["segment_start"] if rows == "segments" else datetime.fromisoformat(row["start_time"])
        end = row["segment_end"] if rows == "segments" else row["end_time"]
        assert row["interval_start"] <= start < row["interval_end"]
        assert row[duration[rows]] == round((end - start).total_seconds() * 1000)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


async def test_user_aggregates_have_a_column_per_state(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(
        query_type="users", group_by=["userId"], metrics=["tSystemPresence", "tAgentRoutingStatus"], delivery="sync"
    )
    async with simulated_vendor(shared_redis, SMALL) as vendor:
        rows = await fetch_rows(vendor.genesys, report)
        by_job = await fetch_rows(vendor.genesys, with_changes(report, delivery="async"))
    hours, names = rows.to_pylist(), rows.schema.names
    assert sorted(hours, key=str) == sorted(by_job.to_pylist(), key=str)
    presences = [name for name in names if name.startswith("t_system_presence_")]
    assert len(presences) == 10
    assert {sum(row[name] for name in presences) for row in hours} == {3_600_000.0}
    assert sum(row["t_agent_routing_status_interacting"] for row in hours) > 0


async def test_open_conversation_keeps_later_buckets_provisional(
    shared_redis: redis.asyncio.Redis,
) -> None:
    clock = SettableClock("2024-06-10T12:00:30+00:00")
    async with simulated_vendor(shared_redis, SMALL, clock) as vendor:
        first = await _complete_until(vendor.genesys, rows_report("conversations"))
        clock.seconds += 10 * 3600
        later = await _complete_until(vendor.genesys, rows_report("conversations"))
    # The vendor's own watermark is 11:58.
    assert first < datetime(2024, 6, 10, 11, 58, tzinfo=UTC)
    assert first.minute == 0
    assert later > first


async def test_row_that_never_ends_eventually_becomes_final(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock("2024-06-12T00:30:30+00:00")
    orphans = SMALL.model_copy(update={"orphan_share": 0.2})
    async with simulated_vendor(shared_redis, orphans, clock) as vendor:
        before_timeout = await _complete_until(vendor.genesys, rows_report("conversations"))
        clock.seconds += 3 * 86_400
        after_timeout = await _complete_until(vendor.genesys, rows_report("conversations"))
    assert before_timeout < DAY.end
    assert after_timeout == datetime(2024, 6, 15, 0, 28, tzinfo=UTC)


async def _complete_until(platform: GenesysAdapter, report: Report) -> datetime:
    job = await platform.submit(report, DAY, Lane.scheduled)
    assert (await platform.status(job)).is_done
    watermarks = [page.watermark for page in await read_pages(platform, job, report)]
    assert None not in watermarks
    return min(watermark for watermark in watermarks if watermark is not None)


async def test_page_without_watermark_triggers_a_request_for_it() -> None:
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        availability = {"dataAvailabilityDate": "2024-06-10T08:00:00.000Z"}
        return httpx.Response(200, json=availability if request.url.path.endswith("/availability") else {})

    path = "/api/v2/analytics/conversations/details/jobs/job-1"
    async with mock_client(answer) as client:
        job = VendorJob(f"{path}?interval={DAY}", "alpha", Lane.scheduled)
        (page,) = await read_pages(GenesysAdapter(client), job, rows_report("conversations"))
    assert page.rows.num_rows == 0
    assert page.watermark == datetime(2024, 6, 10, 8, tzinfo=UTC)
    assert paths == [f"{path}/results", "/api/v2/analytics/conversations/details/jobs/availability"]


async def test_filters_reach_the_vendor_as_segment_filters(shared_redis: redis.asyncio.Redis) -> None:
    email_only = {"predicates": [{"dimension": "mediaType", "operator": "in", "values": ["email"]}]}
    async with simulated_vendor(shared_redis, SMALL) as vendor:
        rows = await fetch_rows(vendor.genesys, rows_report("conversations", filters=email_only))
    assert set(rows["media_type"].to_pylist()) == {"email"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"conversationStart": "2024-06-10T08:00:00.000Z"}, "conversationId is missing"),
        ({"conversationId": "c-1", "conversationStart": "yesterday"}, "conversationStart"),
        (
            {
                "conversationId": "c-1",
                "conversationStart": "2024-06-10T08:00:00.000Z",
                "participants": [{"sessions": [{"metrics": [{"name": "tTalk", "value": 1.5}]}]}],
            },
            "tTalk is 1.5",
        ),
    ],
)
async def test_malformed_entry_error_names_the_field(entry: dict[str, Any], problem: str) -> None:
    page = {"conversations": [entry], "dataAvailabilityDate": "2024-06-11T00:00:00.000Z"}
    job = VendorJob(f"/api/v2/x/jobs/job-1?interval={DAY}", "alpha", Lane.scheduled)
    async with mock_client(lambda _: httpx.Response(200, json=page)) as client:
        with pytest.raises(SchemaMismatch, match=problem):
            await read_pages(GenesysAdapter(client), job, rows_report("conversations"))


def test_row_report_is_grouped_by_its_keys() -> None:
    assert rows_report("conversations").group_by == ("conversationId",)
    ((field, problem),) = find_vendor_problems(rows_report("conversations", group_by=["queueId"]))
    assert field == "group_by"
    assert problem.endswith("write group_by: []")


def test_instants_and_durations_are_typed() -> None:
    schema = to_arrow_schema(GenesysAdapter.columns(rows_report("conversations")))
    assert schema.field("conversation_end").type == pa.timestamp("us", tz="UTC")
    assert schema.field("t_talk").type == pa.int64()
