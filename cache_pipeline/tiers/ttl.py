"""How long things stay: the hot tier's few seconds, and how old provisional figures may grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

from cache_pipeline.query.report import Report

#: Just under the five seconds that tier one may hold an answer (G8), so that jitter only ever shortens it.
HOT_TTL = timedelta(seconds=4.9)
#: Name of the hot tier's lifetime within a key (G7).
HOT_TTL_TIER = "5s"

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
    return report.freshness or freshness_ttl(report.partition.step.nominal)


def jittered(ttl: timedelta, random: Callable[[], float]) -> timedelta:
    """Up to ten percent shorter, so that keys filled together do not expire together (G21).

    Args:
        ttl: the longest life.
        random: uniform in [0, 1).
    """
    return ttl * (1 - 0.1 * random())
