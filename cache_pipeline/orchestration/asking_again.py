"""Which partitions that failed their completeness check are asked for again, and in how small chunks (C3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.calendar import Step
from cache_pipeline.query.report import Report

#: On runs that ask again: which attempt it is, and on the check of their partition.
ATTEMPT_TAG = "cache_pipeline/asked_again"
ATTEMPT_METADATA = "asked again"

_LADDER = ("P1W", "P1D", "PT1H", "PT30M")
_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Incomplete:
    """A partition whose latest completeness check did not pass.

    Attributes:
        key: the partition's.
        checked_at: when it did not.
        attempts: how often it has been asked for again since it last passed.
    """

    key: str
    checked_at: datetime
    attempts: int


@dataclass(frozen=True)
class Again:
    """One partition to be asked for again.

    Attributes:
        key: the partition's.
        chunk: longest interval of one upstream query.
        attempt: counted from 1.
        seen: the failed check that it answers to, which asks once.
    """

    key: str
    chunk: str
    attempt: int
    seen: str


def smaller_chunks(report: Report) -> list[str]:
    """The chunks to try, each smaller than the one before.

    Never single buckets: an answer that cannot be split cannot be held against its parts either, and a cut one would
    pass for a thin one.
    """
    declared = Step.parse(report.chunk).nominal
    steps = {period: Step.parse(period) for period in _LADDER}
    return [
        period
        for period, step in steps.items()
        if report.step.nominal < step.nominal < declared and report.step.divides(step)
    ]


def due_again(
    report: Report, incomplete: Iterable[Incomplete], now: datetime, *, wait: timedelta, at_most: int
) -> list[Again]:
    """The next step down for each incomplete partition, newest first; none after three attempts.

    Args:
        report: the declaration.
        incomplete: partitions by their latest check.
        now: the time.
        wait: how long a vendor is left alone after the first failure; doubled after each further one.
        at_most: partitions at once.
    """
    # Where nothing smaller can be judged, the same is asked: the vendor may have mended itself.
    ladder = smaller_chunks(report) or [report.chunk]
    due = [
        Again(
            each.key,
            ladder[min(each.attempts, len(ladder) - 1)],
            each.attempts + 1,
            f"{each.checked_at:%Y-%m-%dT%H:%M:%S}",
        )
        for each in sorted(incomplete, key=lambda each: each.checked_at, reverse=True)
        if each.attempts < _MOST_ATTEMPTS and now - each.checked_at >= wait * 2**each.attempts
    ]
    return due[:at_most]


def latest_incomplete(evaluations: Iterable[tuple[str, datetime, bool, int]]) -> list[Incomplete]:
    """The partitions whose latest evaluation did not pass.

    Args:
        evaluations: partition, time, whether it passed, and which attempt of asking again it belongs to (0 for none).
    """
    found: dict[str, Incomplete] = {}
    for key, at, passed, attempt in sorted(evaluations, key=lambda each: each[1]):
        if passed:
            found.pop(key, None)
        else:
            # Runs that others start in between begin no new count.
            before = found[key].attempts if key in found else 0
            found[key] = Incomplete(key, at, max(before, attempt))
    return list(found.values())
