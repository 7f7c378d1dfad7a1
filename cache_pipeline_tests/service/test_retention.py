"""Tests of reports that keep history for a limited time: what is older is deleted, refused, and no longer missing."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cache_pipeline.bootstrap.database import expire_history
from cache_pipeline.errors import InvalidInterval
from cache_pipeline.orchestration.partitions import final_span, report_partitions
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.partition_days import AS_DECLARED, PartitionDays
from cache_pipeline.query.retention import kept_since
from cache_pipeline.service.status import missing_partitions
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import NOON, OpenWorld

REPORT = declared(
    time_zone="UTC", group_by=["queueId"], metrics=["offered"], expected_groups=8, start="2025-12-01", retention="P7D"
)
DAYS = Interval.parse("2025-12-27T00:00:00Z/2025-12-31T00:00:00Z")


def test_whole_partitions_are_kept_in_the_reports_zone() -> None:
    berlin = declared(time_zone="Europe/Berlin", retention="P7D")
    assert kept_since(berlin, NOON) == datetime(2025, 12, 29, 23, tzinfo=UTC)
    assert kept_since(declared(), NOON) is None


def test_older_partitions_are_neither_missing_nor_due() -> None:
    kept = kept_since(REPORT, NOON)
    assert missing_partitions(REPORT, AS_DECLARED, Coverage(), NOON) == 7
    span = final_span(REPORT, report_partitions(REPORT, PartitionDays(end=NOON.date())), NOON)
    assert span is not None
    assert span.start == kept


def test_retention_must_outlast_the_refetch_window() -> None:
    with pytest.raises(ValueError, match="is shorter than fetch"):
        declared(retention="P2D", refetch_window="P3D")


async def test_expired_history_is_deleted_and_never_asked_for_again(open_world: OpenWorld) -> None:
    async with open_world(REPORT) as world:
        # All four days are kept when they are fetched; three days later only the last one is.
        world.clock.at = datetime(2026, 1, 3, 12, tzinfo=UTC)
        await world.fetch_and_store(DAYS, REPORT)
        world.clock.move(days=3)
        deleted = await asyncio.to_thread(expire_history, world.settings, [REPORT], world.clock())
        assert deleted[REPORT.name] > 0
        kept = Interval(datetime(2025, 12, 30, tzinfo=UTC), DAYS.end)
        coverage = await asyncio.to_thread(world.service.history.coverage, world.service.series(REPORT))
        assert coverage.final | coverage.provisional == IntervalSet([kept])
        submits = await world.submits()
        assert (await world.service.answer(REPORT, kept)).body
        with pytest.raises(
            InvalidInterval, match="the report keeps nothing from before 2025-12-30T00:00:00Z"
        ) as refused:
            await world.service.plan(world.service.query(REPORT, DAYS))
        assert "ask from 2025-12-30T00:00:00Z on" in str(refused.value)
        with pytest.raises(InvalidInterval, match="the report keeps nothing"):
            await world.fetch_and_store(Interval(DAYS.start, DAYS.start + timedelta(days=1)), REPORT)
        assert await world.submits() == submits
        assert await asyncio.to_thread(expire_history, world.settings, [REPORT], world.clock()) == {REPORT.name: 0}
