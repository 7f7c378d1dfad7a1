"""What ten scripts ask in a day, and the least number of vendor calls that answers it. Shares no code with the product.

The day is Tuesday 6 January 2026 in UTC. Each script asks at fixed times, as its kind does: wallboards each minute, or each quarter
of a minute for the present; Power BI every two hours; exports and forecasts once a night; reports of agents each hour.

The least: a call returns all groups and metrics of one declared report for an interval within one day, as they are when it is sent.
A bucket that ended a quarter of an hour before is final. Figures of a later one may be shown while they are younger than a quarter of
an hour (the guide's G11 for an hour), and what the vendor says of the present while it is younger than 30 seconds. So a request at `t`
needs, for each day that it touches, a call that was sent after the last bucket of that day began, and either when that bucket was
final or less than the quarter of an hour before `t`. Such a call also answers for the earlier buckets of the day. Each request thus
gives, for each day, a span of time that must contain a call, and the least is the fewest instants that hit all spans.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.trace.least import least_points

DAY = datetime(2026, 1, 6, tzinfo=UTC)
_DAY, _HOUR, _MINUTE, _SECOND = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
_INSTANT = timedelta(microseconds=1)
_FINAL_AFTER, _FRESH, _PRESENT_FRESH = 15 * _MINUTE, 15 * _MINUTE, 30 * _SECOND
#: The length of a bucket by declared report.
BUCKETS = {"by_queue": 30 * _MINUTE, "by_user": _HOUR, "by_flow": _HOUR, "by_state": _HOUR}
_FAMILIES = {"by_queue": "conversations", "by_user": "conversations", "by_flow": "flows", "by_state": "users"}
_DIMENSIONS = {"by_queue": "queueId", "by_user": "userId", "by_flow": "flowId", "by_state": "userId"}
_PRESENT = "present"


@dataclass(frozen=True)
class _Script:
    """A script that asks from `first` to `last`, each `every`.

    Attributes:
        report: The declared report that has the figures, or `present`.
        metrics: The metrics.
        first: The time of day of the first request.
        last: The time of day after which there is none.
        every: The pause between two requests.
        days: How many days are shown, the last of which is today, or yesterday if `is_closed`.
        granularity: The buckets asked for; None for one figure.
        is_grouped: Whether the figures are by queue, agent or flow, and not of all.
        is_closed: Whether only days that are over are shown.
    """

    report: str
    metrics: tuple[str, ...]
    first: timedelta
    last: timedelta
    every: timedelta
    days: int = 1
    granularity: str | None = "PT1H"
    is_grouped: bool = True
    is_closed: bool = False

    def interval(self, at: datetime) -> tuple[datetime, datetime]:
        """Return what is asked for at a time: whole days, or today up to the end of the current bucket."""
        midnight = DAY
        if self.is_closed:
            return midnight - self.days * _DAY, midnight
        if self.granularity == "P1D":
            return midnight - (self.days - 1) * _DAY, midnight + _DAY
        step = _HOUR if self.granularity == "PT1H" else 30 * _MINUTE
        return midnight - (self.days - 1) * _DAY, midnight + ((at - midnight) // step + 1) * step


def _at(hours: int, minutes: int = 0, seconds: int = 0) -> timedelta:
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


_SERVICE = ("nOffered", "tAnswered", "tAbandon", "oServiceLevel", "oServiceTarget")
_SCRIPTS = (
    # Wallboards of the service level and of the volume.
    _Script("by_queue", _SERVICE, _at(7), _at(19), _MINUTE, granularity="PT30M"),
    _Script("by_queue", ("nOffered", "nConnected", "tHandle"), _at(7, 0, 20), _at(19), _MINUTE),
    # A wallboard of the present, and a second one.
    _Script(_PRESENT, ("oWaiting", "oInteracting"), _at(9), _at(10), 15 * _SECOND),
    _Script(_PRESENT, ("oWaiting", "oLongestWaiting"), _at(9, 0, 7), _at(10), 15 * _SECOND),
    # A refresh of Power BI, the daily export, and the forecast.
    _Script("by_queue", _SERVICE, _at(6), _at(20), 2 * _HOUR, days=7, granularity="P1D"),
    _Script(
        "by_queue", ("nOffered", "nConnected", "tHandle"), _at(2), _at(2), _DAY, granularity="PT30M", is_closed=True
    ),
    _Script("by_queue", ("nOffered",), _at(3), _at(3), _DAY, days=14, granularity="PT30M", is_closed=True),
    # Reports of agents: their states, and their handling times.
    _Script("by_state", ("tSystemPresence", "tAgentRoutingStatus"), _at(8, 5), _at(18, 5), _HOUR),
    _Script("by_user", ("tTalk", "tAcw", "tHeld"), _at(8, 10), _at(18, 10), 30 * _MINUTE),
    # A dashboard of flows.
    _Script("by_flow", ("nFlow", "tFlow"), _at(7, 2), _at(19), 5 * _MINUTE, is_grouped=False),
)


@dataclass(frozen=True)
class Request:
    """A request of a script.

    Attributes:
        at: When it is sent.
        script: The number of the script.
        method: The method of the SDK's analytics API.
        body: The query.
        report: The declared report that has the figures; None for the present.
        start: Start of the interval.
        end: End of the interval.
    """

    at: datetime
    script: int
    method: str
    body: dict[str, Any]
    report: str | None
    start: datetime
    end: datetime


def requests() -> list[Request]:
    """Return the day's requests, in order of time."""
    found = [request for number, script in enumerate(_SCRIPTS) for request in _requests_of(number, script)]
    return sorted(found, key=lambda request: (request.at, request.script))


def count_scripts() -> int:
    """Return the number of scripts."""
    return len(_SCRIPTS)


def _requests_of(number: int, script: _Script) -> Iterator[Request]:
    at = DAY + script.first
    while at <= DAY + script.last:
        if script.report == _PRESENT:
            filter_ = {"type": "and", "predicates": [{"dimension": "queueId", "operator": "exists"}]}
            body: dict[str, Any] = {"filter": filter_, "metrics": list(script.metrics)}
            yield Request(at, number, "post_analytics_queues_observations_query", body, None, at, at)
        else:
            start, end = script.interval(at)
            body = {"interval": f"{_iso(start)}/{_iso(end)}", "metrics": list(script.metrics)}
            if script.granularity:
                body["granularity"] = script.granularity
            if script.is_grouped:
                body["groupBy"] = [_DIMENSIONS[script.report]]
            method = f"post_analytics_{_FAMILIES[script.report]}_aggregates_query"
            yield Request(at, number, method, body, script.report, start, end)
        at += script.every


def _iso(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def least_calls(asked: Sequence[Request]) -> int:
    """Return the least number of vendor calls that answers every request, with figures as fresh as they must be."""
    spans: defaultdict[tuple[str, datetime], list[tuple[datetime, datetime]]] = defaultdict(list)
    for request in asked:
        if request.report is None:
            spans[_PRESENT, DAY].append((request.at, request.at - _PRESENT_FRESH + _INSTANT))
            continue
        bucket = BUCKETS[request.report]
        begun = DAY + ((request.at - DAY) // bucket + 1) * bucket
        day, end = request.start, min(request.end, begun)
        while day < end:
            last = min(day + _DAY, end) - bucket
            final_at, fresh = last + bucket + _FINAL_AFTER, request.at - _FRESH + _INSTANT
            spans[request.report, day].append((request.at, max(last, min(final_at, fresh))))
            day += _DAY
    return sum(least_points(each) for each in spans.values())
