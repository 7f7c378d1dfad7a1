"""The least number of upstream queries for a trace that is known in advance. Shares no code with the caches.

An upstream query covers an interval within one local day (the longest that the vendor answers) and returns what is known when it is
sent. A bucket that ended before the watermark is final; a later bucket may be served only for the freshness TTL. So a request at ``t``
needs, for each day of its window, a query that was sent after the last bucket of that day began, and either after that bucket was
final or less than the freshness TTL before ``t``. Such a query also serves earlier buckets. Each request thus gives, per day, a span
of time that must contain a query. The fewest points that hit all spans of a day are found greedily: take the end of the first span
not hit yet, and repeat. Any cache must send at least so many queries, each with at least a submit, a poll and a page.
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
    """Rules that apply to every cache.

    Attributes:
        zone: Time zone of the local days that bound a query.
        lag: Delay of the watermark.
        freshness: Greatest age of provisional figures when they are shown.
    """

    zone: ZoneInfo
    lag: timedelta
    freshness: timedelta


def least_queries(requests: Iterable[Request], rules: Rules) -> int:
    """Return the least number of upstream queries that answers every request with all figures, fresh enough."""
    spans: defaultdict[date, list[tuple[datetime, datetime]]] = defaultdict(list)
    for request in requests:
        start, end = request.window.bounds(request.at)
        # Of the current bucket, only the quarter hours that have begun are needed.
        elapsed_end = request.at - (request.at - start) % _BUCKET + _BUCKET
        for day, last in _days(start, min(end, elapsed_end), rules.zone):
            final_at = last + _BUCKET + rules.lag
            # Figures whose age equals the freshness TTL are already too old.
            fresh = request.at - rules.freshness + timedelta(microseconds=1)
            since = max(last, min(final_at, fresh))
            spans[day].append((request.at, since))
    return sum(least_points(each) for each in spans.values())


def _days(start: datetime, end: datetime, zone: ZoneInfo) -> Iterable[tuple[date, datetime]]:
    """Return the local days that an interval touches, each with the start of its last quarter hour there."""
    while start < end:
        day = start.astimezone(zone).date()
        midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), zone).astimezone(start.tzinfo)
        yield day, min(midnight, end) - _BUCKET
        start = midnight


def least_points(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """Return the fewest instants that hit every span, each given as its end and its start.

    Greedily: take the end of the first span that is not hit yet, and repeat.
    """
    count, latest = 0, None
    for until, since in sorted(spans):
        if latest is None or latest < since:
            count, latest = count + 1, until
    return count
