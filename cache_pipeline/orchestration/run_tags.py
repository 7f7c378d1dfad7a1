"""Which lane of the quota a run's requests go in, by the run's tags."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.lane import Lane

#: Set on a run to choose its lane; otherwise it follows from how the run was launched.
LANE_TAG = "cache_pipeline/lane"
_BACKFILL_TAGS = ("dagster/backfill", "dagster/asset_partition_range_start")


def lane_of_run(tags: Mapping[str, str]) -> Lane:
    """The tagged lane; else ``backfill`` for backfills and ranges, ``scheduled`` for everything else.

    Raises:
        ValueError: the tag names no lane.
    """
    if LANE_TAG in tags:
        try:
            return Lane(tags[LANE_TAG])
        except ValueError as error:
            raise ValueError(f"tag {LANE_TAG}={tags[LANE_TAG]!r} is no lane: use {', '.join(Lane)}") from error
    return Lane.backfill if any(tag in tags for tag in _BACKFILL_TAGS) else Lane.scheduled
