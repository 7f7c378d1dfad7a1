"""Tags that this package sets on Dagster runs or reads from them, and the lane that follows from them."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.lane import Lane

#: Chooses the lane of a run's requests; without it the lane follows from how the run was launched.
LANE_TAG = "cache_pipeline/lane"
#: On runs that a sensor requested: the sensor's name.
LAUNCHED_BY_TAG = "cache_pipeline/launched_by"
#: On runs that retry an incomplete partition: which attempt this is, counted from 1.
RETRY_ATTEMPT_TAG = "cache_pipeline/retry_attempt"
#: On runs that prefetch: how many API requests had missed the partition.
MISSED_REQUESTS_TAG = "cache_pipeline/missed_requests"
#: On runs that fetch: how many partitions are done, and how long the rest will take.
PROGRESS_TAG = "cache_pipeline/progress"

_BACKFILL_TAGS = ("dagster/backfill", "dagster/asset_partition_range_start")


def lane_of_run(tags: Mapping[str, str]) -> Lane:
    """Return the tagged lane; without a tag, ``backfill`` for backfills and ranges and ``scheduled`` for other runs.

    Raises:
        ValueError: The tag names an unknown lane.
    """
    if LANE_TAG in tags:
        try:
            return Lane(tags[LANE_TAG])
        except ValueError as error:
            raise ValueError(
                f"tag {LANE_TAG}={tags[LANE_TAG]!r}: unknown lane; expected one of {', '.join(Lane)}"
            ) from error
    return Lane.backfill if any(tag in tags for tag in _BACKFILL_TAGS) else Lane.scheduled
