"""Which partitions should be fetched, decided from coverage alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.tiers.coverage import Coverage


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


def _runs(keys: Iterable[str], order: list[str]) -> list[list[str]]:
    place = {key: index for index, key in enumerate(order)}
    runs: list[list[str]] = []
    for key in keys:
        if runs and place[runs[-1][-1]] + 1 == place[key]:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs
