"""What can be asked of a vendor at all: nothing that has not begun, and nothing older than it keeps.

It is refused before anything is sent. An empty answer about figures that are kept no longer would look like a quiet day, and would be written over what history holds.
"""

from __future__ import annotations

from datetime import datetime

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.calendar import floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant
from cache_pipeline.query.report import Report


def future_interval_error(interval: Interval) -> InvalidInterval:
    """The error of asking for the future."""
    return InvalidInterval(f"interval {interval} has not begun yet")


def retention_error(report: Report, gaps: IntervalSet, retained_since: datetime | None) -> InvalidInterval | None:
    """The error of asking the vendor for some gaps, where a bucket of them began before what it still keeps.

    Args:
        report: whose gaps.
        gaps: what the vendor would be asked for.
        retained_since: nothing that was before is kept by it; None where that is not known.
    """
    if retained_since is None or not gaps:
        return None
    first = floor_to_step(retained_since, report.step, report.zone)
    if first < retained_since:
        first = next_boundary(first, report.step, report.zone)
    lost = next((Interval(part.start, min(part.end, first)) for part in gaps if part.start < first), None)
    if lost is None:
        return None
    setting = f"CACHE_PIPELINE_{report.platform.upper()}__RETENTION_DAYS"
    return InvalidInterval(
        f"{report.name} {lost} is not held, and {report.platform} keeps nothing from before "
        f"{format_instant(retained_since.replace(microsecond=0))} ({setting}): ask from {format_instant(first)} on"
    )
