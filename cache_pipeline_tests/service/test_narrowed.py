"""Narrowed questions: answered by rolling up what the declared report holds, never by asking for them as well."""

import json
from datetime import timedelta
from typing import Any

import pytest

from cache_pipeline.query.errors import InvalidQuery
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.requested import Narrowing
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.service.conftest import NOON, OpenWorld

REPORT = declared(
    time_zone="Europe/Berlin", granularity="PT15M", group_by=["queueId", "mediaType"], metrics=["offered"],
    expected_groups=8, freshness="PT5M",
)  # fmt: skip
YESTERDAY = Interval.parse("2026-01-05/2026-01-06", REPORT.zone)


async def test_fewer_dimensions_and_longer_buckets_are_the_vendors_own_figures_for_no_query_more(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        await world.service.answer(REPORT, YESTERDAY)
        before = await world.submits()
        for group_by in ((), ("queueId",), ("mediaType",)):
            for granularity in ("PT1H", "P1D"):
                narrowing = Narrowing(group_by=group_by, granularity=granularity)
                document = json.loads((await world.service.answer(REPORT, YESTERDAY, narrowing=narrowing)).body)
                asked = declared(
                    group_by=list(group_by), granularity=granularity, metrics=["offered"], volume_metric=None
                )
                assert sorted(document["rows"]) == await world.truth(asked, YESTERDAY)
                assert document["granularity"] == granularity
                assert document["completeThrough"] == "2026-01-05T23:00:00Z"
        assert await world.submits() == before


async def test_a_narrowed_question_asks_for_the_declared_series_so_that_the_next_one_is_answered(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        one = Filter.model_validate({"predicates": [{"dimension": "mediaType", "values": ["voice"]}]})
        by_hour = Narrowing(group_by=("queueId",), granularity="PT1H", filters=one)
        document = json.loads((await world.service.answer(REPORT, YESTERDAY, narrowing=by_hour)).body)
        before = await world.submits()
        whole = json.loads((await world.service.answer(REPORT, YESTERDAY)).body)
        assert await world.submits() == before
        voice = whole["columns"].index("media_type")
        assert sum(row[-1] for row in document["rows"]) == sum(
            row[-1] for row in whole["rows"] if row[voice] == "voice"
        )
        assert "media_type" not in document["columns"]


async def test_the_day_that_is_going_on_is_provisional_as_a_whole_and_asked_for_to_the_last_quarter(
    open_world: OpenWorld,
):
    today = Interval(YESTERDAY.end, YESTERDAY.end + timedelta(days=1))
    async with open_world(REPORT) as world:
        answer = await world.service.answer(REPORT, today, narrowing=Narrowing(group_by=(), granularity="P1D"))
        document = json.loads(answer.body)
        assert document["interval"] == str(today)
        assert document["completeThrough"] == document["provisionalFrom"] == "2026-01-05T23:00:00Z"
        [[_, _, offered]] = document["rows"]
        until_now = Interval(today.start, NOON + timedelta(minutes=15))
        quarters: list[Any] = json.loads((await world.service.answer(REPORT, until_now)).body)["rows"]
        assert offered == sum(row[-1] for row in quarters)
        assert await world.submits() == 1


async def test_what_the_rows_do_not_hold_is_told_before_anything_is_sent(open_world: OpenWorld):
    async with open_world(REPORT) as world:
        with pytest.raises(InvalidQuery, match="granularity"):
            await world.service.answer(REPORT, YESTERDAY, narrowing=Narrowing(granularity="PT5M"))
        assert await world.submits() == 0
