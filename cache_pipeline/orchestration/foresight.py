"""Which partitions are fetched before they are asked for the next time, by what was asked for in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.redis.demand import Demand

#: Requests in vain after which a report without a threshold of its own is proposed for one.
PROPOSED_AFTER = 10


@dataclass(frozen=True)
class Ahead:
    """One partition to be fetched ahead, and how often it was asked for in vain."""

    report: str
    key: str
    missed: int


@dataclass(frozen=True)
class Proposal:
    """A report that is asked for in vain, for a person to decide about."""

    report: str
    missed: int

    def __str__(self) -> str:
        return (
            f"{self.report} was asked for in vain {self.missed} times in the last hours: give it ask_ahead_after, "
            "or a shorter freshness"
        )


def missed_by_partition(demands: Iterable[Demand], partitions: Mapping[str, Interval]) -> dict[str, int]:
    """How often each partition was part of what was asked for in vain."""
    missed = [(demand.interval, demand.missed) for demand in demands if demand.missed]
    return {
        key: total
        for key, interval in partitions.items()
        if (total := sum(count for asked, count in missed if asked.intersection(interval)))
    }


def fetched_ahead(
    report: Report, demands: Sequence[Demand], partitions: Mapping[str, Interval], coverage: Coverage, *, at_most: int
) -> list[Ahead]:
    """The partitions at or above the declared threshold that are not final yet, most missed first."""
    if report.ask_ahead_after is None:
        return []
    counted = missed_by_partition(demands, partitions).items()
    due = [
        Ahead(report.report, key, count)
        for key, count in counted
        if count >= report.ask_ahead_after and IntervalSet([partitions[key]]) - coverage.complete
    ]
    return sorted(due, key=lambda each: (-each.missed, each.key))[:at_most]


def proposals(reports: Mapping[str, Report], demands: Iterable[Demand]) -> list[Proposal]:
    """Reports without a threshold, and queries of no report, that were asked for in vain often enough to be told."""
    missed: dict[str, int] = {}
    for demand in demands:
        if demand.report not in reports or reports[demand.report].ask_ahead_after is None:
            missed[demand.report] = missed.get(demand.report, 0) + demand.missed
    found = [Proposal(name, count) for name, count in missed.items() if count >= PROPOSED_AFTER]
    return sorted(found, key=lambda each: (-each.missed, each.report))
