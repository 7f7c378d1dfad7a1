"""Test of the event that reports each write to history."""

from dataclasses import replace
from datetime import timedelta

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.fetch.write_events import RowsStored
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline_tests.world import REPORT, OpenWorld, partitions_of

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


async def test_event_reports_only_what_was_written(open_world: OpenWorld):
    heard: list[RowsStored] = []
    async with open_world() as world:
        service = replace(world.service, on_stored=lambda _report, stored: heard.extend(stored))
        wanted = {"monday": MONDAY}
        [early] = [part async for part in partitions_of(world.service.fetch(REPORT, wanted, Lane.scheduled))]
        assert isinstance(early, FetchedPartition)
        world.clock.move(hours=1)
        midday = Interval(MONDAY.start + timedelta(hours=10), MONDAY.start + timedelta(hours=14))
        refetch = world.service.fetch(REPORT, {"midday": midday}, Lane.scheduled, refetch=True)
        [late] = [part async for part in partitions_of(refetch)]
        assert isinstance(late, FetchedPartition)
        await world.service.store(REPORT, [late])

        await service.store(REPORT, [early])
        assert [event.interval for event in heard] == list(IntervalSet([MONDAY]) - IntervalSet([midday]))
        assert sum(event.rows for event in heard) == early.rows.num_rows - late.rows.num_rows
        assert sum(event.calls for event in heard) == sum(chunk.calls for chunk in early.chunks)
        heard.clear()
        # History holds newer figures of all of it by now.
        await service.store(REPORT, [replace(early, interval=midday, rows=early.rows.within(midday), fetch_times=())])
        assert heard == []
