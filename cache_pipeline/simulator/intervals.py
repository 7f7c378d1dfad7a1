"""ISO intervals and periods, and the edges of buckets in a time zone (23 or 25 hours on a DST day).

An interval without offsets is read as local time in the query's time zone; the vendor does not document this case.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Milliseconds = npt.NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_YEARS = range(1970, 2200)
_PERIOD = re.compile(
    r"P(?:(?P<years>\d{1,3})Y)?(?:(?P<months>\d{1,4})M)?(?:(?P<weeks>\d{1,4})W)?(?:(?P<days>\d{1,5})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,7})M)?(?:(?P<seconds>\d{1,9})S)?)?"
)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d([.]\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_SUB_DAY_GROUPINGS = {"by15Minutes": 15 * 60_000, "by30Minutes": 30 * 60_000, "byHour": 60 * 60_000}
TIME_GROUPINGS = (*_SUB_DAY_GROUPINGS, "byDay", "byWeek", "byMonth")


class TooManyBucketsError(ValueError):
    """The query has more buckets than the simulator allows."""


@dataclass(frozen=True)
class Interval:
    """Half-open `[start_ms, end_ms)`, milliseconds since the epoch."""

    start_ms: int
    end_ms: int

    @property
    def length_ms(self) -> int:
        """Its length in milliseconds."""
        return self.end_ms - self.start_ms

    def overlaps(self, other: "Interval") -> bool:
        """Return whether the two have an instant in common."""
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms


@dataclass(frozen=True)
class Period:
    """An ISO-8601 period: calendar months and days, then elapsed milliseconds."""

    months: int
    days: int
    milliseconds: int


def to_ms(instant: datetime) -> int:
    """Return the milliseconds since the epoch of an aware `instant`."""
    return (instant - _EPOCH) // _MILLISECOND


def from_ms(instant_ms: int) -> datetime:
    """Return the aware UTC datetime of `instant_ms`."""
    return _EPOCH + timedelta(milliseconds=instant_ms)


def iso(instant_ms: int) -> str:
    """Return `yyyy-MM-ddTHH:mm:ss.mmmZ`."""
    return from_ms(instant_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def midnight_ms(day: date, zone: ZoneInfo) -> int:
    """Return the instant at which `day` begins in `zone`, even if the clock skips or repeats midnight."""
    return to_ms(datetime.combine(day, time(), zone))


def local_day(instant_ms: int, zone: ZoneInfo) -> date:
    """Return the calendar day of `instant_ms` in `zone`."""
    return from_ms(instant_ms).astimezone(zone).date()


def days_between(first: date, last: date) -> Iterator[date]:
    """Yield every day from `first` to `last`, both included."""
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        yield date.fromordinal(ordinal)


def parse_zone(name: str) -> ZoneInfo:
    """Return the IANA zone with this name.

    Raises:
        ValueError: The zone does not exist.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        msg = f"unknown IANA time zone '{name}'"
        raise ValueError(msg) from None


def _instant(text: str, zone: ZoneInfo) -> int:
    if not _INSTANT.fullmatch(text):
        msg = f"'{text}' is not an instant; write it like 2024-03-01T08:30:00Z or 2024-03-01T08:30:00+01:00"
        raise ValueError(msg)
    instant = datetime.fromisoformat(text)
    if instant.year not in _YEARS:
        msg = f"the year of '{text}' is outside {_YEARS.start} to {_YEARS.stop - 1}"
        raise ValueError(msg)
    return to_ms(instant if instant.tzinfo else instant.replace(tzinfo=zone))


def parse_interval(text: str, zone: ZoneInfo) -> Interval:
    """Return the interval written as ISO-8601 `start/end`.

    Raises:
        ValueError: It is not two instants, or the end is not after the start.
    """
    start_text, slash, end_text = text.partition("/")
    if not slash or "/" in end_text:
        msg = f"'{text}' is not of the form start/end"
        raise ValueError(msg)
    interval = Interval(_instant(start_text, zone), _instant(end_text, zone))
    if interval.end_ms <= interval.start_ms:
        msg = f"'{text}' ends no later than it starts"
        raise ValueError(msg)
    return interval


def parse_period(text: str) -> Period:
    """Return the ISO-8601 period written as `text`, such as `PT30M`, `P1D`, `P1DT12H` or `P1M`.

    Raises:
        ValueError: The text is not a period, or its length is zero.
    """
    match = _PERIOD.fullmatch(text)
    parts = {name: int(digits or 0) for name, digits in match.groupdict().items()} if match else {}
    if not any(parts.values()):
        msg = f"'{text}' is not an ISO-8601 period longer than zero"
        raise ValueError(msg)
    return Period(
        months=12 * parts["years"] + parts["months"],
        days=7 * parts["weeks"] + parts["days"],
        milliseconds=1000 * (3600 * parts["hours"] + 60 * parts["minutes"] + parts["seconds"]),
    )


