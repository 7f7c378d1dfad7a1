"""Calendar steps in a time zone: the buckets of a granularity, the partitions of a cadence, the parts of a split.

A local day has 23 or 25 hours when the clocks change, and some zones skip midnight itself. Every boundary is therefore
computed from local dates and only then converted to an instant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval, QueryError
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.zones import midnight

_MINUTES_PER_DAY = 24 * 60
_PERIOD = re.compile(r"P(?:(?P<months>\d+)M|(?P<weeks>\d+)W|(?P<days>\d+)D|T(?:(?P<hours>\d+)H|(?P<minutes>\d+)M))")


@dataclass(frozen=True)
class Step:
    """One calendar step. Exactly one of the fields is not zero.

    Attributes:
        months: Calendar months, counted from the first of a month.
        days: Local days; 7 means weeks that start on Monday.
        minutes: Minutes of absolute time, counted from local midnight. They divide a day.
    """

    months: int = 0
    days: int = 0
    minutes: int = 0

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, period: str) -> Step:
        """Parse an ISO 8601 period such as ``PT15M``, ``PT1H``, ``P1D``, ``P7D`` or ``P1W``, ``P1M``.

        Raises:
            QueryError: The text is no such period, or the period does not divide its day, week or year evenly.
        """
        match = _PERIOD.fullmatch(period)
        parts = {unit: int(count) for unit, count in match.groupdict().items() if count} if match else {}
        step = cls(
            months=parts.get("months", 0),
            days=parts.get("days", 0) + 7 * parts.get("weeks", 0),
            minutes=parts.get("minutes", 0) + 60 * parts.get("hours", 0),
        )
        if step.minutes == _MINUTES_PER_DAY:
            step = cls(days=1)
        if not (step.months == 1 or step.days in (1, 7) or (step.minutes and _MINUTES_PER_DAY % step.minutes == 0)):
            raise QueryError(f"{period!r} is not a calendar step: use PT15M, PT30M, PT1H, P1D, P1W or P1M")
        return step

    def __str__(self) -> str:
        if self.months:
            return f"P{self.months}M"
        if self.days:
            return "P1W" if self.days == 7 else f"P{self.days}D"
        return f"PT{self.minutes // 60}H" if self.minutes % 60 == 0 else f"PT{self.minutes}M"

    def divides(self, longer: Step) -> bool:
        """Return whether every boundary of ``longer`` is also a boundary of this step, in every zone."""
        if self.minutes:
            return longer.minutes % self.minutes == 0
        if self.days == 1:
            return not longer.minutes
        return self == longer

    @cached_property
    def nominal_length(self) -> timedelta:
        """The usual length: 24 hours for a day, 30 days for a month. Use it for estimates, never for boundaries."""
        return timedelta(days=self.days + 30 * self.months, minutes=self.minutes)


def _calendar_day(instant: datetime, zone: ZoneInfo) -> date:
    """Return the local day whose boundaries enclose an instant.

    It is the wall clock's date, except where the clocks are set back across midnight: the day has begun, and the repeated
    end of the day before belongs to it.
    """
    day = instant.astimezone(zone).date()
    while midnight(tomorrow := day + timedelta(days=1), zone) <= instant:
        day = tomorrow
    return day


def floor_to_step(instant: datetime, step: Step, zone: ZoneInfo) -> datetime:
    """Return the last boundary of ``step`` at or before ``instant``."""
    day = _calendar_day(instant, zone)
    if step.months:
        return midnight(day.replace(day=1), zone)
    if step.days:
        return midnight(day - timedelta(days=day.weekday() if step.days == 7 else 0), zone)
    start = midnight(day, zone)
    return start + (instant - start) // step.nominal_length * step.nominal_length


def next_boundary(boundary: datetime, step: Step, zone: ZoneInfo) -> datetime:
    """Return the boundary of ``step`` that follows a given boundary."""
    day = _calendar_day(boundary, zone)
    if step.months:
        return midnight((day.replace(day=28) + timedelta(days=4)).replace(day=1), zone)
    if step.days:
        return midnight(day + timedelta(days=step.days), zone)
    tomorrow = midnight(day + timedelta(days=1), zone)
    return min(boundary + step.nominal_length, tomorrow)


def cut_at_boundaries(interval: Interval, step: Step, zone: ZoneInfo) -> list[Interval]:
    """Cut an interval at the boundaries of ``step``. The first and the last part may be shorter than a step."""
    parts: list[Interval] = []
    start, boundary = interval.start, floor_to_step(interval.start, step, zone)
    while start < interval.end:
        boundary = next_boundary(boundary, step, zone)
        parts.append(Interval(start, min(boundary, interval.end)))
        start = boundary
    return parts


def is_aligned(interval: Interval, step: Step, zone: ZoneInfo) -> bool:
    """Return whether both ends are boundaries of ``step``."""
    return (
        floor_to_step(interval.start, step, zone) == interval.start
        and floor_to_step(interval.end, step, zone) == interval.end
    )


def expand_to_steps(interval: Interval, step: Step, zone: ZoneInfo) -> Interval:
    """Return the shortest interval of whole steps that contains ``interval``."""
    last = floor_to_step(interval.end - timedelta(microseconds=1), step, zone)
    return Interval(floor_to_step(interval.start, step, zone), next_boundary(last, step, zone))


def list_buckets(interval: Interval, granularity: Step, zone: ZoneInfo) -> list[Interval]:
    """Return the buckets of an interval, in order.

    Raises:
        InvalidInterval: An end of the interval is not a bucket boundary.
    """
    if not is_aligned(interval, granularity, zone):
        aligned = expand_to_steps(interval, granularity, zone)
        raise InvalidInterval(f"interval {interval} cuts a bucket of {granularity} in {zone.key}: ask for {aligned}")
    return cut_at_boundaries(interval, granularity, zone)


# The halves between a day and an hour keep the number of queries small that prove a sparse answer complete.
_SPLIT_STEPS = (
    Step(months=1),
    Step(days=7),
    Step(days=1),
    *(Step(minutes=60 * hours) for hours in (12, 6, 3, 1)),
)


def split(interval: Interval, granularity: Step, zone: ZoneInfo) -> list[Interval]:
    """Split an interval into smaller calendar-aligned ones (G22): weeks, days, 12, 6, 3, 1 hours, buckets.

    Returns:
        At least two intervals of whole buckets, or an empty list if the interval is a single bucket.
    """
    for step in (*_SPLIT_STEPS, granularity):
        if step.nominal_length < granularity.nominal_length:
            continue
        parts = cut_at_boundaries(interval, step, zone)
        if len(parts) > 1 and all(is_aligned(part, granularity, zone) for part in parts):
            return parts
    return []
