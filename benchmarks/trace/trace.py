"""The requests of fifty dashboards during one day, generated from a fixed seed.

The day is Sunday 29 March 2026, when clocks in Berlin and London are set forward. The contact centre has 8 queues and 3 media. Each
dashboard shows a sliding window: the buckets of its granularity from some days ago up to the current one, by queue, by medium, by
both or in total, and possibly for some queues only. Half of them show thirty days by quarter hour or hour; the rest show a week or a
day by quarter hour, or thirty local days. Each dashboard is open on one to five screens, which refresh every five minutes (for a
quarter of the dashboards: every minute), each starting at its own second. Each screen has its own order of fields, UTC offset and name
of its time zone, and sends a new request id every time. Time zones are Berlin, London, Kolkata and UTC.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

QUEUES = tuple(f"queue-{number}" for number in range(8))
MEDIA = ("callback", "chat", "voice")
DAY_START = datetime(2026, 3, 28, 23, tzinfo=UTC)
DAY_END = DAY_START + timedelta(hours=24)
_DASHBOARDS = 50
_ZONES = {
    "Europe/Berlin": ("Europe/Berlin", "Europe/Stockholm"),
    "Europe/London": ("Europe/London", "Europe/Jersey"),
    "Asia/Kolkata": ("Asia/Kolkata", "Asia/Calcutta"),
    "UTC": ("UTC", "Etc/UTC"),
}
#: Days back and time grouping. The dashboards cycle through them.
_WINDOWS = ((30, "by15Minutes"), (30, "byHour"), (30, "byHour"), (7, "by15Minutes"), (1, "by15Minutes"), (30, "byDay"))
_MINUTES = {"by15Minutes": 15, "byHour": 60}
Json = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """What a dashboard shows.

    Attributes:
        days: Length of the window in days.
        grouping: Time grouping, in the guide's words.
        zone: Time zone of its hours and days.
        group_by: Dimensions.
        columns: Metrics.
        queues: Queues shown; empty for all.
    """

    days: int
    grouping: str
    zone: str
    group_by: tuple[str, ...]
    columns: tuple[str, ...]
    queues: tuple[str, ...]

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the start of the first bucket and the end of the current one."""
        zone = ZoneInfo(self.zone)
        today = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        if self.grouping == "byDay":
            first, last = today - timedelta(days=self.days - 1), today + timedelta(days=1)
            return first.replace(tzinfo=zone).astimezone(UTC), last.replace(tzinfo=zone).astimezone(UTC)
        step = timedelta(minutes=_MINUTES[self.grouping])
        midnight = today.replace(tzinfo=zone).astimezone(UTC)
        end = midnight + ((now - midnight) // step + 1) * step
        return end - timedelta(days=self.days), end


@dataclass(frozen=True)
class Request:
    """One refresh of one screen.

    Attributes:
        at: Time of the request.
        window: Window of its dashboard.
        payload: Payload as sent.
    """

    at: datetime
    window: Window
    payload: Json


@dataclass(frozen=True)
class _Screen:
    window: Window
    interval: timedelta
    phase: timedelta
    offset: timezone
    zone_name: str
    seed: int


def requests(seed: int) -> list[Request]:
    """Return the day's requests, in order of time."""
    rng = random.Random(seed)  # noqa: S311 - a trace, not a secret
    found = [request for screen in _screens(rng) for request in _refreshes(screen)]
    return sorted(found, key=lambda request: (request.at, request.payload["requestId"]))


def _screens(rng: random.Random) -> Iterator[_Screen]:
    for number in range(_DASHBOARDS):
        window = _window(number, rng)
        interval = timedelta(minutes=1 if number % 4 == 0 else 5)
        for _ in range(rng.randint(1, 5)):
            yield _Screen(
                window,
                interval,
                timedelta(seconds=rng.randrange(int(interval.total_seconds()))),
                timezone(timedelta(minutes=rng.choice((0, 60, 330, -300)))),
                rng.choice(_ZONES[window.zone]),
                rng.getrandbits(32),
            )


def _window(number: int, rng: random.Random) -> Window:
    days, grouping = _WINDOWS[number % len(_WINDOWS)]
    # Hours in Kolkata begin half past those of the other zones.
    zone = rng.choice(tuple(_ZONES))
    return Window(
        days,
        grouping,
        zone,
        rng.choice(((), ("queueId",), ("mediaType",), ("mediaType", "queueId"))),
        tuple(sorted(rng.sample(("abandoned", "answered", "handleMs", "offered"), rng.randint(1, 4)))),
        tuple(sorted(rng.sample(QUEUES, 3))) if rng.random() < 0.4 else (),
    )


def _refreshes(screen: _Screen) -> Iterator[Request]:
    rng = random.Random(screen.seed)  # noqa: S311
    order = rng.sample(range(7), 7)
    groups, columns = (rng.sample(names, len(names)) for names in (screen.window.group_by, screen.window.columns))
    queues = rng.sample(screen.window.queues, len(screen.window.queues))
    at = DAY_START + screen.phase
    while at < DAY_END:
        start, end = (bound.astimezone(screen.offset).isoformat() for bound in screen.window.bounds(at))
        fields: list[tuple[str, Any]] = [
            ("reportId", "queue-performance"),
            ("timeGrouping", screen.window.grouping),
            ("interval", f"{start}/{end}"),
            ("groupBy", groups),
            ("columns", columns),
            ("timeZone", screen.zone_name),
            ("requestId", f"{rng.getrandbits(64):016x}"),
        ]
        payload = dict(fields[index] for index in order)
        if queues:
            predicate = {"dimension": "queueId", "operator": "in", "values": queues}
            payload["filters"] = {"type": "and", "predicates": [predicate]}
        yield Request(at, screen.window, payload)
        at += screen.interval
