"""Conversations, segments and what agents did, as rows: one for each, in the bucket in which it begins."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis.asyncio
from pydantic import ValidationError

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import arrow_schema
from cache_pipeline.vendors.base import VendorJob
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.workbench import (
    DAY,
    INSTANT,
    Vendor,
    all_pages,
    asked,
    genesys_report,
    said,
    simulated,
)

SMALL = INSTANT.model_copy(update={"conversations_per_working_day": 800})
NEXT_DAY = Interval(DAY.end, DAY.end + timedelta(days=1))


def rows_report(rows: str, **changes: Any) -> Report:
    metrics = {
        "conversations": ["nOffered", "nTransferred", "tTalk", "tHandle", "tAbandon"],
        "segments": ["tSegmentDuration"],
        "presence": ["tSystemPresence"],
        "routing": ["tAgentRoutingStatus"],
    }[rows]
    family = "users" if rows in ("presence", "routing") else "conversations"
    wish = {"rows": rows, "query_type": family, "group_by": [], "metrics": metrics, "tiers": ["history"]}
    return genesys_report(**(wish | changes))


async def _total(vendor: Vendor, metric: str, family: str = "conversations") -> dict[str, Any]:
    report = genesys_report(query_type=family, metrics=[metric], group_by=[], granularity="P1D", delivery="sync")
    (row,) = (await asked(vendor.genesys, report)).to_pylist()
    return row


async def test_every_conversation_of_a_day_is_one_row_and_their_sums_are_the_aggregates(
    shared_redis: redis.asyncio.Redis,
) -> None:
    # Nothing lasts over midnight here, so that what began on the day is what happened on it.
    settings = SMALL.model_copy(update={"organisation_zone": "UTC"})
    async with simulated(shared_redis, settings) as vendor:
        rows = await asked(vendor.genesys, rows_report("conversations"))
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


async def test_neighbouring_intervals_give_a_conversation_over_their_border_once(
    shared_redis: redis.asyncio.Redis,
) -> None:
    settings = SMALL.model_copy(update={"organisation_zone": "America/New_York"})
    report = rows_report("conversations")
    async with simulated(shared_redis, settings) as vendor:
        one, other = [await asked(vendor.genesys, report, each) for each in (DAY, NEXT_DAY)]
        whole = await asked(vendor.genesys, report, Interval(DAY.start, NEXT_DAY.end))
        over = (await vendor.admin.get("/simulator/counters")).json()["summary"]["submits"]
    assert over == 3
    border = [row for row in one.to_pylist() if row["conversation_end"] >= DAY.end]
    assert border, "none lasts over the border, so that this test proves nothing"
    ids = Counter(one["conversation_id"].to_pylist() + other["conversation_id"].to_pylist())
    assert set(ids.values()) == {1}
    assert set(ids) == set(whole["conversation_id"].to_pylist())


@pytest.mark.parametrize("rows", ["segments", "presence", "routing"])
async def test_rows_of_other_kinds_are_unique_by_their_keys_and_lie_in_their_bucket(
    shared_redis: redis.asyncio.Redis, rows: str
) -> None:
    report = rows_report(rows)
    async with simulated(shared_redis, SMALL) as vendor:
        found = (await asked(vendor.genesys, report)).to_pylist()
    keys = Counter((row["interval_start"], *(row[_snake(name)] for name in report.group_by)) for row in found)
    assert set(keys.values()) == {1}
    assert len(found) > 300
    length = {"segments": "t_segment_duration", "presence": "t_system_presence", "routing": "t_agent_routing_status"}
    for row in found:
        start = row["segment_start"] if rows == "segments" else datetime.fromisoformat(row["start_time"])
        end = row["segment_end"] if rows == "segments" else row["end_time"]
        assert row["interval_start"] <= start < row["interval_end"]
        assert row[length[rows]] == round((end - start).total_seconds() * 1000)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


async def test_user_aggregates_have_a_column_for_each_state(shared_redis: redis.asyncio.Redis) -> None:
    report = genesys_report(
        query_type="users", group_by=["userId"], metrics=["tSystemPresence", "tAgentRoutingStatus"], delivery="sync"
    )
    async with simulated(shared_redis, SMALL) as vendor:
        rows = await asked(vendor.genesys, report)
        by_job = await asked(vendor.genesys, report.model_copy(update={"delivery": "async"}))
    hours, names = rows.to_pylist(), rows.schema.names
    assert sorted(hours, key=str) == sorted(by_job.to_pylist(), key=str)
    presences = [name for name in names if name.startswith("t_system_presence_")]
    assert len(presences) == 10
    assert {sum(row[name] for name in presences) for row in hours} == {3_600_000.0}
    assert sum(row["t_agent_routing_status_interacting"] for row in hours) > 0


async def test_an_open_conversation_keeps_its_bucket_and_what_follows_provisional(
    shared_redis: redis.asyncio.Redis,
) -> None:
    clock = SettableClock("2024-06-10T12:00:30+00:00")
    async with simulated(shared_redis, SMALL, clock) as vendor:
        first = await _complete_until(vendor.genesys, rows_report("conversations"))
        clock.seconds += 10 * 3600
        later = await _complete_until(vendor.genesys, rows_report("conversations"))
    # The vendor's own word would have been 11:58.
    assert first < datetime(2024, 6, 10, 11, 58, tzinfo=UTC)
    assert first.minute == 0
    assert later > first


async def test_a_row_that_was_never_closed_is_not_awaited_for_ever(shared_redis: redis.asyncio.Redis) -> None:
    clock = SettableClock("2024-06-12T00:30:30+00:00")
    orphans = SMALL.model_copy(update={"orphan_share": 0.2})
    async with simulated(shared_redis, orphans, clock) as vendor:
        waiting = await _complete_until(vendor.genesys, rows_report("conversations"))
        clock.seconds += 3 * 86_400
        given_up = await _complete_until(vendor.genesys, rows_report("conversations"))
    assert waiting < DAY.end
    assert given_up == datetime(2024, 6, 15, 0, 28, tzinfo=UTC)


async def _complete_until(platform: GenesysAdapter, report: Report) -> datetime:
    job = await platform.submit(report, DAY, Lane.scheduled)
    assert (await platform.status(job)).done
    marks = [page.watermark for page in await all_pages(platform, job, report)]
    assert None not in marks
    return min(mark for mark in marks if mark is not None)


async def test_a_page_without_a_watermark_has_it_asked_for() -> None:
    asked_for: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked_for.append(request.url.path)
        told = {"dataAvailabilityDate": "2024-06-10T08:00:00.000Z"}
        return httpx.Response(200, json=told if request.url.path.endswith("/availability") else {})

    path = "/api/v2/analytics/conversations/details/jobs/job-1"
    async with said(answer) as client:
        job = VendorJob(f"{path}?interval={DAY}", "alpha", Lane.scheduled)
        (page,) = await all_pages(GenesysAdapter(client), job, rows_report("conversations"))
    assert page.rows.num_rows == 0
    assert page.watermark == datetime(2024, 6, 10, 8, tzinfo=UTC)
    assert asked_for == [f"{path}/results", "/api/v2/analytics/conversations/details/jobs/availability"]


async def test_filters_reach_the_vendor_as_segment_filters(shared_redis: redis.asyncio.Redis) -> None:
    only = {"predicates": [{"dimension": "mediaType", "operator": "in", "values": ["email"]}]}
    async with simulated(shared_redis, SMALL) as vendor:
        rows = await asked(vendor.genesys, rows_report("conversations", filters=only))
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
async def test_a_malformed_entry_names_what_is_wrong_with_it(entry: dict[str, Any], problem: str) -> None:
    page = {"conversations": [entry], "dataAvailabilityDate": "2024-06-11T00:00:00.000Z"}
    job = VendorJob(f"/api/v2/x/jobs/job-1?interval={DAY}", "alpha", Lane.scheduled)
    async with said(lambda _: httpx.Response(200, json=page)) as client:
        with pytest.raises(SchemaMismatch, match=problem):
            await all_pages(GenesysAdapter(client), job, rows_report("conversations"))


def test_a_report_of_rows_has_their_keys_for_groups() -> None:
    assert rows_report("conversations").group_by == ("conversationId",)
    with pytest.raises(ValidationError, match="write group_by: \\[\\]"):
        rows_report("conversations", group_by=["queueId"])


def test_instants_and_durations_are_typed() -> None:
    schema = arrow_schema(GenesysAdapter.columns(rows_report("conversations")))
    assert schema.field("conversation_end").type == pa.timestamp("us", tz="UTC")
    assert schema.field("t_talk").type == pa.int64()
