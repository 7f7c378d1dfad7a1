"""The days of which a report has partitions. These are fetched on schedule, and missing until they are; other days are fetched on demand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from cache_pipeline.query.calendar import floor_to_step, midnight, next_boundary
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import kept_since


@dataclass(frozen=True)
class PartitionDays:
    """The range of days of a deployment's partitions.

    Attributes:
        first: The first day; None means the start of each report.
        end: The day after the last one; None means that the partitions have no end.
    """

    first: date | None = None
    end: date | None = None

    def first_of(self, report: Report) -> date:
        """Return the first day of a report's partitions."""
        return self.first or report.start


AS_DECLARED = PartitionDays()


def begun_interval(report: Report, days: PartitionDays, now: datetime) -> Interval | None:
    """Return the interval of a report's partitions up to now, or None if none has begun.

    Only whole partitions exist, so weeks begin with the first Monday. Partitions that the report does not keep any longer are not
    part of it.
    """
    step, zone = report.partition.step, report.zone
    first = midnight(days.first_of(report), zone)
    start = floor_to_step(first, step, zone)
    if start < first:
        start = next_boundary(start, step, zone)
    if (oldest := kept_since(report, now)) is not None:
        start = max(start, oldest)
    end = now if days.end is None else min(now, floor_to_step(midnight(days.end, zone), step, zone))
    return Interval(start, end) if start < end else None


def final_interval(
    report: Report, days: PartitionDays, now: datetime, settled_for: timedelta = timedelta()
) -> Interval | None:
    """Return the interval of the partitions that can be final by now, or None if there is none.

    Args:
        report: The report.
        days: The days of its partitions.
        now: The current time.
        settled_for: How long ago the partitions could first have been final: the end of their finality delay.
    """
    begun = begun_interval(report, days, now)
    if begun is None:
        return None
    settled = now - report.freshness.finality_delay - settled_for
    end = min(begun.end, floor_to_step(settled, report.partition.step, report.zone))
    return Interval(begun.start, end) if begun.start < end else None
