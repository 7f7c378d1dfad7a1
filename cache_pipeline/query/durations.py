"""ISO 8601 durations (``P1D``, ``PT36H``, ``P1M``), added to an instant by the calendar of a time zone.

A day is a local day, of 23 or 25 hours when the clock is changed; an hour is always 60 minutes.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval

_DURATION = re.compile(
    r"P(?=.)(?:(?P<years>\d{1,4})Y)?(?:(?P<months>\d{1,5})M)?(?:(?P<weeks>\d{1,6})W)?(?:(?P<days>\d{1,7})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,8})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,10})S)?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Duration:
    """Calendar months, then local days, then absolute time; never negative, never nothing."""

    months: int
    days: int
    exact: timedelta

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, text: str) -> Duration:
        """Read ``P1D``, ``P2W``, ``P1M``, ``P1DT12H``, ``PT36H`` and the like.

        Raises:
            InvalidInterval: no such duration, or one of no time at all.
        """
        match = _DURATION.fullmatch(text)
        parts = {unit: int(digits or 0) for unit, digits in match.groupdict().items()} if match else {}
        if not any(parts.values()):
            raise InvalidInterval(f"{text!r} is not an ISO 8601 duration longer than nothing: write P1D or PT36H, say")
        return cls(
            12 * parts["years"] + parts["months"],
            7 * parts["weeks"] + parts["days"],
            timedelta(hours=parts["hours"], minutes=parts["minutes"], seconds=parts["seconds"]),
        )

    def add_to(self, instant: datetime, zone: ZoneInfo) -> datetime:
        """The instant so much later: months and days on the wall clock of the zone, then the rest.

        Raises:
            InvalidInterval: the result lies beyond what the calendar holds.
        """
        return self._moved(instant, zone, 1)

    def subtract_from(self, instant: datetime, zone: ZoneInfo) -> datetime:
        """The instant so much earlier: the rest first, then days and months on the wall clock of the zone.

        Raises:
            InvalidInterval: the result lies before what the calendar holds.
        """
        return self._moved(instant, zone, -1)

    def _moved(self, instant: datetime, zone: ZoneInfo, sign: int) -> datetime:
        try:
            if sign < 0:
                instant = instant - self.exact
            if self.months or self.days:
                # The wall clock is moved, not the instant; what the clocks skip there is read with the offset before.
                wall = _wall_clock(instant, zone)
                naive = _months_later(wall.replace(tzinfo=None), sign * self.months) + timedelta(days=sign * self.days)
                instant = naive.replace(tzinfo=zone, fold=wall.fold).astimezone(UTC)
            return instant + self.exact if sign > 0 else instant
        except (OverflowError, ValueError) as error:
            raise InvalidInterval(f"{self} from {instant.isoformat()} leaves the calendar: ask for less") from error

    def __str__(self) -> str:
        date = f"{self.months}M" * bool(self.months) + f"{self.days}D" * bool(self.days)
        seconds = int(self.exact.total_seconds())
        return "P" + date + (f"T{seconds}S" if seconds else "")


def _wall_clock(instant: datetime, zone: ZoneInfo) -> datetime:
    wall = instant.astimezone(zone)
    # Where the clocks skip midnight, the day's first instant stands for it all the same.
    start = datetime.combine(wall.date(), time.min, zone)
    return start if start.astimezone(UTC) == instant else wall


def _months_later(day: datetime, months: int) -> datetime:
    if not months:
        return day
    year, month = divmod(12 * day.year + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))
