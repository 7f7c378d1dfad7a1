"""Queries with overrides are answered by rolling up the declared rows, without queries of their own."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.service.plan import AnswerSource, Cost
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import NOON, OpenWorld

REPORT = declared(
    time_zone="Europe/Berlin", granularity="PT15M", group_by=["queueId", "mediaType"], metrics=["offered"],
    expected_groups=8, ttl="PT5M",
)  # fmt: skip
YESTERDAY = Interval.parse("2026-01-05/2026-01-06", REPORT.zone)


async def test_overrides_are_answered_without_another_query(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        await world.service.answer(REPORT, YESTERDAY)
        before = await world.submits()
        for group_by in ((), ("queueId",), ("mediaType",)):
            for granularity in ("PT1H", "P1D"):
                overrides = QueryOverrides(group_by=group_by, granularity=granularity)
                document = json.loads((await world.service.answer(REPORT, YESTERDAY, overrides=overrides)).body)
                requested = declared(
                    group_by=list(group_by), granularity=granularity, metrics=["offered"], volume_metric=None
                )
                assert sorted(document["rows"]) == await world.truth(requested, YESTERDAY)
                assert document["granularity"] == granularity
                assert document["completeThrough"] == "2026-01-05T23:00:00Z"
        assert await world.submits() == before


async def test_override_fetches_the_declared_series(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        one = Filter.parse({"predicates": [{"dimension": "mediaType", "values": ["voice"]}]})
        by_hour = QueryOverrides(group_by=("queueId",), granularity="PT1H", filters=one)
        document = json.loads((await world.service.answer(REPORT, YESTERDAY, overrides=by_hour)).body)
        before = await world.submits()
        unfiltered = json.loads((await world.service.answer(REPORT, YESTERDAY)).body)
        assert await world.submits() == before
        voice = unfiltered["columns"].index("media_type")
        assert sum(row[-1] for row in document["rows"]) == sum(
            row[-1] for row in unfiltered["rows"] if row[voice] == "voice"
        )
        assert "media_type" not in document["columns"]


async def test_current_day_is_provisional_up_to_the_last_quarter(
    open_world: OpenWorld,
):
    today = Interval(YESTERDAY.end, YESTERDAY.end + timedelta(days=1))
    async with open_world(REPORT) as world:
        answer = await world.service.answer(REPORT, today, overrides=QueryOverrides(group_by=(), granularity="P1D"))
        document = json.loads(answer.body)
        assert document["interval"] == str(today)
        assert document["completeThrough"] == document["provisionalFrom"] == "2026-01-05T23:00:00Z"
        [[_, _, offered]] = document["rows"]
        until_now = Interval(today.start, NOON + timedelta(minutes=15))
        quarters: list[Any] = json.loads((await world.service.answer(REPORT, until_now)).body)["rows"]
        assert offered == sum(row[-1] for row in quarters)
        assert await world.submits() == 1


async def test_impossible_override_is_refused_before_any_request(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        with pytest.raises(InvalidQuery, match="granularity"):
            await world.service.answer(REPORT, YESTERDAY, overrides=QueryOverrides(granularity="PT5M"))
        assert await world.submits() == 0


async def test_finer_rows_of_another_report_are_rolled_up(open_world: OpenWorld):
    days = declared(
        name="days",
        granularity="P1D",
        group_by=["queueId"],
        metrics=["offered"],
        expected_groups=8,
        max_query_interval="P1W",
    )
    today = Interval(YESTERDAY.end, YESTERDAY.end + timedelta(days=1))
    before = Interval(YESTERDAY.start - timedelta(days=1), YESTERDAY.start)
    three = Interval(before.start, today.end)
    async with open_world(REPORT, days) as world:
        service = replace(world.service, declared=(REPORT, days))
        await service.answer(REPORT, Interval(YESTERDAY.start, NOON + timedelta(minutes=15)))
        submits = await world.submits()

        found = await service.plan(service.query(days, three))
        assert [(step.source, step.report, step.interval) for step in found.steps] == [
            (AnswerSource.vendor, "days", before),
            (AnswerSource.roll_up, "queue_hour", Interval(YESTERDAY.start, today.end)),
        ]
        assert await world.submits() == submits

        document = json.loads((await service.answer(days, three)).body)
        assert await world.submits() == submits + 1
        finished = [row for row in document["rows"] if row[0] < "2026-01-05T23:00:00Z"]
        assert sorted(finished) == await world.truth(days, Interval(three.start, today.start))
        assert document["completeThrough"] == document["provisionalFrom"] == "2026-01-05T23:00:00Z"
        assert document["fetchedAt"] == "2026-01-06T12:00:00Z"
        assert sum(row[-1] for row in document["rows"] if row[0] == "2026-01-05T23:00:00Z") > 0

        world.clock.move(minutes=4)
        await world.redis.flushall()
        await service.answer(days, today)
        assert await world.submits() == submits + 1


async def test_plan_uses_measured_cost_and_sends_nothing(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        found = await world.service.plan(world.service.query(REPORT, YESTERDAY))
        assert (len(found.chunks), found.cost) == (1, Cost.assumed(REPORT))
        assert await world.submits() == 0
        await world.service.answer(REPORT, YESTERDAY)
        hot = await world.service.plan(world.service.query(REPORT, YESTERDAY))
        assert [step.source for step in hot.steps] == [AnswerSource.hot]
        await world.redis.flushall()
        held = await world.service.plan(world.service.query(REPORT, YESTERDAY))
        assert [step.source for step in held.steps] == [AnswerSource.history]
        learned = await world.service.plan(world.service.query(REPORT, "2026-01-04/P1D"))
        assert learned.cost is not None
        assert learned.cost.is_measured
        assert learned.calls >= 3
