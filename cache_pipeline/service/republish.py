"""Publishes from history to the edge tier: everything, or a trailing window that the vendor may have restated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cache_pipeline.query.calendar import Step, cut_at_boundaries, floor_to_step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import Series
from cache_pipeline.service.publish import Availability, publish_edge
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.published import EdgeTier

_DAY, _MONTH = Step(days=1), Step(months=1)
#: Vendors correct figures for about this long. Publishing all of it again uploads only the files that changed.
DEFAULT_TRAILING_WINDOW = timedelta(days=35)


@dataclass(frozen=True)
class RepublishResult:
    """What one publication of a report wrote.

    Attributes:
        intervals: The part of the requested interval that history held.
        rows: The number of rows published.
        files: The number of files written or found unchanged.
        uploaded: The number of those files that are new.
        snapshot: The id of the manifest afterwards, or None if history held nothing.
    """

    intervals: IntervalSet = field(default_factory=IntervalSet)
    rows: int = 0
    files: int = 0
    uploaded: int = 0
    snapshot: str | None = None


def trailing_window(report: Report, now: datetime, length: timedelta = DEFAULT_TRAILING_WINDOW) -> Interval:
    """Return the report's local days from ``length`` ago until now."""
    return Interval(floor_to_step(now - length, _DAY, report.zone), now)


def republish(
    history: History, edge: EdgeTier, series: Series, columns: Sequence[Column], interval: Interval | None = None
) -> RepublishResult:
    """Publish what history holds, month by month. Published rows that history no longer holds stay published.

    Args:
        history: The tier that holds the rows.
        edge: The tier to publish to.
        series: The report and tenant.
        columns: The report's columns.
        interval: The interval to publish, or None for everything stored.

    Raises:
        EdgeStoreError: The store refused; the months before that one are published.
        HistoryUnavailable: PostgreSQL cannot be used.
    """
    coverage = history.coverage(series)
    wanted = [interval] if interval is not None else [*(coverage.final | coverage.provisional)]
    stored = Availability.of(coverage, wanted).stored
    result = RepublishResult(intervals=stored)
    for month in _group_by_month(series.report, stored):
        published = publish_edge(history, edge, series, columns, month)
        if published.edge is not None:
            result = RepublishResult(
                stored,
                result.rows + published.rows,
                result.files + len(published.edge.files),
                result.uploaded + published.edge.uploaded,
                published.edge.snapshot,
            )
    return result


def _group_by_month(report: Report, stored: Iterable[Interval]) -> list[list[Interval]]:
    months: dict[datetime, list[Interval]] = {}
    for part in stored:
        for piece in cut_at_boundaries(part, _MONTH, report.zone):
            months.setdefault(floor_to_step(piece.start, _MONTH, report.zone), []).append(piece)
    return [months[month] for month in sorted(months)]
