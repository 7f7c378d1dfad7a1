"""How long things stay: the hot tier's few seconds, and how old provisional figures may grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta

from cache_pipeline.query.report import Report

#: Just under the five seconds that tier one may hold an answer (G8), so that jitter only ever shortens it.
HOT_TTL = timedelta(seconds=4.9)
#: Name of the hot tier's lifetime within a key (G7).
HOT_TTL_TIER = "5s"

_LEAST_HOT = timedelta(seconds=1)
_HOUR_TTL = timedelta(minutes=15)
_DAY_TTL = timedelta(hours=4)
_LEAST, _MOST = timedelta(seconds=30), timedelta(hours=4)
_EXPONENT = math.log(_DAY_TTL / _HOUR_TTL) / math.log(24)


def freshness_ttl(interval: timedelta) -> timedelta:
    """How old provisional figures of an interval may grow (G11).

    The rule's given points are 15 minutes for an hour and 4 hours for a day; between and beyond them a power law runs
    through both, held between the 30 seconds of real-time monitoring and the 4 hours of weekly roll-ups.
    """
    seconds = _HOUR_TTL.total_seconds() * (interval / timedelta(hours=1)) ** _EXPONENT
    return min(max(timedelta(seconds=seconds), _LEAST), _MOST)


def report_freshness(report: Report) -> timedelta:
    """The declared freshness, or the rule applied to the report's partition."""
    return report.freshness.ttl or freshness_ttl(report.partition.step.nominal_length)


def hot_life(fetched_at: datetime | None, freshness: timedelta, now: datetime) -> timedelta:
    """How long the hot tier may hold an answer: no longer than the oldest of its provisional parts stays fresh.

    Args:
        fetched_at: when that part was fetched; None where all parts are final, which do not age.
        freshness: how old it may grow.
        now: the time.

    Returns:
        Never less than a second, for other processes wait for it there. What is too old already was the best to be had, by
        a slow vendor's doing or by declaration, and is held as long as any.
    """
    left = HOT_TTL if fetched_at is None else fetched_at + freshness - now
    return min(HOT_TTL, max(left, _LEAST_HOT)) if left > timedelta(0) else HOT_TTL


def jittered(ttl: timedelta, random: Callable[[], float]) -> timedelta:
    """Up to ten percent shorter, so that keys filled together do not expire together (G21).

    Args:
        ttl: the longest life.
        random: uniform in [0, 1).
    """
    return ttl * (1 - 0.1 * random())


#: Above one, an answer is made anew rather too early than too late.
_EAGERNESS = 2.0
#: What making an answer takes at least, for one made in a lucky moment says little of the next.
_LEAST_COST = 0.05


def is_due(age: float, life: float, cost: float, chance: float) -> bool:
    """Whether a reader should make an answer anew before it expires, by lot (XFetch: Vattani, Chierichetti, Lowenstein 2015).

    The closer the end and the dearer the answer, the likelier: of a crowd of readers one draws the lot in time, and of few
    readers mostly none does.

    Args:
        age: seconds since it was made; beyond its life where clocks disagree, and then nobody draws.
        life: seconds that it lives.
        cost: seconds that making it takes.
        chance: uniform in [0, 1).
    """
    if not 0 <= age < life:
        return False
    # Never in the first half of its life, or a dear answer would be made over and over.
    ahead = min(-math.log(1 - chance) * _EAGERNESS * max(cost, _LEAST_COST), life / 2)
    return age + ahead >= life
