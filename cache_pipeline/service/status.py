"""Summarises what history holds of each report, day by day, what it lacks, and how fresh it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from cache_pipeline.query.calendar import expand_to_steps, floor_to_step, midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import kept_since
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule


class DayState(StrEnum):
    """How much of a local day history holds.

    Attributes:
        final: All of it. It changes only if the vendor restates it.
        provisional: All of it that has begun, but some of it is not final.
        partial: Some of it.
        missing: None of it.
    """

    final = "final"
    provisional = "provisional"
    partial = "partial"
    missing = "missing"


@dataclass(frozen=True)
class ReportStatus:
    """The status of one report.

    Attributes:
        report: The report's name.
        platform: The vendor it is fetched from.
        days: The state of each local day in the period, in order.
        complete_through: The end of the last final bucket stored, or None.
        fetched_at: When the oldest provisional figure was fetched; None if there is none.
        freshness: How old figures may become that are younger than the finality delay.
        is_stale: Whether provisional figures are due to be fetched again.
        gaps: Intervals of the period that have begun and are not stored.
    """

    report: str
    platform: str
    days: tuple[tuple[date, DayState], ...]
    complete_through: datetime | None
    fetched_at: datetime | None
    freshness: timedelta
    is_stale: bool
    gaps: tuple[Interval, ...]


def report_status(report: Report, coverage: Coverage, now: datetime, days: int) -> ReportStatus:
    """Return the status of a report over its last ``days`` local days including today, without days before its start."""
    stored, rule = coverage.final | coverage.provisional, FreshnessRule.of(report)
    spans = list(_begun_days(report, now, days))
    period = IntervalSet(span for _, span in spans)
    ends = [part.end for part in coverage.final]
    return ReportStatus(
        report=report.name,
        platform=report.platform,
        days=tuple((day, _state(coverage, span)) for day, span in spans),
        complete_through=max(ends, default=None),
        fetched_at=coverage.provisional_fetched_at,
        freshness=rule.ttl,
        is_stale=bool(rule.gaps(coverage, coverage.provisional, now)),
        gaps=tuple(period - stored),
    )


def missing_partitions(report: Report, coverage: Coverage, now: datetime) -> int:
    """Return how many partitions since the report's start history lacks, or holds only in part.

    A partition counts once it could have been final for as long as its figures may be old, so that there was time to fetch it.
    """
    step, zone = report.partition.step, report.zone
    start = floor_to_step(midnight(report.start, zone), step, zone)
    if (oldest := kept_since(report, now)) is not None:
        start = max(start, oldest)
    end = floor_to_step(now - report.freshness.finality_delay - FreshnessRule.of(report).ttl, step, zone)
    if start >= end:
        return 0
    missing = IntervalSet([Interval(start, end)]) - coverage.final - coverage.provisional
    # A stretch that begins and ends inside partitions concerns all of these.
    partitions = IntervalSet(expand_to_steps(part, step, zone) for part in missing)
    return sum(round(part.length / step.nominal_length) for part in partitions)


def overdue_since(report: Report, coverage: Coverage, now: datetime) -> datetime | None:
    """Return since when provisional figures have been due to be fetched again, or None if none are due."""
    rule = FreshnessRule.of(report)
    found = [rule.completeness_of(coverage, part) for part in rule.gaps(coverage, coverage.provisional, now)]
    return min((each.fresh_until for each in found if each and each.fresh_until), default=None)


def _begun_days(report: Report, now: datetime, days: int) -> Iterator[tuple[date, Interval]]:
    """Yield each local day with the part of it that has passed."""
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
    if coverage.final.covers(span):
        return DayState.final
    if not wanted - coverage.final - coverage.provisional:
        return DayState.provisional
    return DayState.partial if wanted & (coverage.final | coverage.provisional) else DayState.missing
