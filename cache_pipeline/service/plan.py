"""The plan of how to answer a query: which parts come from which tier, and what must be fetched from the vendor. Pure.

A plan takes each part from the first of these that has it: the hot tier; history, from the query's own series; history, from rows
of another declared series that roll up to it; the vendor, for exactly the buckets that none of the others has, in chunks as the
report declares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from cache_pipeline.errors import QueryError
from cache_pipeline.fetch.chunk_pool import CONCURRENCY
from cache_pipeline.fetch.partition_fetch import split_into_chunks
from cache_pipeline.query.calendar import cut_at_boundaries
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import clip_to_now
from cache_pipeline.query.rollup import check_bucket_alignment, find_rollup_problems
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.upstream.dialect import LimitScope
from cache_pipeline.upstream.quota import Allotment, ClientQuota, QuotaPolicy, SharedLimit
from cache_pipeline.upstream.quota.model import lane_share

_DEFAULT_QUERY_SECONDS = 5.0


class AnswerSource(StrEnum):
    """Where a part of an answer comes from."""

    hot = "hot"
    history = "history"
    roll_up = "roll-up"
    vendor = "vendor"


@dataclass(frozen=True)
class StoredSeries:
    """A declared series, and what history holds of it."""

    report: Report
    columns: tuple[Column, ...]
    coverage: Coverage


@dataclass(frozen=True)
class Cost:
    """What one upstream query of a series takes.

    Attributes:
        calls: Requests: submit, polls and pages.
        seconds: Time from submit to the last page.
        is_measured: Whether the figures come from the series' latest queries, or are assumed because none was sent yet.
    """

    calls: float
    seconds: float
    is_measured: bool = True

    @classmethod
    def assumed(cls, report: Report) -> Cost:
        """Return the assumed cost of a series that was never fetched."""
        return cls(1.0 if report.fetch.delivery == "sync" else 3.0, _DEFAULT_QUERY_SECONDS, is_measured=False)


@dataclass(frozen=True)
class QuotaHeadroom:
    """What the shared quota has left for a lane.

    Attributes:
        now: Requests that can be sent at once.
        per_window: Requests that can be sent in each window.
        window_seconds: The length of a window.
        allotment: The state of the month's allotment; None if none is declared.
    """

    now: int
    per_window: int
    window_seconds: float
    allotment: Allotment | None = None

    @classmethod
    def of(
        cls,
        policy: QuotaPolicy,
        clients: Sequence[ClientQuota],
        lane: Lane,
        limits: Sequence[SharedLimit] = (),
        allotment: Allotment | None = None,
    ) -> QuotaHeadroom:
        """Return what a lane may send over all clients of an account, within the limits of their organisation."""
        slots = policy.slots(lane)
        free = sum(0 if client.throttled_for_s else max(0, slots - client.used) for client in clients)
        per_window = slots * max(1, len(clients))
        for limit in limits:
            if limit.counts == LimitScope.organisation and limit.window_seconds:
                shared = max(1, math.floor(limit.limit * lane_share(lane)))
                free = min(free, max(0, shared - limit.used))
                per_window = min(per_window, math.floor(shared * policy.window_seconds / limit.window_seconds))
        return cls(free, per_window, policy.guarded_window_seconds, allotment)

    def wait_seconds(self, calls: float) -> float:
        """Return the seconds until so many requests have been sent, counted in whole windows."""
        beyond = calls - self.now
        return math.ceil(beyond / max(1, self.per_window)) * self.window_seconds if beyond > 0 else 0.0


@dataclass(frozen=True)
class PlanStep:
    """One part of an answer.

    Attributes:
        source: Where it comes from.
        report: The name of the report whose rows are used.
        interval: The part.
        reason: Why it comes from there, as a phrase for people.
        metrics: The metrics that are fetched; empty for all of the report.
        calls: Upstream requests it is expected to take.
        seconds: How long these are expected to take.
    """

    source: AnswerSource
    report: str
    interval: Interval
    reason: str
    calls: float = 0.0
    seconds: float = 0.0
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolledUpPart:
    """Buckets of the queried series that are rolled up from rows of another series.

    Attributes:
        source: The other series.
        final: Buckets that can no longer change.
        provisional: Buckets that still can; they are as old as ``fetched_at``.
        fetched_at: When the oldest provisional rows were fetched; None if there are none.
    """

    source: StoredSeries
    final: IntervalSet
    provisional: IntervalSet
    fetched_at: datetime | None

    @property
    def intervals(self) -> IntervalSet:
        """All buckets, final or provisional."""
        return self.final | self.provisional


@dataclass(frozen=True)
class Plan:
    """How a query will be answered.

    Attributes:
        query: The query.
        steps: The parts in the order of their intervals; together they are exactly the query's available interval.
        coverage: Coverage of the source series, as if it held the rolled-up parts too.
        rolled_up: Parts that are rolled up from rows of other series.
        to_fetch: What must be fetched from the vendor.
        chunks: The upstream queries that fetch it.
        cost: The cost of one of these queries.
        wait_seconds: Time until the quota has granted all of them.
        allotment: The state of the month's allotment; None if none is declared.
    """

    query: CanonicalQuery
    steps: tuple[PlanStep, ...]
    coverage: Coverage
    rolled_up: tuple[RolledUpPart, ...] = ()
    to_fetch: IntervalSet = field(default_factory=IntervalSet)
    chunks: tuple[Interval, ...] = ()
    cost: Cost | None = None
    wait_seconds: float = 0.0
    allotment: Allotment | None = None

    def with_headroom(self, headroom: QuotaHeadroom | None) -> Plan:
        """Return the plan with the time that the quota takes to grant its requests; without headroom it is unchanged."""
        if headroom is None or self.cost is None:
            return self
        wait_seconds = headroom.wait_seconds(self.cost.calls * len(self.chunks))
        return replace(self, wait_seconds=wait_seconds, allotment=headroom.allotment)

    @property
    def calls(self) -> float:
        """Requests that the plan is expected to send to the vendor."""
        return sum(step.calls for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long the plan is expected to take: the quota's time or the vendor's, whichever is longer."""
        if not self.chunks or self.cost is None:
            return 0.0
        # The first query is sent alone, because the others are checked by the row counts it shows.
        waves = 1 + math.ceil((len(self.chunks) - 1) / CONCURRENCY)
        return max(self.wait_seconds, waves * self.cost.seconds)


def make_hot_plan(query: CanonicalQuery) -> Plan:
    """Return the plan for a query whose answer the hot tier holds."""
    step = PlanStep(
        AnswerSource.hot, query.series.report.name, query.interval, "the finished answer is in the hot tier"
    )
    return Plan(query, (step,), Coverage())


def make_plan(
    query: CanonicalQuery,
    own: StoredSeries,
    others: Sequence[StoredSeries],
    now: datetime,
    cost: Cost | None = None,
    *,
    final_only: bool = False,
) -> Plan:
    """Decide where each part of an answer comes from.

    Args:
        query: The query; its available interval has begun.
        own: The series that answers it.
        others: Other declared series, whose rows may be rolled up to what that series lacks.
        now: The time as of which figures must be fresh.
        cost: The cost of one upstream query; assumed if not given.
        final_only: Whether provisional figures are fetched again, however fresh they are.
    """
    report, own_intervals = own.report, IntervalSet([query.available_interval])
    rule = FreshnessRule.of(report)
    to_fetch = own_intervals - own.coverage.final if final_only else rule.gaps(own.coverage, own_intervals, now)
    rolled_up = tuple(_roll_up_from_others(own, others, to_fetch, now, final_only=final_only))
    for each in rolled_up:
        to_fetch -= each.intervals
        own_intervals -= each.intervals
    partial = [] if final_only else rule.partial_gaps(own.coverage, to_fetch, now)
    if to_fetch:
        of_some = IntervalSet(part for _, intervals in partial for part in intervals)
        # Provisional figures beside a gap, in the same chunk, come with the same query at no extra cost.
        parts = [
            own.coverage.widen_gaps(to_fetch - of_some, IntervalSet([chunk]))
            for chunk in split_into_chunks(own_intervals - of_some, report)
        ]
        to_fetch = IntervalSet(part for each in parts for part in each)
        partial.append(((), to_fetch))
        to_fetch |= of_some
    fetches = [(metrics, chunk) for metrics, intervals in partial for chunk in split_into_chunks(intervals, report)]
    chunks = tuple(chunk for _, chunk in fetches)
    cost = cost or Cost.assumed(report)
    steps = (
        *_history_steps(report, own.coverage, own_intervals - to_fetch, rule),
        *_roll_up_steps(rolled_up),
        *_vendor_steps(report, own.coverage, fetches, cost),
    )
    return Plan(
        query=query,
        steps=tuple(sorted(steps, key=lambda step: (step.interval.start, step.source))),
        coverage=_add_rolled_up(own.coverage, rolled_up),
        rolled_up=rolled_up,
        to_fetch=to_fetch,
        chunks=chunks,
        cost=cost,
    )


@dataclass(frozen=True)
class StoredParts:
    """What history holds that may answer a query, as read at one moment.

    Attributes:
        query: The query.
        own: The series that answers it.
        others: Other series, read only if the own series lacks something.
        cost: The measured cost of one upstream query; None if it was not read, or there were none.
    """

    query: CanonicalQuery
    own: StoredSeries
    others: tuple[StoredSeries, ...] = ()
    cost: Cost | None = None

    def plan(self, now: datetime, *, final_only: bool = False) -> Plan:
        """Decide where each part of the answer comes from, if figures must be fresh as of now."""
        return make_plan(self.query, self.own, self.others, now, self.cost, final_only=final_only)


def can_roll_up(target: Report, source: Report, columns: Sequence[Column]) -> bool:
    """Return whether rows of another report, which has these columns, can be rolled up to a report's rows."""
    return target.name != source.name and not any(find_rollup_problems(source, target, columns))


def _roll_up_from_others(
    own: StoredSeries, others: Iterable[StoredSeries], missing: IntervalSet, now: datetime, *, final_only: bool
) -> Iterable[RolledUpPart]:
    # Longest buckets first: they have the fewest rows to read.
    for other in sorted(others, key=lambda each: (-each.report.step.nominal_length, each.report.name)):
        if not missing:
            return
        usable = can_roll_up(own.report, other.report, other.columns)
        part = _roll_up_from(own, other, missing, now, final_only=final_only) if usable else None
        if part is not None:
            yield part
            missing -= part.intervals


def _roll_up_from(
    own: StoredSeries, other: StoredSeries, missing: IntervalSet, now: datetime, *, final_only: bool
) -> RolledUpPart | None:
    """Return the missing buckets that the other series holds completely, final or fresh enough for the own series."""
    target, source = own.report, other.report
    wanted = IntervalSet(part for each in missing if (part := clip_to_now(each, source, now)))
    rule = FreshnessRule.of(source).with_ttl(FreshnessRule.of(target).ttl)
    usable = wanted & other.coverage.final if final_only else wanted - rule.gaps(other.coverage, wanted, now)
    if not usable:
        return None
    final: list[Interval] = []
    provisional: list[Interval] = []
    for bucket in (bucket for part in missing for bucket in cut_at_boundaries(part, target.step, target.zone)):
        needed = clip_to_now(bucket, source, now)
        if needed is None or not usable.covers(needed) or not _is_aligned(source, target, bucket):
            continue
        (final if other.coverage.final.covers(bucket) else provisional).append(bucket)
    if not (final or provisional):
        return None
    aging = IntervalSet(provisional) & other.coverage.provisional
    fetched = [each.at for each in other.coverage.fetch_times if each.intervals & aging]
    return RolledUpPart(other, IntervalSet(final), IntervalSet(provisional), min(fetched, default=None))


def _is_aligned(source: Report, target: Report, bucket: Interval) -> bool:
    try:
        check_bucket_alignment(source, target, bucket)
    except QueryError:
        return False
    return True


def _add_rolled_up(coverage: Coverage, rolled_up: Sequence[RolledUpPart]) -> Coverage:
    """Return the coverage as if the series held the rolled-up parts itself."""
    for each in rolled_up:
        rest = tuple(
            FetchTime(left, part.at) for part in coverage.fetch_times if (left := part.intervals - each.intervals)
        )
        fetched = (FetchTime(each.provisional, each.fetched_at),) if each.fetched_at and each.provisional else ()
        coverage = Coverage(
            coverage.final | each.final,
            (coverage.provisional - each.intervals) | each.provisional,
            coverage.watermark,
            (*rest, *fetched),
            {reason: waiting - each.intervals for reason, waiting in coverage.second_looks.items()},
            coverage.recheck_delay,
        )
    return coverage


def _history_steps(report: Report, coverage: Coverage, stored: IntervalSet, rule: FreshnessRule) -> Iterable[PlanStep]:
    for part in stored & coverage.final:
        yield PlanStep(AnswerSource.history, report.name, part, "stored and final: never fetched again")
    for each in coverage.fetch_times:
        for part in stored & coverage.provisional & each.intervals:
            completeness = rule.completeness_of(coverage, part)
            until = completeness.fresh_until if completeness else None
            text = f" until {format_instant(until.replace(microsecond=0))}" if until else ""
            yield PlanStep(AnswerSource.history, report.name, part, f"provisional, and fresh enough{text}")


def _roll_up_steps(rolled_up: Sequence[RolledUpPart]) -> Iterable[PlanStep]:
    for each in rolled_up:
        source = each.source.report
        by = f"{source.granularity} and {', '.join(source.group_by) or 'in total'}"
        for part in each.intervals:
            yield PlanStep(AnswerSource.roll_up, source.name, part, f"rolled up from rows by {by}")


def _vendor_steps(
    report: Report, coverage: Coverage, fetches: Iterable[tuple[tuple[str, ...], Interval]], cost: Cost
) -> Iterable[PlanStep]:
    for metrics, chunk in fetches:
        reason = _fetch_reason(chunk, coverage)
        if metrics:
            reason = f"only {', '.join(metrics)}: the other metrics are stored and final"
        yield PlanStep(AnswerSource.vendor, report.name, chunk, reason, cost.calls, cost.seconds, metrics)


def _fetch_reason(chunk: Interval, coverage: Coverage) -> str:
    within = IntervalSet([chunk])
    missing = within - coverage.final - coverage.provisional
    if missing == within:
        return "not stored"
    return "partly not stored, partly provisional" if missing else "provisional, and due to be fetched again"
