"""Rows that were still open when their bucket became final, and whose end only the answer to a later interval tells."""

from datetime import timedelta
from typing import Any

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import OpenWorld, World

MONDAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
TUESDAY = Interval(MONDAY.end, MONDAY.end + timedelta(hours=12))
REPORT = declared(
    platform="genesys",
    query_type="conversations",
    rows="conversations",
    time_zone="UTC",
    group_by=[],
    metrics=["nOffered", "tHandle"],
    volume_metric=None,
    expected_groups=None,
    open_row_timeout="PT1M",
    tiers=["history"],
)


def _stored(world: World, interval: Interval) -> list[dict[str, Any]]:
    service = world.service
    rows = service.history.rows(service.series(REPORT), IntervalSet([interval]), service.columns(REPORT))
    return sorted(rows.to_table().to_pylist(), key=lambda row: row["conversation_id"])


async def test_row_gets_the_end_that_a_later_answer_tells(open_world: OpenWorld):
    # Midnight UTC is a busy hour there, and e-mails wait for hours.
    async with open_world(REPORT, organisation_zone="America/New_York", conversations_per_working_day=2000) as world:
        series = world.service.series(REPORT)
        world.clock.at = MONDAY.end + timedelta(minutes=10)
        await world.fetch_and_store(MONDAY, REPORT)
        before = _stored(world, MONDAY)
        final_at_first = world.service.history.coverage(series).final
        open_rows = [row for row in before if row["conversation_end"] is None]
        reopened = [
            row for row in open_rows if Interval(row["interval_start"], row["interval_end"]) in _hours(final_at_first)
        ]
        assert reopened, "some buckets are final although rows of theirs have no end"

        world.clock.at = TUESDAY.end + timedelta(hours=1)
        await world.fetch_and_store(TUESDAY, REPORT)
        coverage = world.service.history.coverage(series)
        assert (
            IntervalSet(Interval(row["interval_start"], row["interval_end"]) for row in reopened) & coverage.final
            == IntervalSet()
        )

        world.clock.move(hours=24)
        await world.fetch_and_store(MONDAY, REPORT)
        after = _stored(world, MONDAY)
        assert not [row for row in after if row["conversation_end"] is None]
        assert [row["conversation_id"] for row in after] == [row["conversation_id"] for row in before]
        assert sum(row["t_handle"] for row in after) > sum(row["t_handle"] for row in before)
        assert IntervalSet([MONDAY]) - world.service.history.coverage(series).final == IntervalSet()

        # What has its end is left alone.
        submitted = await world.submits()
        await world.fetch_and_store(MONDAY, REPORT)
        assert await world.submits() == submitted


def _hours(intervals: IntervalSet) -> set[Interval]:
    hour = timedelta(hours=1)
    return {
        Interval(part.start + number * hour, part.start + (number + 1) * hour)
        for part in intervals
        for number in range(int((part.end - part.start) / hour))
    }
