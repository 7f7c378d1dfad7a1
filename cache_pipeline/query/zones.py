"""Time zones compared by their rules instead of their names: aliases of one clock, and buckets that two zones share.

Names and links come from the IANA database in the ``tzdata`` package.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cache_pipeline.errors import QueryError

_UTC_NAMES = frozenset({"Z", "UTC", "Etc/UTC", "GMT", "Etc/GMT"})
#: Instants at which offsets are compared. Figures of contact centres reach back some decades at most, and clocks change
#: at most every few weeks.
_SAMPLE_INSTANTS = tuple(datetime(1990, 1, 1, tzinfo=UTC) + timedelta(days=14 * number) for number in range(26 * 60))


@cache
def _links() -> dict[str, str]:
    text = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line.startswith("L "))
    return {link: target for _, target, link in lines}


@cache
def time_zone(name: str) -> ZoneInfo:
    """Return the IANA zone of a name; ``Z`` is UTC.

    Raises:
        QueryError: The database has no such zone.
    """
    if name == "Z":
        return ZoneInfo("UTC")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise QueryError(
            f"time zone {name[:80]!r} is not in the IANA database: write, for example, Europe/Berlin or UTC"
        ) from error


@lru_cache(maxsize=1024)
def canonical_zone(name: str) -> str:
    """Return the one name for all aliases of a clock: ``Asia/Calcutta`` → ``Asia/Kolkata``, ``Z`` → ``UTC``.

    Zones whose clocks have agreed since 1970 are links of one another in the database, so they have one name here.
    """
    links = _links()
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
def has_same_buckets(minutes: int, one: str, other: str) -> bool:
    """Return whether buckets of that many minutes, counted from local midnight, start at the same instants in both zones."""
    if canonical_zone(one) == canonical_zone(other):
        return True
    return minutes > 0 and offset_granularity(one) % minutes == 0 and offset_granularity(other) % minutes == 0
