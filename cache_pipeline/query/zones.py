"""Time zones compared by their rules instead of their names: aliases of one clock, and buckets that two zones share.

Names and links come from the IANA database in the ``tzdata`` package.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from cache_pipeline.errors import QueryError

_UTC_NAMES = frozenset({"Z", "UTC", "Etc/UTC", "GMT", "Etc/GMT"})
#: Instants at which offsets are compared. Figures of contact centres reach back some decades at most, and clocks change
#: at most every few weeks.
_SAMPLE_INSTANTS = tuple(datetime(1990, 1, 1, tzinfo=UTC) + timedelta(days=14 * number) for number in range(26 * 60))


#: Entries of the database that are no place's clock.
_NO_CLOCKS = frozenset({"Factory"})


@cache
def _database() -> tuple[frozenset[str], dict[str, str]]:
    """Return the names of all zones, and the target of each name that is a link to another."""
    text = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if line.startswith(("Z ", "L "))]
    links = {words[2]: words[1] for words in lines if words[0] == "L"}
    return frozenset({words[1] for words in lines if words[0] == "Z"} | links.keys()) - _NO_CLOCKS, links


def zone_names() -> frozenset[str]:
    """Return the names of all time zones that a report or query may use, aliases included."""
    return _database()[0]


@cache
def time_zone(name: str) -> ZoneInfo:
    """Return the IANA zone of a name; ``Z`` is UTC.

    Other names that a machine's folder of zones has are refused: ``localtime`` and ``posixrules`` differ from machine to
    machine, and the clocks under ``right/`` count leap seconds.

    Raises:
        QueryError: The database has no such zone.
    """
    if name == "Z":
        return ZoneInfo("UTC")
    if name not in zone_names():
        raise QueryError(
            f"time zone {name[:80]!r} is not in the IANA database: write, for example, Europe/Berlin or UTC"
        )
    return ZoneInfo(name)


@lru_cache(maxsize=16_384)
def midnight(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant of a local day, in UTC, even if the clocks skip or repeat midnight.

    A day that the clocks skip altogether begins and ends with the day after it begins.
    """
    wall = datetime.combine(day, time.min, zone)
    first, last = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
    # Both are the same unless midnight is repeated, where the earlier one comes first, or skipped.
    return first if first <= last else _first_instant_after_gap(day, zone, last, first)


def _first_instant_after_gap(day: date, zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the instant at which the clocks skip midnight. It lies after ``before`` and not later than ``after``."""
    while (length := (after - before) // timedelta(seconds=1)) > 1:
        middle = before + timedelta(seconds=length // 2)
        before, after = (before, middle) if middle.astimezone(zone).date() >= day else (middle, after)
    return after


@lru_cache(maxsize=1024)
def canonical_zone(name: str) -> str:
    """Return the one name for all aliases of a clock: ``Asia/Calcutta`` → ``Asia/Kolkata``, ``Z`` → ``UTC``.

    Zones whose clocks have agreed since 1970 are links of one another in the database, so they have one name here.
    """
    links = _database()[1]
    target = name
    while target in links:
        target = links[target]
    return "UTC" if target in _UTC_NAMES else target


@lru_cache(maxsize=1024)
def offset_granularity(name: str) -> int:
    """Return the greatest number of minutes that divides every UTC offset of the zone since 1990.

    It is 60 for most zones, 30 for India and 15 for Nepal. Buckets whose length divides it start at the same instants in
    all such zones.
    """
    zone = time_zone(name)
    offsets = {instant.astimezone(zone).utcoffset() or timedelta() for instant in _SAMPLE_INSTANTS}
    return math.gcd(24 * 60, *(int(offset.total_seconds() // 60) for offset in offsets))


@lru_cache(maxsize=1024)
def clock_change_granularity(name: str, since: date) -> int:
    """Return the greatest number of minutes that divides every change of the zone's clocks since a day; 0 if there is none.

    It is 60 for most zones that change their clocks, and 30 for Lord Howe Island.
    """
    zone, first = time_zone(name), datetime(since.year, since.month, since.day, tzinfo=UTC)
    instants = (first, *(instant for instant in _SAMPLE_INSTANTS if instant > first))
    offsets = {instant.astimezone(zone).utcoffset() or timedelta() for instant in instants}
    lowest = min(offsets)
    return math.gcd(*(int((offset - lowest).total_seconds() // 60) for offset in offsets))


@lru_cache(maxsize=1024)
def has_same_buckets(minutes: int, one: str, other: str) -> bool:
    """Return whether buckets of that many minutes, counted from local midnight, start at the same instants in both zones."""
    if canonical_zone(one) == canonical_zone(other):
        return True
    return minutes > 0 and offset_granularity(one) % minutes == 0 and offset_granularity(other) % minutes == 0
