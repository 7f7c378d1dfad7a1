"""Reports whose groups the vendor splits by medium unasked, from the query to the stored rows."""

import json
from datetime import timedelta
from typing import Any

import pytest

from cache_pipeline.query.completeness import Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.genesys import adapter
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import OpenWorld, World

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")


def _report(**changes: Any) -> Report:
    return declared(
        **{
            "platform": "genesys",
            "query_type": "conversations",
            "time_zone": "UTC",
            "group_by": ["queueId"],
            "metrics": ["nOffered", "tHandle", "oServiceLevel"],
            "volume_metric": "nOffered",
            "expected_groups": None,
            "tiers": ["hot", "history"],
        }
        | changes
    )


async def _rows(world: World, report: Report, overrides: QueryOverrides | None = None) -> list[dict[str, Any]]:
    answer = await world.service.answer(report, MONDAY, overrides=overrides or QueryOverrides())
    document = json.loads(answer.body)
    return [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]


async def _truth(
    world: World, report: Report, fact: str, value: str, granularity: str = "PT1H"
) -> dict[tuple[str, ...], int]:
    query = {
        "interval": str(MONDAY),
        "granularity": granularity,
        "groupBy": ",".join(report.group_by),
        "fact": fact,
    }
    rows = (await world.admin.get("/simulator/truth", params=query)).json()["rows"]
    names = ("intervalStart", *report.group_by)
    return {tuple(str(row.get(name)).replace(".000Z", "Z") for name in names): row[value] for row in rows}


def _by_group(rows: list[dict[str, Any]], report: Report, name: str) -> dict[tuple[str, ...], int]:
    keys = ("interval_start", *({"queueId": "queue_id", "userId": "user_id"}[each] for each in report.group_by))
    found = {tuple(str(row[key]) for key in keys): row[name] for row in rows}
    assert len(found) == len(rows)
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize("delivery", ["sync", "async"])
@pytest.mark.parametrize("group_by", [["queueId"], ["userId"], []])
async def test_figures_are_true_although_the_vendor_splits(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, group_by: list[str], delivery: str
):
    # The media of one group are on different pages.
    monkeypatch.setattr(adapter, "AGGREGATES_PAGE_SIZE", 7)
    report = _report(group_by=group_by, delivery=delivery)
    async with open_world(report) as world:
        rows = await _rows(world, report)
        assert _by_group(rows, report, "n_offered") == await _truth(world, report, "offered", "offered")
        handled = await _truth(world, report, "handle", "handleMs")
        assert _by_group(rows, report, "t_handle_sum") == {key: value for key, value in handled.items() if value}
        met = await _truth(world, report, "in_target", "in_target")
        assert _by_group(rows, report, "o_service_level_numerator") == {
            key: value for key, value in met.items() if value
        }
        # History answers the same without the vendor, and rolls up.
        before = await world.submits()
        await world.redis.flushall()
        assert await _rows(world, report) == rows
        total = await _rows(world, report, QueryOverrides(group_by=(), granularity="P1D"))
        assert [row["n_offered"] for row in total] == [sum(row["n_offered"] for row in rows)]
        assert await world.submits() == before


async def test_rows_are_counted_as_the_vendor_sends_them(open_world: OpenWorld):
    report = _report(delivery="sync", expected_groups=8)
    first, second = Interval(MONDAY.start - timedelta(days=7), MONDAY.end - timedelta(days=7)), MONDAY
    async with open_world(report) as world:
        (learned,) = await world.fetch_and_store(first, report)
        (judged,) = await world.fetch_and_store(second, report)
        stored = world.service.history.rows(
            world.service.series(report), IntervalSet([first]), world.service.columns(report)
        )
    assert learned.verdict in (Verdict.complete, Verdict.sparse)
    assert learned.kept == stored.num_rows
    assert learned.got > 2 * stored.num_rows
    assert judged.source == "history"
    assert judged.expected == pytest.approx(learned.got, rel=0.2)
    assert judged.verdict is Verdict.complete
