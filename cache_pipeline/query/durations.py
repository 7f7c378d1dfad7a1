"""ISO 8601 durations (``P1D``, ``PT36H``, ``P1M``), added to an instant by the calendar of a time zone.

A day is a local day, which has 23 or 25 hours when the clocks change. An hour always has 60 minutes.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.zones import midnight

_DURATION = re.compile(
    r"P(?=.)(?:(?P<years>\d{1,4})Y)?(?:(?P<months>\d{1,5})M)?(?:(?P<weeks>\d{1,6})W)?(?:(?P<days>\d{1,7})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,8})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,10})S)?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Duration:
    """A positive length of time: calendar months, then local days, then absolute time."""

    months: int
    days: int
    exact: timedelta

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, text: str) -> Duration:
        """Parse a duration such as ``P1D``, ``P2W``, ``P1M``, ``P1DT12H`` or ``PT36H``.

        Raises:
            InvalidInterval: The text is not a duration, or its length is zero.
        """
        match = _DURATION.fullmatch(text)
        parts = {unit: int(digits or 0) for unit, digits in match.groupdict().items()} if match else {}
        if not any(parts.values()):
            raise InvalidInterval(
                f"{text!r} is not an ISO 8601 duration longer than zero: write, for example, P1D or PT36H"
            )
        return cls(
            12 * parts["years"] + parts["months"],
            7 * parts["weeks"] + parts["days"],
            timedelta(hours=parts["hours"], minutes=parts["minutes"], seconds=parts["seconds"]),
        )

    def add_to(self, instant: datetime, zone: ZoneInfo) -> datetime:
        """Return the instant that is this much later: months and days on the zone's wall clock, then the absolute time.

        Raises:
            InvalidInterval: The result is later than a date can be.
        """
        return self._shift(instant, zone, 1)

    def subtract_from(self, instant: datetime, zone: ZoneInfo) -> datetime:
        """Return the instant that is this much earlier: the absolute time first, then days and months on the wall clock.

        Raises:
            InvalidInterval: The result is earlier than a date can be.
        """
        return self._shift(instant, zone, -1)

    def _shift(self, instant: datetime, zone: ZoneInfo, sign: int) -> datetime:
        try:
            if sign < 0:
                instant = instant - self.exact
            if self.months or self.days:
                # Shift the wall clock, not the instant. A local time that the clocks skip gets the offset before the change.
                wall = _wall_clock(instant, zone)
                naive = _add_months(wall.replace(tzinfo=None), sign * self.months) + timedelta(days=sign * self.days)
                instant = _to_instant(naive.replace(tzinfo=zone, fold=wall.fold), zone)
            return instant + self.exact if sign > 0 else instant
        except (OverflowError, ValueError) as error:
            raise InvalidInterval(
                f"{self} from {instant.isoformat()} is outside the calendar: use a shorter duration"
            ) from error

    def __str__(self) -> str:
        date = f"{self.months}M" * bool(self.months) + f"{self.days}D" * bool(self.days)
        seconds = int(self.exact.total_seconds())
        return "P" + date + (f"T{seconds}S" if seconds else "")


def _wall_clock(instant: datetime, zone: ZoneInfo) -> datetime:
    wall = instant.astimezone(zone)
    # If the clocks skip midnight, the first instant of the day takes its place.
    return datetime.combine(wall.date(), time.min, zone) if midnight(wall.date(), zone) == instant else wall


def _to_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    is_midnight = wall.time() == time.min
    return midnight(wall.date(), zone) if is_midnight else wall.astimezone(UTC)


def _add_months(day: datetime, months: int) -> datetime:
    if not months:
        return day
    year, month = divmod(12 * day.year + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))
