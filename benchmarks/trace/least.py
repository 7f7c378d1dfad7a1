"""The least that any cache could ask, which may know the whole day in advance: a program of its own, on whole minutes and days.

One upstream query asks for one interval within one local day, the longest that the vendor answers, and says what is known when it
is sent: of a bucket that ended before the watermark that is final, of a later one it may be served for the freshness only. So a
request at ``t`` needs, for each day its window touches, a query of that day that was sent after its last bucket there began, and
either after that bucket was final or less than the freshness before ``t``; such a query also serves its earlier buckets. That is a
span of time which must hold a query; the fewest points that stab all spans of a day are found from the left, each at the end of
the first span not stabbed yet. Every cache must send as many queries, and each of them is a submit, a poll and a page at least.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from benchmarks.trace.trace import Request

_BUCKET = timedelta(minutes=15)


@dataclass(frozen=True)
class Rules:
    """What holds for everybody.

    Attributes:
        zone: whose local days bound a query.
        lag: how far the watermark is behind.
        freshness: how old figures that are not final may be when they are shown.
    """

    zone: ZoneInfo
    lag: timedelta
    freshness: timedelta


def least_queries(requests: Iterable[Request], rules: Rules) -> int:
    """Upstream queries without which some request would be answered with missing or older figures."""
    spans: defaultdict[date, list[tuple[datetime, datetime]]] = defaultdict(list)
    for request in requests:
        start, end = request.window.bounds(request.at)
        # Of the bucket that is going on, the quarters that have begun are wanted.
        begun = request.at - (request.at - start) % _BUCKET + _BUCKET
        for day, last in _days(start, min(end, begun), rules.zone):
            final_at = last + _BUCKET + rules.lag
            # Figures of exactly that age are too old.
            fresh = request.at - rules.freshness + timedelta(microseconds=1)
            since = max(last, min(final_at, fresh))
            spans[day].append((request.at, since))
    return sum(_stabs(each) for each in spans.values())


def _days(start: datetime, end: datetime, zone: ZoneInfo) -> Iterable[tuple[date, datetime]]:
    """Return the local days that an interval touches, each with the start of its last quarter of an hour there."""
    while start < end:
        day = start.astimezone(zone).date()
        midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), zone).astimezone(start.tzinfo)
        yield day, min(midnight, end) - _BUCKET
        start = midnight


def _stabs(spans: list[tuple[datetime, datetime]]) -> int:
    count, latest = 0, None
    for until, since in sorted(spans):
        if latest is None or latest < since:
            count, latest = count + 1, until
    return count
