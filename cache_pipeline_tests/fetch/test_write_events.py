"""Test of the event that reports each write to history."""

from dataclasses import replace
from datetime import timedelta

from cache_pipeline.fetch.write_events import RowsStored
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline_tests.world import REPORT, OpenWorld

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")


async def test_write_event_is_sent_once_for_fetched_rows(open_world: OpenWorld):
    heard: list[tuple[Report, RowsStored]] = []
    async with open_world() as world:
        service = replace(
            world.service, on_stored=lambda report, stored: heard.extend((report, each) for each in stored)
        )
        await service.answer(REPORT, MONDAY)
        ((report, event),) = heard
        assert (report, event.interval) == (REPORT, MONDAY)
        assert event.rows > 100
        assert event.calls >= 3
        assert event.watermark >= MONDAY.end
        assert world.clock() - event.fetched_at < timedelta(minutes=1)
        await service.answer(REPORT, Interval(MONDAY.start, MONDAY.start + timedelta(hours=6)))
        assert len(heard) == 1
