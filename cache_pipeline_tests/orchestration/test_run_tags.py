"""Tests of the lane that follows from a run's tags."""

import pytest

from cache_pipeline.orchestration.partitions import range_tags
from cache_pipeline.orchestration.run_tags import lane_of_run
from cache_pipeline.query.lane import Lane

RANGE = range_tags("2025-06-01", "2025-06-02")


@pytest.mark.parametrize(
    ("tags", "lane"),
    [
        ({}, Lane.scheduled),
        ({"dagster/partition": "2025-06-01"}, Lane.scheduled),
        ({"dagster/schedule_name": "calls_hour_schedule"}, Lane.scheduled),
        ({"dagster/backfill": "abcdef"}, Lane.backfill),
        (RANGE, Lane.backfill),
        ({**RANGE, "cache_pipeline/lane": "scheduled"}, Lane.scheduled),
        ({"cache_pipeline/lane": "interactive"}, Lane.interactive),
        ({"cache_pipeline/lane": "backfill"}, Lane.backfill),
    ],
)
def test_lane_follows_from_tag_or_launch(tags: dict[str, str], lane: Lane) -> None:
    assert lane_of_run(tags) is lane


def test_unknown_lane_error_lists_lanes() -> None:
    with pytest.raises(
        ValueError, match=r"cache_pipeline/lane='fast': unknown lane; expected one of interactive, scheduled, backfill"
    ):
        lane_of_run({"cache_pipeline/lane": "fast"})
