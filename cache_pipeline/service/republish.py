"""Publishing from history what it holds: the edge tier anew, or a trailing window that the vendor may have restated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cache_pipeline.query.calendar import Step, cut_at_boundaries, floor_to_step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import is_publishable

_DAY, _MONTH = Step(days=1), Step(months=1)
#: Vendors correct figures for about this long; publishing the whole of it again uploads only what changed.
TRAILING = timedelta(days=35)


@dataclass(frozen=True)
class RepublishResult:
    """What was published of one report.

    Attributes:
        intervals: what history held of what was wanted.
        rows: published.
        files: written or found unchanged.
        uploaded: of those, the new ones.
        snapshot: id of the manifest afterwards, or None where history held nothing.
    """

    intervals: IntervalSet = field(default_factory=IntervalSet)
    rows: int = 0
    files: int = 0
    uploaded: int = 0
    snapshot: str | None = None


def trailing_window(report: Report, now: datetime, length: timedelta = TRAILING) -> Interval:
    """The report's whole local days from ``length`` ago until now."""
    return Interval(floor_to_step(now - length, _DAY, report.zone), now)


def republish(
    history: History, edge: EdgeTier, series: Series, columns: Sequence[Column], wanted: Interval | None = None
) -> RepublishResult:
    """Publish what history holds, month by month; rows that history does not hold stay as they were published.

    Args:
        history: where the rows are.
        edge: where they go.
        series: the report and tenant.
        columns: of the report's answers.
        wanted: interval to publish, or None for everything held.

    Raises:
        EdgeStoreError: the store refused; months that went before are published.
        HistoryUnavailable: PostgreSQL cannot be used.
    """
    coverage = history.coverage(series)
    held = coverage.complete | coverage.provisional
    if wanted is not None:
        held &= IntervalSet([wanted])
    done = RepublishResult(intervals=held)
    for month in _by_month(series.report, held):
        rows = {part: is_publishable(series.report, history.rows(series, [part], columns)) for part in month}
        provisional = coverage.provisional & IntervalSet(month)
        publication = edge.publish(series.report, rows, next((part.start for part in provisional), None))
        done = RepublishResult(
            held,
            done.rows + sum(table.num_rows for table in rows.values()),
            done.files + len(publication.files),
            done.uploaded + publication.uploaded,
            publication.snapshot,
        )
    return done


def _by_month(report: Report, held: Iterable[Interval]) -> list[list[Interval]]:
    months: dict[datetime, list[Interval]] = {}
    for part in held:
        for piece in cut_at_boundaries(part, _MONTH, report.zone):
            months.setdefault(floor_to_step(piece.start, _MONTH, report.zone), []).append(piece)
    return [months[month] for month in sorted(months)]
