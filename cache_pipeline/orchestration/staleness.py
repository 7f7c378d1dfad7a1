"""Which partitions should be fetched, decided from coverage alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.coverage import Coverage


@dataclass(frozen=True)
class StaleRange:
    """Adjacent partitions to be fetched in one run.

    Attributes:
        first: key of the first partition, and ``last`` of the last.
        seen: what makes this request different from the one before: when the figures now held were fetched, and the
            hour. The same staleness asks once an hour, so that a run that failed is tried again and does not storm.
    """

    first: str
    last: str
    seen: str


def stale_ranges(
    coverage: Coverage, partitions: Mapping[str, Interval], now: datetime, freshness: timedelta, *, at_most: int
) -> list[StaleRange]:
    """The partitions that history lacks, or holds provisionally and too old (G11), newest first.

    Args:
        coverage: of the series.
        partitions: interval by key, in order, all of them ended.
        now: the time.
        freshness: how old provisional figures may grow.
        at_most: how many ranges to ask for at once.
    """
    gaps = coverage.gaps(IntervalSet(partitions.values()), now, freshness)
    stale = [key for key, interval in partitions.items() if gaps & IntervalSet([interval])]
    fetched = coverage.provisional_fetched_at.isoformat() if coverage.provisional_fetched_at else "never"
    seen = f"{fetched}@{now:%Y-%m-%dT%H}"
    return [StaleRange(run[0], run[-1], seen) for run in reversed(_runs(stale, list(partitions)))][:at_most]


def settled_ranges(
    coverage: Coverage, partitions: Mapping[str, Interval], now: datetime, settle: timedelta, *, at_most: int
) -> list[StaleRange]:
    """The partitions held provisionally that can be final by now, newest first.

    They end before the latest watermark seen, or the report's settle time ago: asking once more makes them final,
    however fresh they are.

    Args:
        coverage: of the series.
        partitions: interval by key, in order.
        now: the time.
        settle: after this age a bucket counts as final where the vendor gives no watermark.
        at_most: how many ranges to ask for at once.
    """
    watermark = max(coverage.watermark or now - settle, now - settle)
    moved = [
        key
        for key, interval in partitions.items()
        if interval.end <= watermark and coverage.provisional & IntervalSet([interval])
    ]
    seen = f"{watermark:%Y-%m-%dT%H}"
    return [StaleRange(run[0], run[-1], seen) for run in reversed(_runs(moved, list(partitions)))][:at_most]


def restated_ranges(
    partitions: Mapping[str, Interval], now: datetime, window: timedelta, every: timedelta, *, at_most: int
) -> list[StaleRange]:
    """The trailing window that the vendor may have corrected, to be asked for again once in each ``every``.

    Args:
        partitions: interval by key, in order, all of them ended.
        now: the time.
        window: how far back the vendor corrects.
        every: how often the window is asked for.
        at_most: how many ranges to ask for at once.
    """
    seen = str(int(now.timestamp() // every.total_seconds()))
    inside = [key for key, interval in partitions.items() if interval.start >= now - window]
    return [StaleRange(run[0], run[-1], seen) for run in reversed(_runs(inside, list(partitions)))][:at_most]


def unpublished_ranges(
    coverage: Coverage, staged: Mapping[str, Interval], order: list[str], *, at_most: int
) -> list[StaleRange]:
    """Partitions that a run has staged and, killed, did not bring into history; oldest first, for they wait longest.

    Args:
        coverage: of the series.
        staged: interval by key of what lies on disk.
        order: all keys around them, in order.
        at_most: how many ranges to publish at once.
    """
    held = coverage.complete | coverage.provisional
    lying = [key for key in order if key in staged and IntervalSet([staged[key]]) - held]
    return [StaleRange(run[0], run[-1], "staged") for run in _runs(lying, order)][:at_most]


def _runs(keys: Iterable[str], order: list[str]) -> list[list[str]]:
    place = {key: index for index, key in enumerate(order)}
    runs: list[list[str]] = []
    for key in keys:
        if runs and place[runs[-1][-1]] + 1 == place[key]:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs
