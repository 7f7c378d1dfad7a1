"""Pure decisions on what sensors fetch next: stale, corrected, unpublished, incomplete or often missed partitions.

No function here reads a clock, a database or Dagster: callers pass the state in, and turn the answer into run requests.
Three kinds of decisions, in this order:

1. ranges of partitions to fetch or publish, by what history holds of them (C5);
2. retries of partitions that failed their completeness check, in smaller chunks (C3);
3. partitions to prefetch because requests to the API miss them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cache_pipeline.query.calendar import Step, midnight
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ports.demand import Demand

#: Chunks that retries use, each smaller than the one before.
_CHUNK_SIZES = ("P1W", "P1D", "PT1H", "PT30M")
_MAX_RETRIES = 3
#: Missed requests after which prefetching is suggested for a report that declares no threshold.
MIN_MISSES_TO_SUGGEST = 10


@dataclass(frozen=True)
class PartitionRange:
    """Adjacent partitions to process in one run.

    Attributes:
        first: Key of the first partition.
        last: Key of the last partition.
        state: What the decision was based on, as part of the run key: the same state requests one run only. It contains
            the hour where a failed run shall be repeated, so that retries come at most once an hour.
    """

    first: str
    last: str
    state: str


def find_stale_time(
    coverage: Coverage, whole: Interval, recent: Interval, now: datetime, rule: FreshnessRule
) -> IntervalSet:
    """Find what must be fetched: what is missing or due of the recent partitions, and what is due of older ones.

    Older gaps are left to a backfill, which a person starts; the check of open partitions reports them.

    Args:
        coverage: Coverage of the series.
        whole: All partitions that can be final by now.
        recent: The newest of them.
        now: The current time.
        rule: Decides which provisional figures are due.
    """
    older = coverage.provisional & IntervalSet([whole])
    return rule.gaps(coverage, older | IntervalSet([recent]), now)


def find_stale_ranges(
    coverage: Coverage, stale: Mapping[str, Interval], now: datetime, *, at_most: int
) -> list[PartitionRange]:
    """Return ranges of stale partitions, newest first.

    Args:
        coverage: Coverage of the series.
        stale: Interval by key of the partitions to fetch, in order.
        now: The current time.
        at_most: Maximum number of ranges.
    """
    return [
        PartitionRange(run[0], run[-1], _fetch_state(coverage, (stale[key] for key in run), now))
        for run in reversed(_adjacent_runs(stale))
    ][:at_most]


def _fetch_state(coverage: Coverage, intervals: Iterable[Interval], now: datetime) -> str:
    provisional = coverage.provisional & IntervalSet(intervals)
    latest = max((each.at for each in coverage.fetch_times if each.intervals & provisional), default=None)
    return f"{latest.isoformat() if latest else 'never'}@{now:%Y-%m-%dT%H}"


def find_correctable_partitions(
    coverage: Coverage, partitions: Mapping[str, Interval], now: datetime, window: timedelta, zone: ZoneInfo
) -> dict[str, Interval]:
    """Find the partitions to fetch again because the vendor may have corrected them.

    Each is due once a local day while the window touches it, and once at least: if history holds it, and not from a fetch of this
    day. One whose last such day has passed without a fetch is due until it has been fetched once more.

    Args:
        coverage: Coverage of the series, with the fetch times of these partitions.
        partitions: Interval by key of the partitions that the window touches today or has touched, in order.
        now: The current time.
        window: How far back the vendor corrects figures.
        zone: The time zone of the report's days.
    """
    stored, today = coverage.final | coverage.provisional, now.astimezone(zone).date()
    days = timedelta(days=-(-window // timedelta(days=1)))
    due: dict[str, Interval] = {}
    for key, span in partitions.items():
        # At least the day after the first fetch: what is fetched as soon as it has ended has not been corrected yet.
        ended = span.end.astimezone(zone).date()
        last_day = max((span.end - timedelta(microseconds=1)).astimezone(zone).date() + days, ended + timedelta(days=1))
        since = midnight(min(today, last_day), zone)
        if stored.covers(span) and IntervalSet([span]) - coverage.fetched_since(since):
            due[key] = span
    return due


def find_unpublished_ranges(
    coverage: Coverage, staged: Mapping[str, Interval], *, at_most: int
) -> list[PartitionRange]:
    """Find the partitions that a killed run has staged but not written to history, oldest first.

    The oldest come first because they have waited longest.

    Args:
        coverage: Coverage of the series.
        staged: Interval by key of the partitions that are staged on disk, in order.
        at_most: Maximum number of ranges.
    """
    stored = coverage.final | coverage.provisional
    unpublished = {key: span for key, span in staged.items() if IntervalSet([span]) - stored}
    return [PartitionRange(run[0], run[-1], "staged") for run in _adjacent_runs(unpublished)][:at_most]


def _adjacent_runs(partitions: Mapping[str, Interval]) -> list[list[str]]:
    """Return the keys of partitions that are in order, in runs of which each begins where the one before ends."""
    runs: list[list[str]] = []
    for key, interval in partitions.items():
        if runs and partitions[runs[-1][-1]].end == interval.start:
            runs[-1].append(key)
        else:
            runs.append([key])
    return runs


class CompletenessEvaluation(NamedTuple):
    """One partition's result of the completeness check.

    Attributes:
        key: Partition key.
        evaluated_at: When the check ran.
        passed: Whether it passed.
        attempt: Which retry it belongs to; 0 for a first fetch.
        reason: Why it failed.
    """

    key: str
    evaluated_at: datetime
    passed: bool
    attempt: int
    reason: str = ""


@dataclass(frozen=True)
class IncompletePartition:
    """A partition whose latest completeness check failed.

    Attributes:
        key: Partition key.
        checked_at: When the check failed.
        attempts: Retries since the check last passed.
    """

    key: str
    checked_at: datetime
    attempts: int


@dataclass(frozen=True)
class RetryDecision:
    """One partition to fetch again.

    Attributes:
        key: Partition key.
        chunk: Longest interval of one upstream query.
        attempt: Number of the retry, counted from 1.
        state: Time of the failed check, as part of the run key: one failure requests one retry.
    """

    key: str
    chunk: str
    attempt: int
    state: str


def find_incomplete_partitions(evaluations: Iterable[CompletenessEvaluation]) -> list[IncompletePartition]:
    """Find the partitions whose latest evaluation failed, in any order of the evaluations."""
    found: dict[str, IncompletePartition] = {}
    for evaluation in sorted(evaluations, key=lambda each: each.evaluated_at):
        if evaluation.passed:
            found.pop(evaluation.key, None)
        else:
            # A run that a person starts between two retries does not reset the count.
            previous = found[evaluation.key].attempts if evaluation.key in found else 0
            attempts = max(previous, evaluation.attempt)
            found[evaluation.key] = IncompletePartition(evaluation.key, evaluation.evaluated_at, attempts)
    return list(found.values())


def smaller_chunks(report: Report) -> list[str]:
    """Return the chunks that retries use, in descending order.

    A chunk is always longer than one bucket: an answer that cannot be split cannot be compared with its parts either, so
    a truncated one would pass for a sparse one.
    """
    declared = Step.parse(report.fetch.max_query_interval).nominal_length
    steps = {period: Step.parse(period) for period in _CHUNK_SIZES}
    return [
        period
        for period, step in steps.items()
        if report.step.nominal_length < step.nominal_length < declared and report.step.divides(step)
    ]


def decide_retries(
    report: Report, incomplete: Iterable[IncompletePartition], now: datetime, *, wait: timedelta, at_most: int
) -> list[RetryDecision]:
    """Decide which incomplete partitions to fetch again now, each in the next smaller chunk; newest failures first.

    A partition is retried three times at most.

    Args:
        report: The report.
        incomplete: The incomplete partitions.
        now: The current time.
        wait: Delay after the first failure; it doubles after each further one.
        at_most: Maximum number of partitions.
    """
    # Without a smaller chunk the same query is sent again: the fault may have been the vendor's, and temporary.
    chunks = smaller_chunks(report) or [report.fetch.max_query_interval]
    due = [
        RetryDecision(
            partition.key,
            chunks[min(partition.attempts, len(chunks) - 1)],
            partition.attempts + 1,
            f"{partition.checked_at:%Y-%m-%dT%H:%M:%S}",
        )
        for partition in sorted(incomplete, key=lambda each: each.checked_at, reverse=True)
        if partition.attempts < _MAX_RETRIES and now - partition.checked_at >= wait * 2**partition.attempts
    ]
    return due[:at_most]


@dataclass(frozen=True)
class PrefetchCandidate:
    """One partition to prefetch, and how many API requests missed it."""

    report: str
    key: str
    missed: int


@dataclass(frozen=True)
class PrefetchSuggestion:
    """A report that API requests often miss and that is not prefetched; a person decides what to do."""

    report: str
    missed: int

    def __str__(self) -> str:
        return (
            f"{self.missed} requests for {self.report} missed the cache in the last hours: set "
            "freshness.prefetch_after_misses, or a shorter freshness.ttl"
        )


def count_missed_requests(demands: Iterable[Demand], partitions: Mapping[str, Interval]) -> dict[str, int]:
    """Count for each partition the missed requests whose interval overlaps it; partitions without any are left out."""
    missed = [(demand.interval, demand.misses) for demand in demands if demand.misses]
    return {
        key: total
        for key, interval in partitions.items()
        if (total := sum(count for requested, count in missed if requested.intersection(interval)))
    }


def find_prefetch_candidates(
    report: Report, demands: Sequence[Demand], partitions: Mapping[str, Interval], coverage: Coverage, *, at_most: int
) -> list[PrefetchCandidate]:
    """Find the partitions that reach the report's declared threshold and are not final, most missed first."""
    if report.freshness.prefetch_after_misses is None:
        return []
    counts = count_missed_requests(demands, partitions).items()
    candidates = [
        PrefetchCandidate(report.name, key, count)
        for key, count in counts
        if count >= report.freshness.prefetch_after_misses and IntervalSet([partitions[key]]) - coverage.final
    ]
    return sorted(candidates, key=lambda each: (-each.missed, each.key))[:at_most]


def suggest_prefetch(reports: Mapping[str, Report], demands: Iterable[Demand]) -> list[PrefetchSuggestion]:
    """List the reports without a threshold, and queries of no declared report, that requests miss often; most first."""
    missed: dict[str, int] = {}
    for demand in demands:
        if demand.report not in reports or reports[demand.report].freshness.prefetch_after_misses is None:
            missed[demand.report] = missed.get(demand.report, 0) + demand.misses
    found = [PrefetchSuggestion(name, count) for name, count in missed.items() if count >= MIN_MISSES_TO_SUGGEST]
    return sorted(found, key=lambda each: (-each.missed, each.report))
