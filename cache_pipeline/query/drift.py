"""Drift detection: whether figures differ from those of comparable hours or days by more than chance explains."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from zoneinfo import ZoneInfo

from cache_pipeline.query.calendar import Step, cut_at_boundaries, is_aligned
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Cadence, Report

#: How far back comparable days are searched: eight of each weekday.
LOOKBACK = timedelta(weeks=8)
#: Fewer comparable figures are too few to say what is usual.
MIN_COMPARABLE = 3
_HOUR, _DAY = Step(minutes=60), Step(days=1)
#: Scales a median absolute deviation to a standard deviation.
_MAD_TO_STANDARD_DEVIATION = 1.4826


@dataclass(frozen=True)
class Comparison:
    """The comparison of one hour or day with earlier ones.

    Attributes:
        interval: The hour or day.
        figure: Its figure.
        comparable_count: The number of earlier hours or days it was compared with.
        median: The median of their figures, or None if there are too few of them.
        lower_bound: The figure is an outlier below this bound.
        upper_bound: The figure is an outlier above this bound.
    """

    interval: Interval
    figure: float
    comparable_count: int
    median: float | None = None
    lower_bound: float = 0.0
    upper_bound: float = math.inf

    @property
    def is_outlier(self) -> bool:
        """Whether the figure is outside the bounds."""
        return not self.lower_bound <= self.figure <= self.upper_bound


def drift_tolerance(report: Report) -> float | None:
    """Return the declared tolerance, or None for no check.

    Row-level reports are not checked: weeks of single rows are too many to count.
    """
    return None if report.rows else report.freshness.drift_tolerance


def comparison_step(report: Report) -> Step:
    """Return the step that is compared: hours if the report has them, days for other reports and weekly partitions, else buckets."""
    steps = (_DAY,) if report.partition is Cadence.week else (_HOUR, _DAY)
    return next((step for step in steps if report.step.divides(step)), report.step)


def sum_by_step(
    figures: Mapping[datetime, float], covered: IntervalSet, step: Step, zone: ZoneInfo
) -> dict[Interval, float]:
    """Sum figures per step, for the steps that are fully covered; a bucket without a figure counts as zero.

    Args:
        figures: The figures by bucket start.
        covered: The intervals whose figures are final.
        step: The step to sum up to.
        zone: The zone of its boundaries.
    """
    sums = {
        part: 0.0
        for interval in covered
        for part in cut_at_boundaries(interval, step, zone)
        if is_aligned(part, step, zone)
    }
    steps = list(sums)
    starts = [each.start for each in steps]
    for start, figure in figures.items():
        index = bisect_right(starts, start) - 1
        if index >= 0 and steps[index].contains_instant(start):
            sums[steps[index]] += figure
    return sums


def compare_with_earlier(
    intervals: Sequence[Interval], figures: Mapping[Interval, float], zone: ZoneInfo, tolerance: float
) -> list[Comparison]:
    """Compare hours or days with earlier ones of the same weekday and local time, else of the same kind of day.

    A figure is an outlier only if its distance to the median exceeds the tolerance and also what chance explains: four
    square roots of the median, or three times the spread of the comparable figures. Median and spread are both robust: a
    single odd day among the comparable ones, such as a holiday, changes neither.

    Args:
        intervals: The hours or days to compare. Those without a figure are left out.
        figures: Final figures of these and of earlier hours or days.
        zone: The zone in which hours and days are compared.
        tolerance: A share of the median.
    """
    groups: dict[tuple[object, ...], list[Interval]] = {}
    for interval in sorted(figures):
        for key in _group_keys(interval, zone):
            groups.setdefault(key, []).append(interval)
    return [
        _compare_one(interval, figures, [groups[key] for key in _group_keys(interval, zone)], tolerance)
        for interval in intervals
        if interval in figures
    ]


def _group_keys(interval: Interval, zone: ZoneInfo) -> list[tuple[object, ...]]:
    local = interval.start.astimezone(zone)
    return [(local.time(), local.isoweekday()), (local.time(), local.isoweekday() >= 6, "kind of day")]


def _compare_one(
    interval: Interval, figures: Mapping[Interval, float], groups: Sequence[Sequence[Interval]], tolerance: float
) -> Comparison:
    figure, earliest = figures[interval], interval.start - LOOKBACK
    earlier: list[float] = []
    for group in groups:
        last = bisect_left(group, interval)
        first = bisect_left(group, earliest, key=lambda each: each.start)
        earlier = [figures[each] for each in group[first:last]]
        if len(earlier) >= MIN_COMPARABLE:
            break
    else:
        return Comparison(interval, figure, len(earlier))
    usual = median(earlier)
    spread = _MAD_TO_STANDARD_DEVIATION * median(abs(each - usual) for each in earlier)
    lower, upper = _bounds(usual, tolerance, 3 * spread)
    if group is not groups[0]:
        # Days of one kind predict each other only roughly (a Saturday and a Sunday), so accept what is usual for any of them.
        bounds = [_bounds(each, tolerance) for each in earlier]
        lower, upper = min(lower, *(low for low, _ in bounds)), max(upper, *(high for _, high in bounds))
    return Comparison(interval, figure, len(earlier), usual, lower, upper)


def _bounds(usual: float, tolerance: float, spread: float = 0.0) -> tuple[float, float]:
    margin = max(tolerance * usual, 4 * math.sqrt(usual), spread)
    return max(usual - margin, 0.0), usual + margin
