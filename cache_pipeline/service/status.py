"""What is kept of each report, day by day, and how fresh it is: for people who ask whether the figures can be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from cache_pipeline.query.calendar import midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ttl import report_freshness


class DayState(StrEnum):
    """How much of a local day history holds.

    Attributes:
        final: all of it, and it will not change but by restatement.
        provisional: all of it that has begun, some of it not final.
        partial: some of it.
        missing: nothing.
    """

    final = "final"
    provisional = "provisional"
    partial = "partial"
    missing = "missing"


@dataclass(frozen=True)
class ReportStatus:
    """One report's standing.

    Attributes:
        report: its name, and ``platform`` whom it asks.
        days: state of each local day that was looked at, in order.
        complete_through: end of the last final bucket held, or None.
        fetched_at: when the oldest provisional figure was fetched; None where none is held.
        freshness: how old provisional figures may grow.
        gaps: what is neither held nor in the future, within the days looked at.
    """

    report: str
    platform: str
    days: tuple[tuple[date, DayState], ...]
    complete_through: datetime | None
    fetched_at: datetime | None
    freshness: timedelta
    gaps: tuple[Interval, ...]

    def is_stale(self, now: datetime) -> bool:
        """Whether provisional figures are older than the report allows."""
        return self.fetched_at is not None and now - self.fetched_at > self.freshness


def report_status(report: Report, coverage: Coverage, now: datetime, days: int) -> ReportStatus:
    """The standing of a report over its last ``days`` local days, today included; days before its start are left out."""
    held = coverage.complete | coverage.provisional
    spans = list(_begun_days(report, now, days))
    wanted = IntervalSet(span for _, span in spans)
    ends = [part.end for part in coverage.complete]
    return ReportStatus(
        report=report.name,
        platform=report.platform,
        days=tuple((day, _state(coverage, span)) for day, span in spans),
        complete_through=max(ends, default=None),
        fetched_at=coverage.provisional_fetched_at,
        freshness=report_freshness(report),
        gaps=tuple(wanted - held),
    )


def _begun_days(report: Report, now: datetime, days: int) -> Iterator[tuple[date, Interval]]:
    """Each local day with the part of it that lies in the past."""
    today = now.astimezone(report.zone).date()
    first = max(today - timedelta(days=days - 1), report.start)
    for number in range((today - first).days + 1):
        day = first + timedelta(days=number)
        start = midnight(day, report.zone)
        end = min(midnight(day + timedelta(days=1), report.zone), now)
        if start < end:
            yield day, Interval(start, end)


def _state(coverage: Coverage, span: Interval) -> DayState:
    wanted = IntervalSet([span])
    if coverage.complete.covers(span):
        return DayState.final
    if not wanted - coverage.complete - coverage.provisional:
        return DayState.provisional
    return DayState.partial if wanted & (coverage.complete | coverage.provisional) else DayState.missing
