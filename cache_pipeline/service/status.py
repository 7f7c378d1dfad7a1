"""Summarises what history holds of each report, day by day, what it lacks, and how fresh it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from cache_pipeline.query.calendar import Step, cut_at_boundaries, expand_to_steps, midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.partition_days import PartitionDays, begun_interval, final_interval
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ttl import report_freshness

_DAY, _INSTANT = Step(days=1), timedelta(microseconds=1)


class DayState(StrEnum):
    """How much of a local day history holds.

    Attributes:
        final: All of it. It changes only if the vendor restates it.
        provisional: All of it that has begun, but some of it is not final.
        begun: All of it that is due. What else of it has begun is still to be fetched, as the current day usually is.
        partial: Some of it.
        missing: None of it.
    """

    final = "final"
    provisional = "provisional"
    begun = "begun"
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
        gaps: Intervals of the period that are due and not stored.
    """

    report: str
    platform: str
    days: tuple[tuple[date, DayState], ...]
    complete_through: datetime | None
    fetched_at: datetime | None
    freshness: timedelta
    is_stale: bool
    gaps: tuple[Interval, ...]


def report_status(
    report: Report, partition_days: PartitionDays, coverage: Coverage, now: datetime, days: int
) -> ReportStatus:
    """Return the status of a report over the last ``days`` local days of its partitions, including today."""
    rule, due = FreshnessRule.of(report), due_partitions(report, partition_days, now)
    spans = list(_begun_days(report, partition_days, now, days))
    gaps = (IntervalSet(span for _, span in spans) & due) - coverage.final - coverage.provisional
    ends = [part.end for part in coverage.final]
    return ReportStatus(
        report=report.name,
        platform=report.platform,
        days=tuple((day, _state(coverage, span, gaps)) for day, span in spans),
        complete_through=max(ends, default=None),
        fetched_at=coverage.provisional_fetched_at,
        freshness=rule.ttl,
        is_stale=bool(rule.gaps(coverage, coverage.provisional, now)),
        gaps=tuple(gaps),
    )


def due_partitions(report: Report, partition_days: PartitionDays, now: datetime) -> IntervalSet:
    """Return the interval of the partitions that are missing unless history holds them.

    They could have been final for as long as their figures may be old, so that there was time to fetch them.
    """
    due = final_interval(report, partition_days, now, report_freshness(report))
    return IntervalSet([due] if due else [])


def missing_partitions(report: Report, partition_days: PartitionDays, coverage: Coverage, now: datetime) -> int:
    """Return how many partitions that are due history lacks, or holds only in part."""
    step, zone = report.partition.step, report.zone
    missing = due_partitions(report, partition_days, now) - coverage.final - coverage.provisional
    # A stretch that begins and ends inside partitions concerns all of these.
    partitions = IntervalSet(expand_to_steps(part, step, zone) for part in missing)
    return sum(round(part.length / step.nominal_length) for part in partitions)


def overdue_since(report: Report, coverage: Coverage, now: datetime) -> datetime | None:
    """Return since when provisional figures have been due to be fetched again, or None if none are due."""
    rule = FreshnessRule.of(report)
    found = [rule.completeness_of(coverage, part) for part in rule.gaps(coverage, coverage.provisional, now)]
    return min((each.fresh_until for each in found if each and each.fresh_until), default=None)


def _begun_days(
    report: Report, partition_days: PartitionDays, now: datetime, days: int
) -> Iterator[tuple[date, Interval]]:
    """Yield each local day of partitions with the part of it that has passed."""
    begun = begun_interval(report, partition_days, now)
    if begun is None:
        return
    last = (begun.end - _INSTANT).astimezone(report.zone).date()
    start = max(begun.start, midnight(last - timedelta(days=days - 1), report.zone))
    for part in cut_at_boundaries(Interval(start, begun.end), _DAY, report.zone):
        yield part.start.astimezone(report.zone).date(), part


def _state(coverage: Coverage, span: Interval, gaps: IntervalSet) -> DayState:
    wanted, stored = IntervalSet([span]), coverage.final | coverage.provisional
    if coverage.final.covers(span):
        return DayState.final
    if not wanted - stored:
        return DayState.provisional
    if not wanted & gaps:
        return DayState.begun
    return DayState.partial if wanted & stored else DayState.missing
