"""Limits on the intervals that can be asked for: nothing in the future, nor older than the vendor's or the report's retention.

Such a query is refused before anything is sent. The vendor would answer it with no rows, which looks like a quiet day and
would overwrite the rows in history.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.calendar import floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant
from cache_pipeline.query.report import Report


def future_interval_error(interval: Interval) -> InvalidInterval:
    """Return the error for an interval in the future."""
    return InvalidInterval(f"interval {interval} has not started yet")


@dataclass(frozen=True)
class RetentionLimit:
    """Before which instant a report has no figures.

    Attributes:
        since: The instant.
        reason: Who keeps nothing from before it, and where that is set.
    """

    since: datetime
    reason: str


def kept_since(report: Report, now: datetime) -> datetime | None:
    """Return the start of the oldest partition that a report keeps, or None if it keeps all of them."""
    if report.retention is None:
        return None
    return floor_to_step(now - report.retention, report.partition.step, report.zone)


def retention_limit(report: Report, vendor_keeps: timedelta | None, now: datetime) -> RetentionLimit | None:
    """Return the later of the limits of a report and of its vendor, or None if there is neither.

    Args:
        report: The report.
        vendor_keeps: How long the vendor keeps figures; None if that is unknown.
        now: The current time.
    """
    limits: list[RetentionLimit] = []
    if vendor_keeps is not None:
        since = now - vendor_keeps
        limits.append(
            RetentionLimit(
                since,
                f"{report.platform} keeps nothing from before {format_instant(since.replace(microsecond=0))} "
                f"({report.account_setting('retention_days')})",
            )
        )
    if (own := kept_since(report, now)) is not None:
        limits.append(RetentionLimit(own, f"the report keeps nothing from before {format_instant(own)} (retention)"))
    return max(limits, key=lambda limit: limit.since, default=None)


def retention_error(report: Report, gaps: IntervalSet, limit: RetentionLimit | None) -> InvalidInterval | None:
    """Return the error for gaps that start before the limit of retention, or None if there are none.

    Args:
        report: The report that has the gaps.
        gaps: The intervals that the vendor would be asked for.
        limit: The limit; None if there is none.
    """
    if limit is None or not gaps:
        return None
    first = floor_to_step(limit.since, report.step, report.zone)
    if first < limit.since:
        first = next_boundary(first, report.step, report.zone)
    lost = next((Interval(part.start, min(part.end, first)) for part in gaps if part.start < first), None)
    if lost is None:
        return None
    return InvalidInterval(
        f"{report.name} {lost} is not stored, and {limit.reason}: ask from {format_instant(first)} on"
    )


def clip_to_now(interval: Interval, report: Report, now: datetime) -> Interval | None:
    """Return the part of an interval whose buckets have begun, or None; nothing can be fetched about the future."""
    begun = next_boundary(floor_to_step(now, report.step, report.zone), report.step, report.zone)
    return Interval(interval.start, min(begun, interval.end)) if interval.start < begun else None