def _add_months(day: date, months: int) -> date:
    year, month = divmod(12 * day.year + day.month - 1 + months, 12)
    first = date(year, month + 1, 1)
    following = date(year + month // 11, (month + 1) % 12 + 1, 1)
    return min(first + timedelta(days=day.day - 1), following - timedelta(days=1))


def _period_steps(interval: Interval, period: Period, zone: ZoneInfo) -> Iterator[int]:
    wall = from_ms(interval.start_ms).astimezone(zone)
    step = 0
    while True:
        step += 1
        try:
            day = _add_months(wall.date(), step * period.months) + timedelta(days=step * period.days)
        except (ValueError, OverflowError):
            return
        if day.year > _YEARS.stop:
            return
        yield to_ms(datetime.combine(day, wall.timetz())) + step * period.milliseconds


def period_edges(interval: Interval, period: Period, zone: ZoneInfo, max_buckets: int) -> Milliseconds:
    """Return the edges of the buckets that begin at the interval's start and repeat every `period`.

    Calendar parts advance by the local time of `zone`; the last bucket is truncated at the interval's end.

    Raises:
        TooManyBucketsError: There would be more than `max_buckets`.
    """
    shortest = period.months * 28 * 86_400_000 + period.days * 82_800_000 + period.milliseconds
    _check_buckets((interval.end_ms - interval.start_ms) // shortest, max_buckets)
    if not period.months and not period.days:
        edges = np.arange(interval.start_ms, interval.end_ms, period.milliseconds, dtype=np.int64)
        return np.append(edges, np.int64(interval.end_ms))
    inner: list[int] = []
    for edge in _period_steps(interval, period, zone):
        if edge >= interval.end_ms:
            break
        inner.append(edge)
    return np.array([interval.start_ms, *inner, interval.end_ms], dtype=np.int64)


def _calendar_starts(first: date, last: date, grouping: str) -> Iterator[date]:
    if grouping == "byMonth":
        first = first.replace(day=1)
        while first <= last:
            yield first
            first = _add_months(first, 1)
        return
    if grouping == "byWeek":
        first -= timedelta(days=first.weekday())
    step = 7 if grouping == "byWeek" else 1
    for ordinal in range(first.toordinal(), last.toordinal() + 1, step):
        yield date.fromordinal(ordinal)


def calendar_edges(interval: Interval, grouping: str, zone: ZoneInfo, max_buckets: int) -> Milliseconds:
    """Return the edges of the calendar buckets of `zone` that overlap the interval.

    Weeks begin on Monday. Buckets shorter than a day are counted from local midnight in elapsed time, so they always add
    up to the day. The first and the last bucket are truncated at the interval's ends.

    Raises:
        TooManyBucketsError: There would be more than `max_buckets`.
    """
    first, last = local_day(interval.start_ms, zone), local_day(interval.end_ms, zone)
    step = _SUB_DAY_GROUPINGS.get(grouping)
    _check_buckets((interval.end_ms - interval.start_ms) // (step or 82_800_000), max_buckets)
    if step is None:
        starts = [midnight_ms(day, zone) for day in _calendar_starts(first, last, grouping)]
        edges = np.array(starts, dtype=np.int64)
    else:
        midnights = [midnight_ms(day, zone) for day in days_between(first, last + timedelta(days=1))]
        edges = np.concatenate([np.arange(begin, end, step, dtype=np.int64) for begin, end in pairwise(midnights)])
    inside = edges[(edges > interval.start_ms) & (edges < interval.end_ms)]
    return np.concatenate(([interval.start_ms], inside, [interval.end_ms])).astype(np.int64)


def _check_buckets(count: int, max_buckets: int) -> None:
    if count > max_buckets:
        msg = f"the interval has about {count} buckets; at most {max_buckets} are allowed"
        raise TooManyBucketsError(msg)


def single_bucket(interval: Interval) -> Milliseconds:
    """Return the edges of a single bucket that covers the interval."""
    return np.array([interval.start_ms, interval.end_ms], dtype=np.int64)


def whole_interval(edges: Milliseconds) -> Interval:
    """Return the interval of all buckets with these edges."""
    return Interval(int(edges[0]), int(edges[-1]))
