"""Half-open intervals of time, and sets of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.durations import Duration

_FIRST_YEAR, _LAST_YEAR = 1900, 9900
_UTC = ZoneInfo("UTC")


def format_instant(instant: datetime) -> str:
    """ISO 8601 in UTC with a ``Z`` and no fraction where it is zero (G6)."""
    return instant.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def parse_instant(text: str, zone: ZoneInfo | None = None) -> datetime:
    """Read an ISO 8601 date or date-time as a UTC instant.

    Args:
        text: ``2026-03-29``, ``2026-03-29T01:00:00Z`` or with any offset.
        zone: the zone of a text that has no offset of its own; without it such a text is refused.

    Raises:
        InvalidInterval: not ISO 8601, no offset and no zone to read it in, or outside the years 1900 to 9900.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidInterval(
            f"{_shown(text)} is not an ISO 8601 date or time: write 2026-03-29T00:00:00Z, say"
        ) from error
    if instant.tzinfo is None:
        if zone is None:
            raise InvalidInterval(f"{_shown(text)} has no offset: add Z or an offset such as +02:00")
        instant = instant.replace(tzinfo=zone)
    return _within_reason(instant, text).astimezone(UTC)


def _within_reason(instant: datetime, text: str) -> datetime:
    # Within a year of what a datetime can hold, steps of the calendar would leave it.
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise InvalidInterval(f"{_shown(text)} lies outside the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return instant


def _shown(text: str) -> str:
    """A text to be quoted in an error, however long somebody made it."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


@dataclass(frozen=True, order=True)
class Interval:
    """Half-open ``[start, end)``; both ends are kept in UTC whatever offset came in."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise InvalidInterval("an interval's ends need an offset: 2026-03-29T00:00:00Z, say")
        if self.start.tzinfo is not UTC or self.end.tzinfo is not UTC:
            object.__setattr__(self, "start", self.start.astimezone(UTC))
            object.__setattr__(self, "end", self.end.astimezone(UTC))
        if self.start >= self.end:
            kind = "empty" if self.start == self.end else "reversed"
            raise InvalidInterval(f"interval {self} is {kind}: its start must lie before its end")

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo | None = None) -> Interval:
        """Read ``start/end``, ``start/duration`` or ``duration/end`` (``2026-03-01/P1M``, ``PT36H/2026-03-01T00:00:00Z``).

        Args:
            text: two ISO 8601 instants with a slash between, or one and a duration.
            zone: the zone of ends that carry no offset, and whose calendar durations follow; UTC where it is not given.

        Raises:
            InvalidInterval: open, reversed, empty, or not ISO 8601.
        """
        start, _, end = text.partition("/")
        start, end = start.strip(), end.strip()
        if not start or not end or ".." in (start, end):
            raise InvalidInterval(f"interval {_shown(text)} is open: give both ends, start/end")
        if start.startswith("P") and end.startswith("P"):
            raise InvalidInterval(f"interval {_shown(text)} is two durations: give at least one end, as in start/P1D")
        if end.startswith("P"):
            first = parse_instant(start, zone)
            last = Duration.parse(end).add_to(first, zone or _UTC)
            return cls(first, _within_reason(last, text))
        if start.startswith("P"):
            last = parse_instant(end, zone)
            return cls(_within_reason(Duration.parse(start).subtract_from(last, zone or _UTC), text), last)
        return cls(parse_instant(start, zone), parse_instant(end, zone))

    def __str__(self) -> str:
        return f"{format_instant(self.start)}/{format_instant(self.end)}"

    @property
    def length(self) -> timedelta:
        """Absolute duration, so a local day is 23, 24 or 25 hours long."""
        return self.end - self.start

    def contains(self, other: Interval) -> bool:
        """Whether all of ``other`` lies inside."""
        return self.start <= other.start and other.end <= self.end

    def contains_instant(self, instant: datetime) -> bool:
        """Whether ``instant`` lies inside; the end does not."""
        return self.start <= instant < self.end

    def intersection(self, other: Interval) -> Interval | None:
        """The part both share, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Interval(start, end) if start < end else None


def _merged(intervals: Iterable[Interval]) -> Iterator[Interval]:
    current: Interval | None = None
    for interval in sorted(intervals):
        if current is None:
            current = interval
        elif interval.start <= current.end:
            current = Interval(current.start, max(current.end, interval.end))
        else:
            yield current
            current = interval
    if current is not None:
        yield current


def _start(interval: Interval) -> datetime:
    return interval.start


def _end(interval: Interval) -> datetime:
    return interval.end


class IntervalSet:
    """An immutable set of instants, kept as sorted intervals that neither touch nor overlap."""

    __slots__ = ("_parts",)

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._parts = tuple(_merged(intervals))

    def __iter__(self) -> Iterator[Interval]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __repr__(self) -> str:
        return f"IntervalSet({', '.join(str(part) for part in self._parts)})"

    def __or__(self, other: IntervalSet) -> IntervalSet:
        return IntervalSet((*self._parts, *other._parts))

    def __and__(self, other: IntervalSet) -> IntervalSet:
        shared: list[Interval] = []
        ours, theirs = self._near(other), other._near(self)
        left, right = 0, 0
        while left < len(ours) and right < len(theirs):
            part = ours[left].intersection(theirs[right])
            if part is not None:
                shared.append(part)
            if ours[left].end <= theirs[right].end:
                left += 1
            else:
                right += 1
        return IntervalSet(shared)

    def __sub__(self, other: IntervalSet) -> IntervalSet:
        rest: list[Interval] = []
        taken = iter(other._near(self))
        hole = next(taken, None)
        for part in self._parts:
            start = part.start
            while hole is not None and hole.end <= start:
                hole = next(taken, None)
            while hole is not None and hole.start < part.end:
                if start < hole.start:
                    rest.append(Interval(start, hole.start))
                start = max(start, hole.end)
                if hole.end >= part.end:
                    break
                hole = next(taken, None)
            if start < part.end:
                rest.append(Interval(start, part.end))
        return IntervalSet(rest)

    def covers(self, interval: Interval) -> bool:
        """Whether every instant of ``interval`` is in the set."""
        return any(part.contains(interval) for part in self._near(IntervalSet([interval])))

    def _near(self, other: IntervalSet) -> tuple[Interval, ...]:
        """The parts between the other's first instant and its last.

        One partition is held against years of them often: it must not cost a walk over all.
        """
        if not self._parts or not other._parts:
            return ()
        first = bisect_right(self._parts, other._parts[0].start, key=_end)
        return self._parts[first : bisect_left(self._parts, other._parts[-1].end, lo=first, key=_start)]
