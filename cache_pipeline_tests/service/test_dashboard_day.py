"""The upstream queries that a thirty-day dashboard needs if it is refreshed for a whole day."""

from datetime import timedelta

import pytest

from benchmarks.trace.caches import LAG, REPORT, Ours
from benchmarks.trace.least import Rules, least_queries
from benchmarks.trace.trace import DAY_END, DAY_START, Request, Window
from cache_pipeline.storage.ttl import report_freshness

FRESHNESS = report_freshness(REPORT)


def day_of(window: Window, every: timedelta) -> list[Request]:
    """Return the refreshes of a dashboard on the day when clocks in Berlin go forward."""
    found: list[Request] = []
    at = DAY_START + timedelta(seconds=7)
    while at < DAY_END:
        start, end = window.bounds(at)
        payload = {
            "reportId": "queue-performance",
            "timeGrouping": window.grouping,
            "interval": f"{start.isoformat()}/{end.isoformat()}",
            "groupBy": list(window.group_by),
            "columns": list(window.columns),
            "timeZone": window.zone,
        }
        found.append(Request(at, window, payload))
        at += every
    return found


@pytest.mark.parametrize("grouping", ["by15Minutes", "byHour", "byDay"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
def test_dashboard_fetches_once_per_freshness_period(grouping: str, zone: str):
    window = Window(30, grouping, zone, ("queueId",), ("offered",), ())
    day, ours = day_of(window, timedelta(minutes=5)), Ours()
    for request in day:
        ours.answer(request)
    first = 31 + 1
    assert ours.cost.queries <= first + (DAY_END - DAY_START) / FRESHNESS + 2
    assert ours.cost.oldest < FRESHNESS
    least = least_queries(day, Rules(REPORT.zone, LAG, FRESHNESS))
    assert least <= ours.cost.queries <= 1.1 * least


def test_polling_dashboard_costs_no_more():
    window = Window(30, "by15Minutes", "Europe/Berlin", (), ("offered",), ())
    day = [request for request in day_of(window, timedelta(seconds=10)) if request.at < DAY_START + timedelta(hours=2)]
    ours = Ours()
    for request in day:
        ours.answer(request)
    # Each new quarter hour needs one query, and so does each of the twelve freshness periods of an hour.
    assert ours.cost.queries <= 31 + 2 * (12 + 4)
