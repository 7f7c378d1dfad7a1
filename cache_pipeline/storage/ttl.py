"""Lifetimes: how long the hot tier holds an answer, and how old provisional rows may get before they are refetched."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report

#: Just under the five seconds that the hot tier may hold an answer (G8), so that jitter only ever shortens it.
HOT_TTL = timedelta(seconds=4.9)
#: Name of the hot tier's lifetime within a key (G7).
HOT_TTL_TIER = "5s"
#: How old the figures of live reports may get (G11).
LIVE_FRESHNESS = timedelta(seconds=30)
#: How long the hot tier may hold them, the one exception to G8: so much less that a reader who looks each second has new ones in time.
LIVE_TTL = timedelta(seconds=28)
#: Name of that lifetime within a key.
LIVE_TTL_TIER = "30s"

_MIN_HOT_TTL = timedelta(seconds=1)
_HOUR_TTL = timedelta(minutes=15)
_DAY_TTL = timedelta(hours=4)
_MIN_FRESHNESS, _MAX_FRESHNESS = LIVE_FRESHNESS, timedelta(hours=4)
_EXPONENT = math.log(_DAY_TTL / _HOUR_TTL) / math.log(24)

#: Scale of the early refresh. Above one, an answer is recomputed too early rather than too late.
_EARLY_REFRESH_FACTOR = 2.0
#: Lower bound of the cost of an answer: one fast computation does not predict the next.
_MIN_COST_SECONDS = 0.05


def freshness_ttl(interval: timedelta) -> timedelta:
    """Return how old provisional rows of an interval may get (G11).

    G11 gives 15 minutes for an hour and 4 hours for a day. Between and beyond these points we use the power law through
    both, bounded by the 30 seconds of real-time monitoring and the 4 hours of weekly roll-ups.
    """
    seconds = _HOUR_TTL.total_seconds() * (interval / timedelta(hours=1)) ** _EXPONENT
    return min(max(timedelta(seconds=seconds), _MIN_FRESHNESS), _MAX_FRESHNESS)


def report_freshness(report: Report | LiveReport) -> timedelta:
    """Return the declared freshness or, without one, that of the report's partition by G11."""
    if isinstance(report, LiveReport):
        return LIVE_FRESHNESS
    return report.freshness.ttl or freshness_ttl(report.partition.step.nominal_length)


def hot_ttl(fresh_until: datetime | None, now: datetime) -> timedelta:
    """Return how long the hot tier may hold an answer: at most until a provisional part of it must be fetched again.

    Args:
        fresh_until: When that is. None if all parts are final, because final rows do not age.
        now: The current time.

    Returns:
        At least a second, because other processes wait for the answer to appear there. An answer that is too old already
        was the best available (the vendor is slow, or the declaration says so), and is held for the full time.
    """
    remaining = HOT_TTL if fresh_until is None else fresh_until - now
    return min(HOT_TTL, max(remaining, _MIN_HOT_TTL)) if remaining > timedelta(0) else HOT_TTL


def jitter_ttl(ttl: timedelta, random: Callable[[], float]) -> timedelta:
    """Shorten a lifetime by up to ten percent, so that keys filled together do not expire together (G21).

    Args:
        ttl: The longest lifetime.
        random: Returns uniform numbers in [0, 1).
    """
    return ttl * (1 - 0.1 * random())


def is_refresh_due(age: float, life: float, cost: float, chance: float) -> bool:
    """Decide at random whether a reader should recompute an answer before it expires.

    This is XFetch (Vattani, Chierichetti, Lowenstein 2015). The probability grows towards the end of the lifetime and with
    the cost of the answer: among many readers one refreshes in time, and among few readers usually none does.

    Args:
        age: Seconds since the answer was written. Outside the lifetime if clocks disagree; then no refresh is due.
        life: Lifetime of the answer in seconds.
        cost: Seconds that computing the answer takes.
        chance: A uniform random number in [0, 1).
    """
    if not 0 <= age < life:
        return False
    # Never in the first half of the lifetime, or an expensive answer would be recomputed all the time.
    ahead = min(-math.log(1 - chance) * _EARLY_REFRESH_FACTOR * max(cost, _MIN_COST_SECONDS), life / 2)
    return age + ahead >= life
