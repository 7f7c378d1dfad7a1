"""Report intervals as Dagster partitions, in the report's time zone.

See https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta

import dagster as dg

from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Cadence, Report

# An hourly key carries its offset: without it the hour that a clock change repeats would have one key for two hours.
_FORMATS: Mapping[Cadence, tuple[str, str]] = {
    Cadence.hour: ("%Y-%m-%dT%H:%M%z", "0 * * * *"),
    Cadence.day: ("%Y-%m-%d", "0 0 * * *"),
    Cadence.week: ("%Y-%m-%d", "0 0 * * 1"),
}

#: A report and its partitions, by name.
Declared = Mapping[str, tuple[Report, dg.TimeWindowPartitionsDefinition]]

_WEEK = timedelta(days=8)
_PARTITION_TAG = "dagster/partition"
_RANGE_START_TAG, _RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def report_partitions(
    report: Report, first_day: date | None = None, end_day: date | None = None
) -> dg.TimeWindowPartitionsDefinition:
    """Partitions of a report's cadence.

    Args:
        report: the declaration.
        first_day: overrides the declared first day.
        end_day: first day without partitions; by default they go on for ever.
    """
    fmt, cron = _FORMATS[report.partition]

    def written(day: date) -> str:
        return midnight(day, report.zone).astimezone(report.zone).strftime(fmt)

    return dg.TimeWindowPartitionsDefinition(
        start=written(first_day or report.start),
        end=written(end_day) if end_day else None,
        cron_schedule=cron,
        fmt=fmt,
        timezone=report.time_zone,
    )


def partition_intervals(partitions: dg.TimeWindowPartitionsDefinition, keys: Iterable[str]) -> dict[str, Interval]:
    """The interval of each partition key."""
    windows = {key: partitions.time_window_for_partition_key(key) for key in keys}
    return {key: Interval(window.start, window.end) for key, window in windows.items()}


def keys_within(partitions: dg.TimeWindowPartitionsDefinition, interval: Interval) -> list[str]:
    """Keys of the partitions that lie wholly inside an interval, in order; those that exist: begun, and ended by now."""
    first, last = partitions.get_first_partition_window(), partitions.get_last_partition_window()
    if first is None or last is None:
        return []
    # Dagster makes up keys for times before the first partition and after the last one.
    existing = interval.intersection(Interval(first.start, last.end))
    if existing is None:
        return []
    keys = partitions.get_partition_keys_in_time_window(dg.TimeWindow(existing.start, existing.end))
    # They are adjacent: only the first and the last can reach out of it. A window of its own for each costs a second
    # for a year of hours.
    ends = partition_intervals(partitions, {*keys[:1], *keys[-1:]})
    outside = {key for key, span in ends.items() if not interval.contains(span)}
    return [key for key in keys if key not in outside]


def keys_touching(partitions: dg.TimeWindowPartitionsDefinition, interval: Interval) -> list[str]:
    """Keys of the partitions that share an instant with an interval, in order; those that have ended by now."""
    first, last = partitions.get_first_partition_window(), partitions.get_last_partition_window()
    if first is None or last is None:
        return []
    existing = interval.intersection(Interval(first.start, last.end))
    if existing is None:
        return []
    # The partition in which it begins starts before it, and the last ends after it: by a week at most.
    window = dg.TimeWindow(max(existing.start - _WEEK, first.start), min(existing.end + _WEEK, last.end))
    keys = partitions.get_partition_keys_in_time_window(window)
    return [key for key, span in partition_intervals(partitions, keys).items() if span.intersection(existing)]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that make one run cover a range of partitions."""
    return {_RANGE_START_TAG: first, _RANGE_END_TAG: last}


def starts_at_tag(first: str) -> dict[str, str]:
    """The run tag that every range from this partition on has."""
    return {_RANGE_START_TAG: first}


def keys_of_run(partitions: dg.TimeWindowPartitionsDefinition, tags: Mapping[str, str]) -> list[str]:
    """The partition keys that a run covers, by its tags; a check's context does not tell them.

    Raises:
        Failure: the run covers none, which a green run must not hide.
    """
    if _PARTITION_TAG in tags:
        return [tags[_PARTITION_TAG]]
    keys: list[str] = []
    if _RANGE_START_TAG in tags:
        span = dg.PartitionKeyRange(tags[_RANGE_START_TAG], tags[_RANGE_END_TAG])
        keys = list(partitions.get_partition_keys_in_range(span))
    if not keys:
        raise dg.Failure("the run covers no partition: select at least one", allow_retries=False)
    return keys
