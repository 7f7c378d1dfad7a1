"""Which partitions that failed their completeness check are asked for again, and in how small chunks (C3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cache_pipeline.query.calendar import Step
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.redis.demand import Demand

#: On runs that ask again: which attempt it is, and on the check of their partition.
ATTEMPT_TAG = "cache_pipeline/asked_again"
ATTEMPT_METADATA = "asked again"

_LADDER = ("P1W", "P1D", "PT1H", "PT30M")
_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class IncompletePartition:
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
class RetryDecision:
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


def halve_chunks(report: Report) -> list[str]:
    """The chunks to try, each smaller than the one before.

    Never single buckets: an answer that cannot be split cannot be held against its parts either, and a cut one would
    pass for a thin one.
    """
    declared = Step.parse(report.fetch.max_query_interval).nominal_length
    steps = {period: Step.parse(period) for period in _LADDER}
    return [
        period
        for period, step in steps.items()
        if report.step.nominal_length < step.nominal_length < declared and report.step.divides(step)
    ]


def due_for_retry(
    report: Report, incomplete: Iterable[IncompletePartition], now: datetime, *, wait: timedelta, at_most: int
) -> list[RetryDecision]:
    """The next step down for each incomplete partition, newest first; none after three attempts.

    Args:
        report: the declaration.
        incomplete: partitions by their latest check.
        now: the time.
        wait: how long a vendor is left alone after the first failure; doubled after each further one.
        at_most: partitions at once.
    """
    # Where nothing smaller can be judged, the same is asked: the vendor may have mended itself.
    ladder = halve_chunks(report) or [report.fetch.max_query_interval]
    due = [
        RetryDecision(
            each.key,
            ladder[min(each.attempts, len(ladder) - 1)],
            each.attempts + 1,
            f"{each.checked_at:%Y-%m-%dT%H:%M:%S}",
        )
        for each in sorted(incomplete, key=lambda each: each.checked_at, reverse=True)
        if each.attempts < _MOST_ATTEMPTS and now - each.checked_at >= wait * 2**each.attempts
    ]
    return due[:at_most]


def latest_incomplete(evaluations: Iterable[tuple[str, datetime, bool, int]]) -> list[IncompletePartition]:
    """The partitions whose latest evaluation did not pass.

    Args:
        evaluations: partition, time, whether it passed, and which attempt of asking again it belongs to (0 for none).
    """
    found: dict[str, IncompletePartition] = {}
    for key, at, passed, attempt in sorted(evaluations, key=lambda each: each[1]):
        if passed:
            found.pop(key, None)
        else:
            # Runs that others start in between begin no new count.
            before = found[key].attempts if key in found else 0
            found[key] = IncompletePartition(key, at, max(before, attempt))
    return list(found.values())


#: Requests in vain after which a report without a threshold of its own is proposed for one.
PROPOSED_AFTER = 10


@dataclass(frozen=True)
class PrefetchCandidate:
    """One partition to be fetched ahead, and how often it was asked for in vain."""

    report: str
    key: str
    missed: int


@dataclass(frozen=True)
class PrefetchProposal:
    """A report that is asked for in vain, for a person to decide about."""

    report: str
    missed: int

    def __str__(self) -> str:
        return (
            f"{self.report} was asked for in vain {self.missed} times in the last hours: set freshness.prefetch_after_misses, "
            "or a shorter freshness"
        )


def missed_by_partition(demands: Iterable[Demand], partitions: Mapping[str, Interval]) -> dict[str, int]:
    """How often each partition was part of what was asked for in vain."""
    missed = [(demand.interval, demand.misses) for demand in demands if demand.misses]
    return {
        key: total
        for key, interval in partitions.items()
        if (total := sum(count for asked, count in missed if asked.intersection(interval)))
    }


def prefetch_candidates(
    report: Report, demands: Sequence[Demand], partitions: Mapping[str, Interval], coverage: Coverage, *, at_most: int
) -> list[PrefetchCandidate]:
    """The partitions at or above the declared threshold that are not final yet, most missed first."""
    if report.freshness.prefetch_after_misses is None:
        return []
    counted = missed_by_partition(demands, partitions).items()
    due = [
        PrefetchCandidate(report.name, key, count)
        for key, count in counted
        if count >= report.freshness.prefetch_after_misses and IntervalSet([partitions[key]]) - coverage.final
    ]
    return sorted(due, key=lambda each: (-each.missed, each.key))[:at_most]


def prefetch_proposals(reports: Mapping[str, Report], demands: Iterable[Demand]) -> list[PrefetchProposal]:
    """Reports without a threshold, and queries of no report, that were asked for in vain often enough to be told."""
    missed: dict[str, int] = {}
    for demand in demands:
        if demand.report not in reports or reports[demand.report].freshness.prefetch_after_misses is None:
            missed[demand.report] = missed.get(demand.report, 0) + demand.misses
    found = [PrefetchProposal(name, count) for name, count in missed.items() if count >= PROPOSED_AFTER]
    return sorted(found, key=lambda each: (-each.missed, each.report))


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


def find_stale_ranges(
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


def find_settled_ranges(
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


def find_refetch_ranges(
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


def find_unpublished_ranges(
    coverage: Coverage, staged: Mapping[str, Interval], order: list[str], *, at_most: int
) -> list[StaleRange]:
    """Partitions that a run has staged and, killed, did not bring into history; oldest first, for they wait longest.

    Args:
        coverage: of the series.
        staged: interval by key of what lies on disk.
        order: all keys around them, in order.
        at_most: how many ranges to publish at once.
    """
    held = coverage.final | coverage.provisional
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
