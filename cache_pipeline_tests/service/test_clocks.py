"""A vendor whose clock differs from this machine's must not make open intervals final."""

import asyncio
from datetime import timedelta

import pytest

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline_tests.world import NOON, REPORT, OpenWorld


@pytest.mark.parametrize("hours", [-2, 26])
async def test_wrong_vendor_clock_makes_no_future_final(open_world: OpenWorld, hours: int) -> None:
    today = Interval(NOON - timedelta(hours=12), NOON + timedelta(hours=12))
    async with open_world() as world:
        await world.faults(clock_offset_seconds=hours * 3600)
        await world.service.answer(REPORT, today)
        coverage = await asyncio.to_thread(world.service.history.coverage, world.service.series(REPORT))
    final = [part.end for part in coverage.final]
    assert all(end <= NOON for end in final)
    assert coverage.provisional
    assert bool(final) == (hours > 0 or NOON - timedelta(hours=2) > today.start)


@pytest.mark.parametrize("hours", [-2, 26])
async def test_wrong_lake_clock_makes_no_open_conversation_final(open_world: OpenWorld, hours: int) -> None:
    today = Interval(NOON - timedelta(hours=12), NOON + timedelta(hours=12))
    report = Report.model_validate(
        {
            "name": "conversations",
            "description": "Each conversation",
            "platform": "genesys",
            "query_type": "conversations",
            "rows": "conversations",
            "group_by": ["conversationId"],
            "metrics": ["nOffered"],
            "granularity": "PT1H",
            "partition": "day",
            "start": "2026-01-01",
            "publish": {"tiers": ["history"]},
        }
    )
    async with open_world(report, conversations_per_working_day=200) as world:
        await world.faults(clock_offset_seconds=hours * 3600)
        await world.service.answer(report, today)
        coverage = await asyncio.to_thread(world.service.history.coverage, world.service.series(report))
    final = [part.end for part in coverage.final]
    assert all(end <= NOON + timedelta(hours=min(hours, 0)) for end in final)
    assert coverage.provisional
