"""A day of fifty dashboards, made up from a fixed seed; nothing of it depends on the machine or its date.

The day is Sunday 29 March 2026, when the clocks of Berlin and London are set forward. The contact centre has 8 queues and 3
media. Each dashboard looks at one sliding window: the buckets of its granularity from so many days ago up to the one that is
going on, by queue, by medium, by both or in total, maybe of some queues only. Half of them look at thirty days by quarters or
hours, the rest at a week or a day by quarters, or at thirty local days. Each is open on one to five screens, which refresh every
five minutes (a quarter of the dashboards: every minute), from some second of their own on. A screen writes its payload in its
own order, with its own offset and under its own name for its zone, and puts a new request id into each. Zones are Berlin, London,
Kolkata and UTC.
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
#: Days back and grouping; how many of each.
_WINDOWS = ((30, "by15Minutes"), (30, "byHour"), (30, "byHour"), (7, "by15Minutes"), (1, "by15Minutes"), (30, "byDay"))
_MINUTES = {"by15Minutes": 15, "byHour": 60}
Json = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """What a dashboard shows.

    Attributes:
        days: how far back.
        grouping: the guide's word.
        zone: whose hours and days.
        group_by: dimensions.
        columns: metrics.
        queues: the only ones shown; empty for all.
    """

    days: int
    grouping: str
    zone: str
    group_by: tuple[str, ...]
    columns: tuple[str, ...]
    queues: tuple[str, ...]

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """First bucket's start and current bucket's end."""
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
        at: when.
        window: what its dashboard shows.
        payload: as it is sent.
    """

    at: datetime
    window: Window
    payload: Json


@dataclass(frozen=True)
class _Screen:
    window: Window
    every: timedelta
    phase: timedelta
    offset: timezone
    zone_name: str
    seed: int


def requests(seed: int) -> list[Request]:
    """Return the day's requests, in order of time."""
    chance = random.Random(seed)  # noqa: S311 - a trace, not a secret
    found = [request for screen in _screens(chance) for request in _refreshes(screen)]
    return sorted(found, key=lambda request: (request.at, request.payload["requestId"]))


def _screens(chance: random.Random) -> Iterator[_Screen]:
    for number in range(_DASHBOARDS):
        window = _window(number, chance)
        every = timedelta(minutes=1 if number % 4 == 0 else 5)
        for _ in range(chance.randint(1, 5)):
            yield _Screen(
                window,
                every,
                timedelta(seconds=chance.randrange(int(every.total_seconds()))),
                timezone(timedelta(minutes=chance.choice((0, 60, 330, -300)))),
                chance.choice(_ZONES[window.zone]),
                chance.getrandbits(32),
            )


def _window(number: int, chance: random.Random) -> Window:
    days, grouping = _WINDOWS[number % len(_WINDOWS)]
    # An hour of Kolkata begins half past everybody else's.
    zone = chance.choice(tuple(_ZONES))
    return Window(
        days,
        grouping,
        zone,
        chance.choice(((), ("queueId",), ("mediaType",), ("mediaType", "queueId"))),
        tuple(sorted(chance.sample(("abandoned", "answered", "handleMs", "offered"), chance.randint(1, 4)))),
        tuple(sorted(chance.sample(QUEUES, 3))) if chance.random() < 0.4 else (),
    )


def _refreshes(screen: _Screen) -> Iterator[Request]:
    chance = random.Random(screen.seed)  # noqa: S311
    order = chance.sample(range(7), 7)
    groups, columns = (chance.sample(names, len(names)) for names in (screen.window.group_by, screen.window.columns))
    queues = chance.sample(screen.window.queues, len(screen.window.queues))
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
            ("requestId", f"{chance.getrandbits(64):016x}"),
        ]
        payload = dict(fields[place] for place in order)
        if queues:
            one = {"dimension": "queueId", "operator": "in", "values": queues}
            payload["filters"] = {"type": "and", "predicates": [one]}
        yield Request(at, screen.window, payload)
        at += screen.every
