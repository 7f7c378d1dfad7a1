"""Whether figures differ from those of the same hour, or day, of comparable days by more than chance explains."""

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

#: How far back comparable days are looked for: eight of each weekday.
LOOKBACK = timedelta(weeks=8)
#: Fewer comparable figures say nothing about what is usual.
MIN_COMPARABLE = 3
_HOUR, _DAY = Step(minutes=60), Step(days=1)
#: Makes a median deviation comparable with a standard one.
_AS_STANDARD_DEVIATION = 1.4826


@dataclass(frozen=True)
class Comparison:
    """One hour or day held against comparable ones.

    Attributes:
        interval: the hour or day.
        figure: what it has.
        comparable: how many earlier ones it was held against.
        usual: their median; None where there are too few of them to say.
        least: below this it differs, and above ``most``.
    """

    interval: Interval
    figure: float
    comparable_count: int
    median: float | None = None
    lower_bound: float = 0.0
    upper_bound: float = math.inf

    @property
    def is_outlier(self) -> bool:
        """Whether the figure is unlike those of comparable days."""
        return not self.lower_bound <= self.figure <= self.upper_bound


def drift_tolerance(report: Report) -> float | None:
    """The declared one; None where it declares none, or has a row for each event: weeks of those are too many to count."""
    return None if report.rows else report.freshness.drift_tolerance


def comparison_step(report: Report) -> Step:
    """What is compared: hours of reports that have them, days of the others and of weekly partitions; else the buckets."""
    steps = (_DAY,) if report.partition is Cadence.week else (_HOUR, _DAY)
    return next((step for step in steps if report.step.divides(step)), report.step)


def sum_by_step(
    figures: Mapping[datetime, float], covered: IntervalSet, step: Step, zone: ZoneInfo
) -> dict[Interval, float]:
    """Add up figures by bucket; only of steps that are covered as a whole, where no figure means none.

    Args:
        figures: by start of bucket.
        covered: what is known for good.
        step: what is added up to.
        zone: of its boundaries.
    """
    found = {
        piece: 0.0 for part in covered for piece in cut_at_boundaries(part, step, zone) if is_aligned(piece, step, zone)
    }
    starts = [piece.start for piece in found]
    whole = list(found)
    for start, figure in figures.items():
        place = bisect_right(starts, start) - 1
        if place >= 0 and whole[place].contains_instant(start):
            found[whole[place]] += figure
    return found


def compare_with_earlier(
    judged: Sequence[Interval], figures: Mapping[Interval, float], zone: ZoneInfo, tolerance: float
) -> list[Comparison]:
    """Hold hours or days against the earlier ones of the same weekday and local time, else of the same kind of day.

    What differs by less than the tolerance is as usual, and so is what chance explains: four square roots of the usual
    figure, or three times the spread that comparable figures have themselves. Both are robust: one odd day among the
    comparable ones, a holiday, moves neither the usual figure nor the spread.

    Args:
        judged: what to hold against others; those that have no figure are left out.
        figures: of what is judged and of what came before, final ones alone.
        zone: in which hours and days are compared.
        tolerance: share of the usual figure.
    """
    groups: dict[tuple[object, ...], list[Interval]] = {}
    for interval in sorted(figures):
        for key in _keys(interval, zone):
            groups.setdefault(key, []).append(interval)
    return [
        _compared(interval, figures, [groups[key] for key in _keys(interval, zone)], tolerance)
        for interval in judged
        if interval in figures
    ]


def _keys(interval: Interval, zone: ZoneInfo) -> list[tuple[object, ...]]:
    local = interval.start.astimezone(zone)
    return [(local.time(), local.isoweekday()), (local.time(), local.isoweekday() >= 6, "kind of day")]


def _compared(
    interval: Interval, figures: Mapping[Interval, float], groups: Sequence[Sequence[Interval]], tolerance: float
) -> Comparison:
    figure, earliest = figures[interval], interval.start - LOOKBACK
    before: list[float] = []
    for group in groups:
        last = bisect_left(group, interval)
        first = bisect_left(group, earliest, key=lambda each: each.start)
        before = [figures[each] for each in group[first:last]]
        if len(before) >= MIN_COMPARABLE:
            break
    else:
        return Comparison(interval, figure, len(before))
    usual = median(before)
    spread = _AS_STANDARD_DEVIATION * median(abs(each - usual) for each in before)
    least, most = _around(usual, tolerance, 3 * spread)
    if group is not groups[0]:
        # A Saturday says only so much of a Sunday: what would pass beside any one of them passes.
        around = [_around(each, tolerance) for each in before]
        least, most = min(least, *(low for low, _ in around)), max(most, *(high for _, high in around))
    return Comparison(interval, figure, len(before), usual, least, most)


def _around(usual: float, tolerance: float, spread: float = 0.0) -> tuple[float, float]:
    margin = max(tolerance * usual, 4 * math.sqrt(usual), spread)
    return max(usual - margin, 0.0), usual + margin
