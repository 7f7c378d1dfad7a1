"""Dagster partitions of a report's intervals, in the report's time zone, and the run tags that select them.

See https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

import dagster as dg

from cache_pipeline.query.calendar import cut_at_boundaries, expand_to_steps, floor_to_step, midnight
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.partition_days import AS_DECLARED, PartitionDays, final_interval
from cache_pipeline.query.report import Cadence, Report

# An hourly key carries its UTC offset: without it the hour that a clock change repeats would have one key for two hours.
_FORMATS: Mapping[Cadence, tuple[str, str]] = {
    Cadence.hour: ("%Y-%m-%dT%H:%M%z", "0 * * * *"),
    Cadence.day: ("%Y-%m-%d", "0 0 * * *"),
    Cadence.week: ("%Y-%m-%d", "0 0 * * 1"),
}

#: A report and its partitions, by the report's name.
DeclaredReports = Mapping[str, tuple[Report, dg.TimeWindowPartitionsDefinition]]

_PARTITION_TAG = "dagster/partition"
_RANGE_START_TAG, _RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def report_partitions(report: Report, days: PartitionDays = AS_DECLARED) -> dg.TimeWindowPartitionsDefinition:
    """Return the partitions of a report's cadence on these days."""
    fmt, cron = _FORMATS[report.partition]

    def format_day(day: date) -> str:
        return midnight(day, report.zone).astimezone(report.zone).strftime(fmt)

    return dg.TimeWindowPartitionsDefinition(
        start=format_day(days.first_of(report)),
        end=format_day(days.end) if days.end else None,
        cron_schedule=cron,
        fmt=fmt,
        timezone=report.time_zone,
    )


def partition_intervals(partitions: dg.TimeWindowPartitionsDefinition, keys: Iterable[str]) -> dict[str, Interval]:
    """Return the interval of each partition key."""
    windows = {key: partitions.time_window_for_partition_key(key) for key in keys}
    return {key: Interval(window.start, window.end) for key, window in windows.items()}


def keys_within(partitions: dg.TimeWindowPartitionsDefinition, interval: Interval) -> list[str]:
    """Return the keys of the partitions that lie wholly inside an interval and have ended by now, in order."""
    first, last = partitions.get_first_partition_window(), partitions.get_last_partition_window()
    if first is None or last is None:
        return []
    # Dagster invents keys for times before the first partition and after the last one.
    existing = interval.intersection(Interval(first.start, last.end))
    if existing is None:
        return []
    keys = partitions.get_partition_keys_in_time_window(dg.TimeWindow(existing.start, existing.end))
    # The partitions are adjacent, so only the first and the last can reach outside. Computing the window of every one
    # takes a second for a year of hours.
    ends = partition_intervals(partitions, {*keys[:1], *keys[-1:]})
    outside = {key for key, span in ends.items() if not interval.contains(span)}
    return [key for key in keys if key not in outside]


def partitions_overlapping(partitions: dg.TimeWindowPartitionsDefinition, interval: Interval) -> dict[str, Interval]:
    """Return the partitions that overlap an interval and have ended by now, in order, by their keys.

    Computed by our own calendar: Dagster takes 25 milliseconds for a hundred partitions, and a thousand sensors look at as many
    every minute. A test compares the two.
    """
    first, last = partitions.get_first_partition_window(), partitions.get_last_partition_window()
    if first is None or last is None:
        return {}
    existing = interval.intersection(Interval(first.start, last.end))
    if existing is None:
        return {}
    cadence = next(each for each, (_, cron) in _FORMATS.items() if cron == partitions.cron_schedule)
    step, zone = cadence.step, ZoneInfo(partitions.timezone)
    spans = cut_at_boundaries(expand_to_steps(existing, step, zone), step, zone)
    return {span.start.astimezone(zone).strftime(partitions.fmt): span for span in spans}


def partitions_within(partitions: dg.TimeWindowPartitionsDefinition, interval: Interval) -> dict[str, Interval]:
    """Return the partitions that lie wholly inside an interval and have ended by now, in order, by their keys."""
    found = partitions_overlapping(partitions, interval)
    return {key: span for key, span in found.items() if interval.contains(span)}


def final_span(report: Report, partitions: dg.TimeWindowPartitionsDefinition, now: datetime) -> Interval | None:
    """Return the interval of the partitions that can be final by now: the finality delay after their end has passed.

    Partitions that the report does not keep any longer are not among them.

    Computed without listing the partitions, because a thousand sensors do so every minute.
    """
    return final_interval(report, partition_days(partitions), now)


def partition_days(partitions: dg.TimeWindowPartitionsDefinition) -> PartitionDays:
    """Return the days of a definition by ``report_partitions``."""
    return PartitionDays(partitions.start.date(), partitions.end.date() if partitions.end else None)


def newest_partitions(report: Report, span: Interval, at_most: int) -> Interval:
    """Return the end of an interval of whole partitions that has approximately as many as given, or all of it."""
    step = report.partition.step
    return Interval(
        max(span.start, floor_to_step(span.end - at_most * step.nominal_length, step, report.zone)), span.end
    )


def keys_ending_between(partitions: dg.TimeWindowPartitionsDefinition, after: datetime, until: datetime) -> list[str]:
    """Return the keys of the partitions that end later than `after` and not later than `until`, in order."""
    found = partitions_overlapping(partitions, Interval(after, until))
    return [key for key, span in found.items() if after < span.end <= until]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the run tags that make one run cover a range of partitions."""
    return {_RANGE_START_TAG: first, _RANGE_END_TAG: last}


def starts_at_tag(first: str) -> dict[str, str]:
    """Return the run tag that every range starting at this partition has."""
    return {_RANGE_START_TAG: first}


def interval_of_run(partitions: dg.TimeWindowPartitionsDefinition, tags: Mapping[str, str]) -> Interval | None:
    """Return the interval that a run covers, or None if its tags name no partition of this definition."""
    first = tags.get(_PARTITION_TAG) or tags.get(_RANGE_START_TAG)
    last = tags.get(_PARTITION_TAG) or tags.get(_RANGE_END_TAG)
    if first is None or last is None:
        return None
    try:
        start, end = (partitions.time_window_for_partition_key(key) for key in (first, last))
        return Interval(start.start, end.end)
    except (dg.DagsterError, ValueError):
        # The report had another cadence when the run was launched.
        return None


def keys_of_run(partitions: dg.TimeWindowPartitionsDefinition, tags: Mapping[str, str]) -> list[str]:
    """Return the partition keys that a run covers, read from its tags because a check's context does not give them.

    Raises:
        Failure: The run covers no partition; a successful run must not hide that.
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
