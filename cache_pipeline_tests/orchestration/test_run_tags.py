"""The lane of the quota that a run's requests go in."""

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
def test_a_runs_lane_follows_from_its_tag_else_from_how_it_was_launched(tags: dict[str, str], lane: Lane) -> None:
    assert lane_of_run(tags) is lane


def test_a_tag_that_names_no_lane_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"cache_pipeline/lane='fast': unknown lane; expected one of interactive, scheduled, backfill"
    ):
        lane_of_run({"cache_pipeline/lane": "fast"})
