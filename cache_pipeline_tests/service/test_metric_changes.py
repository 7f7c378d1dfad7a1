"""Declarations that gain, lose or reorder metrics: what is asked for again, and that every figure stays that of the vendor."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.report import Report
from cache_pipeline.service.plan import AnswerSource
from cache_pipeline.vendors.genesys import adapter
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import OpenWorld, World

DAYS = Interval.parse("2025-12-15T00:00:00Z/2026-01-05T00:00:00Z")
COUNT = 21


def report_of(*metrics: str, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "platform": "genesys",
        "query_type": "conversations",
        "time_zone": "UTC",
        "group_by": ["queueId", "mediaType"],
        "metrics": list(metrics),
        "volume_metric": None,
        "delivery": "sync",
        "start": "2025-12-01",
        "expected_groups": None,
        "tiers": ["hot", "history"],
    }
    return declared(**(fields | changes))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """The metrics and interval of every query that is sent."""
    queries: list[tuple[list[str], str]] = []
    build: Callable[..., dict[str, Any]] = adapter.aggregate_body

    def recorded(report: Report, interval: Interval) -> dict[str, Any]:
        body = build(report, interval)
        queries.append((body["metrics"], body["interval"]))
        return body

    monkeypatch.setattr(adapter, "aggregate_body", recorded)
    return queries


async def fetch(world: World, report: Report, interval: Interval = DAYS) -> None:
    """Fetch and store an interval, and fetch again after the delay of second looks."""
    await world.fetch_and_store(interval, report)
    world.clock.move(minutes=20)
    await world.fetch_and_store(interval, report)


async def declare(world: World, report: Report) -> None:
    await asyncio.to_thread(migrate_history, world.settings, {report.name: report})


async def totals(world: World, report: Report, interval: Interval = DAYS, **overrides: Any) -> dict[str, float]:
    """Return the sum of each column as the API answers it, by day and in total."""
    wanted = QueryOverrides(group_by=(), granularity="P1D", **overrides)
    document = json.loads((await world.service.answer(report, interval, overrides=wanted)).body)
    rows = [dict(zip(document["columns"], row, strict=True)) for row in document["rows"]]
    return {name: sum(row[name] for row in rows) for name in document["columns"] if not name.startswith("interval")}


def view_totals(world: World, *columns: str) -> dict[str, float]:
    with psycopg.connect(world.settings.required_postgres_url()) as connection:
        sums = ", ".join(f"sum({name})::float8" for name in columns)
        row = connection.execute(f"SELECT {sums}, bool_and(is_final) FROM reporting.queue_hour").fetchone()  # pyright: ignore[reportArgumentType]
        assert row is not None
        assert row[-1] is True
        return dict(zip(columns, row, strict=False))


async def vendor_total(world: World, fact: str, value: str) -> float:
    query = {"interval": str(DAYS), "granularity": "P1D", "groupBy": "", "fact": fact}
    rows = (await world.admin.get("/simulator/truth", params=query)).json()["rows"]
    return sum(row[value] for row in rows)


async def test_added_metric_is_the_only_one_asked_for(open_world: OpenWorld, asked: list[tuple[list[str], str]]):
    before, after = report_of("nOffered", "tAnswered"), report_of("nOffered", "tAnswered", "nTransferred")
    async with open_world(before) as world:
        await fetch(world, before)
        asked.clear()
        await declare(world, after)
        plan = await world.service.plan(world.service.query(after, DAYS))
        assert {(step.source, step.metrics) for step in plan.steps} == {(AnswerSource.vendor, ("nTransferred",))}
        assert len(plan.chunks) == COUNT
        assert "only nTransferred" in plan.steps[0].reason
        await world.fetch_and_store(DAYS, after)
        assert {tuple(metrics) for metrics, _ in asked} == {("nTransferred",)}
        # One for each day, and what the completeness rules compare.
        assert COUNT <= len(asked) <= 1.2 * COUNT
        await fetch(world, after)
        asked.clear()
        found = await totals(world, after)
        assert asked == []
        assert view_totals(world, "n_offered", "n_transferred", "t_answered_sum") == {
            name: found[name] for name in ("n_offered", "n_transferred", "t_answered_sum")
        }
        assert found["n_transferred"] == await vendor_total(world, "transferred", "transferred")
        assert found["n_offered"] == await vendor_total(world, "offered", "offered")


async def test_removed_or_reordered_metrics_ask_for_nothing(open_world: OpenWorld, asked: list[tuple[list[str], str]]):
    before = report_of("nOffered", "tAnswered", "nTransferred")
    async with open_world(before) as world:
        await fetch(world, before)
        asked.clear()
        for report in (report_of("nTransferred", "tAnswered", "nOffered"), report_of("nOffered"), before):
            await declare(world, report)
            await world.fetch_and_store(DAYS, report)
            assert (await totals(world, report))["n_offered"] == await vendor_total(world, "offered", "offered")
        assert asked == []


async def test_two_changes_leave_the_totals_of_the_vendor(open_world: OpenWorld):
    first, second, third = (
        report_of("nOffered", "tAnswered"),
        report_of("nOffered", "tHandle"),
        report_of("nOffered", "oServiceLevel", "tAnswered", "tHandle"),
    )
    async with open_world(first) as world:
        for report in (first, second, third):
            await declare(world, report)
            await fetch(world, report)
        found = await totals(world, third)
        expected = {
            "n_offered": await vendor_total(world, "offered", "offered"),
            "t_handle_sum": await vendor_total(world, "handle", "handleMs"),
            "t_answered_count": await vendor_total(world, "answered", "answered"),
            "o_service_level_numerator": await vendor_total(world, "in_target", "in_target"),
        }
        assert {name: found[name] for name in expected} == expected
        assert view_totals(world, *expected) == expected


async def test_stored_metrics_answer_while_another_is_missing(
    open_world: OpenWorld, asked: list[tuple[list[str], str]]
):
    before, after = report_of("nOffered"), report_of("nOffered", "nTransferred")
    async with open_world(before) as world:
        await fetch(world, before)
        await declare(world, after)
        asked.clear()
        assert await totals(world, after, metrics=("nOffered",)) == {
            "n_offered": await vendor_total(world, "offered", "offered")
        }
        assert asked == []
        with psycopg.connect(world.settings.required_postgres_url()) as connection:
            found = connection.execute(
                "SELECT count(*) FILTER (WHERE n_transferred IS NOT NULL OR is_final), count(*) FROM reporting.queue_hour"
            ).fetchone()
        assert found is not None
        assert found[0] == 0 < found[1]


@pytest.mark.parametrize(
    "change",
    [
        {"filters": {"predicates": [{"dimension": "mediaType", "values": ["voice"]}]}},
        {"time_zone": "Asia/Kolkata"},
        {"granularity": "PT30M"},
        {"group_by": ["queueId"]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_change_of_the_groups_starts_a_new_series(open_world: OpenWorld, change: dict[str, Any]):
    before = report_of("nOffered")
    async with open_world(before) as world:
        await fetch(world, before)
        changed = report_of("nOffered", **change)
        assert not world.service.history.coverage(world.service.series(changed)).final


async def test_day_that_is_provisional_is_fetched_with_all_metrics(
    open_world: OpenWorld, asked: list[tuple[list[str], str]]
):
    before, after = report_of("nOffered"), report_of("nOffered", "nTransferred")
    async with open_world(before) as world:
        today = Interval(DAYS.end, world.clock() + timedelta(hours=12))
        await fetch(world, before, Interval(DAYS.start, today.end))
        await declare(world, after)
        asked.clear()
        await fetch(world, after, Interval(DAYS.start, today.end))
        assert {tuple(metrics) for metrics, interval in asked if Interval.parse(interval).start < today.start} == {
            ("nTransferred",)
        }
        coverage = world.service.history.coverage(world.service.series(after))
        assert coverage.final.covers(DAYS)
        assert not IntervalSet([today]) - coverage.final - coverage.provisional


async def test_old_and_new_declaration_at_once_lose_no_figure(open_world: OpenWorld):
    old, new = report_of("nOffered", "tAnswered"), report_of("nOffered", "nTransferred")
    async with open_world(old) as world:
        await declare(world, new)
        await asyncio.gather(fetch(world, old), fetch(world, new))
        both = report_of("nOffered", "nTransferred", "tAnswered")
        await fetch(world, both)
        coverage = world.service.history.coverage(world.service.series(both))
        assert coverage.final.covers(DAYS)
        found = await totals(world, both)
        assert found["n_offered"] == await vendor_total(world, "offered", "offered")
        assert found["t_answered_count"] == await vendor_total(world, "answered", "answered")
        assert found["n_transferred"] == await vendor_total(world, "transferred", "transferred")
