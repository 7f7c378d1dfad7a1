"""Limits on the intervals that a vendor can answer: nothing in the future, and nothing older than its retention.

Such a query is refused before anything is sent. The vendor would answer it with no rows, which looks like a quiet day and
would overwrite the rows in history.
"""

from __future__ import annotations

from datetime import datetime

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.calendar import floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant
from cache_pipeline.query.report import Report


def future_interval_error(interval: Interval) -> InvalidInterval:
    """Return the error for an interval in the future."""
    return InvalidInterval(f"interval {interval} has not started yet")


def retention_error(report: Report, gaps: IntervalSet, retained_since: datetime | None) -> InvalidInterval | None:
    """Return the error for gaps that start before the vendor's retention, or None if the vendor can answer them all.

    Args:
        report: The report that has the gaps.
        gaps: The intervals that the vendor would be asked for.
        retained_since: The vendor keeps nothing from before this instant. None if that is unknown.
    """
    if retained_since is None or not gaps:
        return None
    first = floor_to_step(retained_since, report.step, report.zone)
    if first < retained_since:
        first = next_boundary(first, report.step, report.zone)
    lost = next((Interval(part.start, min(part.end, first)) for part in gaps if part.start < first), None)
    if lost is None:
        return None
    setting = report.account_setting("retention_days")
    return InvalidInterval(
        f"{report.name} {lost} is not stored, and {report.platform} keeps nothing from before "
        f"{format_instant(retained_since.replace(microsecond=0))} ({setting}): ask from {format_instant(first)} on"
    )
