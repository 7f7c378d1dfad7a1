"""Half-open intervals of time, and sets of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cache_pipeline.errors import InvalidInterval
from cache_pipeline.query.durations import Duration

FIRST_YEAR, LAST_YEAR = 1900, 9900
_UTC = ZoneInfo("UTC")


def format_instant(instant: datetime) -> str:
    """Format an instant as ISO 8601 in UTC, with a ``Z`` and without a zero fraction (G6)."""
    return (instant if instant.tzinfo is UTC else instant.astimezone(UTC)).isoformat()[:-6] + "Z"


def parse_instant(text: str, zone: ZoneInfo | None = None) -> datetime:
    """Parse an ISO 8601 date or date-time as a UTC instant.

    Args:
        text: ``2026-03-29``, ``2026-03-29T01:00:00Z`` or a time with any other offset.
        zone: The zone of a text without an offset. If it is None, such a text is refused.

    Raises:
        InvalidInterval: The text is not ISO 8601, has no offset although no zone is given, or is outside the years 1900
            to 9900.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidInterval(
            f"{_quote(text)} is not an ISO 8601 date or time: write, for example, 2026-03-29T00:00:00Z"
        ) from error
    if instant.tzinfo is None:
        if zone is None:
            raise InvalidInterval(f"{_quote(text)} has no offset: add Z or an offset such as +02:00")
        instant = instant.replace(tzinfo=zone)
    _check_year(instant, text)
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def _check_year(instant: datetime, text: str) -> datetime:
    # Calendar steps near the limits of datetime would overflow.
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise InvalidInterval(f"{_quote(text)} is outside the years {FIRST_YEAR} to {LAST_YEAR}")
    return instant


def _quote(text: str) -> str:
    """Quote a text in an error message, shortened if it is very long."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


@dataclass(frozen=True, order=True)
class Interval:
    """A half-open interval ``[start, end)``. Both ends are converted to UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise InvalidInterval("the ends of an interval need an offset: write, for example, 2026-03-29T00:00:00Z")
        if self.start.tzinfo is not UTC or self.end.tzinfo is not UTC:
            object.__setattr__(self, "start", self.start.astimezone(UTC))
            object.__setattr__(self, "end", self.end.astimezone(UTC))
        if self.start >= self.end:
            kind = "empty" if self.start == self.end else "reversed"
            raise InvalidInterval(f"interval {self} is {kind}: its start must be before its end")

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo | None = None) -> Interval:
        """Parse ``start/end``, ``start/duration`` or ``duration/end`` (``2026-03-01/P1M``, ``PT36H/2026-03-01T00:00:00Z``).

        Args:
            text: Two ISO 8601 instants separated by a slash, or one instant and a duration.
            zone: The zone of ends without an offset, in which durations are counted too. The default is UTC.

        Raises:
            InvalidInterval: The interval is open, reversed, empty, or not ISO 8601.
        """
        start, _, end = text.partition("/")
        start, end = start.strip(), end.strip()
        if not start or not end or ".." in (start, end):
            raise InvalidInterval(f"interval {_quote(text)} is open: give both ends, start/end")
        if start.startswith("P") and end.startswith("P"):
            raise InvalidInterval(f"interval {_quote(text)} is two durations: give at least one end, as in start/P1D")
        if end.startswith("P"):
            first = parse_instant(start, zone)
            last = Duration.parse(end).add_to(first, zone or _UTC)
            return cls(first, _check_year(last, text))
        if start.startswith("P"):
            last = parse_instant(end, zone)
            return cls(_check_year(Duration.parse(start).subtract_from(last, zone or _UTC), text), last)
        return cls(parse_instant(start, zone), parse_instant(end, zone))

    def __str__(self) -> str:
        return f"{format_instant(self.start)}/{format_instant(self.end)}"

    @property
    def length(self) -> timedelta:
        """The absolute duration; a local day is 23, 24 or 25 hours long."""
        return self.end - self.start

    def contains(self, other: Interval) -> bool:
        """Return whether all of ``other`` is inside."""
        return self.start <= other.start and other.end <= self.end

    def contains_instant(self, instant: datetime) -> bool:
        """Return whether ``instant`` is inside; the end itself is not."""
        return self.start <= instant < self.end

    def intersection(self, other: Interval) -> Interval | None:
        """Return the part that both share, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Interval(start, end) if start < end else None


def _merge(intervals: Iterable[Interval]) -> Iterator[Interval]:
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
    """An immutable set of instants, stored as sorted intervals that neither touch nor overlap."""

    __slots__ = ("_parts",)

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._parts = tuple(_merge(intervals))

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
        ours, theirs = self._parts_near(other), other._parts_near(self)
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
        remaining: list[Interval] = []
        removed = iter(other._parts_near(self))
        hole = next(removed, None)
        for part in self._parts:
            start = part.start
            while hole is not None and hole.end <= start:
                hole = next(removed, None)
            while hole is not None and hole.start < part.end:
                if start < hole.start:
                    remaining.append(Interval(start, hole.start))
                start = max(start, hole.end)
                if hole.end >= part.end:
                    break
                hole = next(removed, None)
            if start < part.end:
                remaining.append(Interval(start, part.end))
        return IntervalSet(remaining)

    def covers(self, interval: Interval) -> bool:
        """Return whether every instant of ``interval`` is in the set."""
        return any(part.contains(interval) for part in self._parts_near(IntervalSet([interval])))

    def _parts_near(self, other: IntervalSet) -> tuple[Interval, ...]:
        """Return the parts between the first and the last instant of ``other``.

        One partition is often compared with years of them, so that must not cost a walk over all parts.
        """
        if not self._parts or not other._parts:
            return ()
        first = bisect_right(self._parts, other._parts[0].start, key=_end)
        return self._parts[first : bisect_left(self._parts, other._parts[-1].end, lo=first, key=_start)]
