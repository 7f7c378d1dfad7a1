"""What answering a query will take, decided before anything is sent: pure, frozen, and told in words.

In this order: the hot tier; what history holds of the query's own series; what rows of another declared series roll up to;
and only then the vendor, for exactly the buckets that none of these has, in chunks as the report declares them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import pyarrow as pa

from cache_pipeline.errors import QueryError
from cache_pipeline.fetch.partition_fetch import clip_to_now, split_into_chunks
from cache_pipeline.query.calendar import cut_at_boundaries
from cache_pipeline.query.interval import Interval, IntervalSet, format_instant
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import retention_error
from cache_pipeline.query.rollup import check_bucket_alignment, find_rollup_problems, roll_up
from cache_pipeline.query.schema import Column, arrow_schema, sort_rows
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.storage.coverage import Coverage, Fetched
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.ttl import report_freshness
from cache_pipeline.telemetry.spans import annotate, span
from cache_pipeline.upstream.quota import ClientQuota, QuotaPolicy

#: Upstream queries of one report that are under way together.
_AT_ONCE = 16
_UNLEARNED_SECONDS = 5.0


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
        calls: requests: submit, polls, pages.
        seconds: from submit to the last page.
        is_measured: whether that is what its latest ones took, or what is assumed of one that was never sent.
    """

    calls: float
    seconds: float
    is_measured: bool = True

    @classmethod
    def assumed(cls, report: Report) -> Cost:
        """Of a series that was never asked for."""
        return cls(1.0 if report.fetch.delivery == "sync" else 3.0, _UNLEARNED_SECONDS, is_measured=False)


@dataclass(frozen=True)
class QuotaHeadroom:
    """What the shared quota has left for a lane.

    Attributes:
        now: requests that could be sent at once.
        per_window: requests that can be sent in each window.
        window_seconds: its length.
    """

    now: int
    per_window: int
    window_seconds: float

    @classmethod
    def of(cls, policy: QuotaPolicy, clients: Sequence[ClientQuota], lane: Lane) -> QuotaHeadroom:
        """What a lane may send over all clients of a platform."""
        slots = policy.slots(lane)
        free = sum(0 if client.throttled_for_s else max(0, slots - client.used) for client in clients)
        return cls(free, slots * max(1, len(clients)), policy.guarded_window_seconds)

    def wait(self, calls: float) -> float:
        """Seconds until so many requests have been sent, counted in whole windows."""
        beyond = calls - self.now
        return math.ceil(beyond / max(1, self.per_window)) * self.window_seconds if beyond > 0 else 0.0


@dataclass(frozen=True)
class PlanStep:
    """One part of an answer.

    Attributes:
        source: where it comes from.
        report: whose rows.
        interval: which.
        why: in words.
        calls: upstream requests it is expected to take.
        seconds: how long these are expected to take.
    """

    source: AnswerSource
    report: str
    interval: Interval
    why: str
    calls: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class RolledUpPart:
    """Buckets of the kept series that rows of another one make up.

    Attributes:
        holding: the other one.
        final: buckets that can change no more.
        provisional: buckets that can; as old as ``fetched_at``.
        fetched_at: when the oldest of the provisional rows were fetched.
    """

    holding: StoredSeries
    final: IntervalSet
    provisional: IntervalSet
    fetched_at: datetime | None

    @property
    def intervals(self) -> IntervalSet:
        """All of them."""
        return self.final | self.provisional


@dataclass(frozen=True)
class Plan:
    """How a query will be answered.

    Attributes:
        query: what is asked.
        steps: in the order in which they are gone; together exactly the query's span.
        coverage: of the kept series, as if it held what is borrowed.
        borrowed: what rows of other series are rolled up to.
        due: what the vendor must be asked for.
        chunks: the upstream queries of that.
        cost: of one of these.
        wait_seconds: until the quota has had room for all of them.
    """

    query: CanonicalQuery
    steps: tuple[PlanStep, ...]
    coverage: Coverage
    borrowed: tuple[RolledUpPart, ...] = ()
    due: IntervalSet = field(default_factory=IntervalSet)
    chunks: tuple[Interval, ...] = ()
    cost: Cost | None = None
    wait_seconds: float = 0.0

    @property
    def calls(self) -> float:
        """Requests that the vendor is expected to get."""
        return sum(step.calls for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long it is expected to take: the quota's time or the vendor's, whichever is longer."""
        if not self.chunks or self.cost is None:
            return 0.0
        # The first one goes alone, for it teaches what the others are judged by.
        waves = 1 + math.ceil((len(self.chunks) - 1) / _AT_ONCE)
        return max(self.wait_seconds, waves * self.cost.seconds)


def make_hot_plan(query: CanonicalQuery) -> Plan:
    """The plan for a query whose answer the hot tier holds."""
    step = PlanStep(
        AnswerSource.hot, query.series.report.name, query.interval, "the finished answer is in the hot tier"
    )
    return Plan(query, (step,), Coverage())


def make_plan(
    query: CanonicalQuery,
    kept: StoredSeries,
    others: Sequence[StoredSeries],
    now: datetime,
    cost: Cost | None = None,
    room: QuotaHeadroom | None = None,
) -> Plan:
    """Decide where each part of an answer comes from.

    Args:
        query: what is asked; its span has begun.
        kept: the series whose rows answer it.
        others: other declared series, whose rows may make up what that one lacks.
        now: the time as of which figures must be fresh.
        cost: of one upstream query.
        room: of the quota; without it nothing is said of waiting.
    """
    report, span = kept.report, IntervalSet([query.available_interval])
    freshness = report_freshness(report)
    due = kept.coverage.gaps(span, now, freshness)
    borrowed = tuple(_borrowed(kept, others, due, now))
    for each in borrowed:
        due -= each.intervals
        span -= each.intervals
    if due:
        # What is provisional beside it, in the same chunk, comes with the same query.
        parts = [kept.coverage.around(due, IntervalSet([chunk])) for chunk in split_into_chunks(span, report)]
        due = IntervalSet(part for each in parts for part in each)
    chunks = tuple(split_into_chunks(due, report))
    cost = cost or Cost.assumed(report)
    coverage = _as_if_held(kept.coverage, borrowed)
    steps = (
        *_held_steps(report, kept.coverage, span - due, freshness),
        *_borrowed_steps(borrowed),
        *(
            PlanStep(AnswerSource.vendor, report.name, chunk, _why_asked(chunk, kept.coverage, freshness), cost.calls, cost.seconds)
            for chunk in chunks
        ),
    )  # fmt: skip
    ordered = tuple(sorted(steps, key=lambda step: (step.interval.start, step.source)))
    return Plan(
        query, ordered, coverage, borrowed, due, chunks, cost, room.wait(cost.calls * len(chunks)) if room else 0.0
    )


def _borrowed(
    kept: StoredSeries, others: Iterable[StoredSeries], due: IntervalSet, now: datetime
) -> Iterable[RolledUpPart]:
    # The longest buckets first, for there are fewest rows of them.
    for other in sorted(others, key=lambda each: (-each.report.step.nominal_length, each.report.name)):
        if not due:
            return
        may = can_roll_up(kept.report, other.report, other.columns)
        found = _made_up(kept, other, due, now) if may else None
        if found is not None:
            yield found
            due -= found.intervals


def can_roll_up(kept: Report, other: Report, columns: Sequence[Column]) -> bool:
    """Whether rows of another report, which has these columns, can be rolled up to a report's."""
    return kept.name != other.name and not any(find_rollup_problems(other, kept, columns))


def _made_up(kept: StoredSeries, other: StoredSeries, due: IntervalSet, now: datetime) -> RolledUpPart | None:
    """The buckets due that the other series holds all of, final or fresh enough for the kept one."""
    wanted = IntervalSet(part for each in due if (part := clip_to_now(each, other.report, now)))
    usable = wanted - other.coverage.gaps(wanted, now, report_freshness(kept.report))
    if not usable:
        return None
    final: list[Interval] = []
    provisional: list[Interval] = []
    for bucket in (bucket for part in due for bucket in cut_at_boundaries(part, kept.report.step, kept.report.zone)):
        needed = clip_to_now(bucket, other.report, now)
        if needed is None or not usable.covers(needed) or not _is_whole(other.report, kept.report, bucket):
            continue
        (final if other.coverage.complete.covers(bucket) else provisional).append(bucket)
    if not (final or provisional):
        return None
    aging = IntervalSet(provisional) & other.coverage.provisional
    fetched = [each.at for each in other.coverage.fetched if each.intervals & aging]
    return RolledUpPart(other, IntervalSet(final), IntervalSet(provisional), min(fetched, default=None))


def _is_whole(source: Report, asked: Report, bucket: Interval) -> bool:
    try:
        check_bucket_alignment(source, asked, bucket)
    except QueryError:
        return False
    return True


def _as_if_held(coverage: Coverage, borrowed: Sequence[RolledUpPart]) -> Coverage:
    for each in borrowed:
        kept = tuple(Fetched(rest, part.at) for part in coverage.fetched if (rest := part.intervals - each.intervals))
        fetched = (Fetched(each.provisional, each.fetched_at),) if each.fetched_at and each.provisional else ()
        coverage = Coverage(
            coverage.complete | each.final,
            (coverage.provisional - each.intervals) | each.provisional,
            coverage.watermark,
            (*kept, *fetched),
        )
    return coverage


def _held_steps(report: Report, coverage: Coverage, held: IntervalSet, freshness: timedelta) -> Iterable[PlanStep]:
    for part in held & coverage.complete:
        yield PlanStep(AnswerSource.history, report.name, part, "held and final: never asked again")
    for each in coverage.fetched:
        for part in held & coverage.provisional & each.intervals:
            until = format_instant((each.at + freshness).replace(microsecond=0))
            yield PlanStep(AnswerSource.history, report.name, part, f"provisional, and fresh enough until {until}")


def _borrowed_steps(borrowed: Sequence[RolledUpPart]) -> Iterable[PlanStep]:
    for each in borrowed:
        source = each.holding.report
        by = f"{source.granularity} and {', '.join(source.group_by) or 'in total'}"
        for part in each.intervals:
            yield PlanStep(AnswerSource.roll_up, source.name, part, f"rolled up from rows by {by}")


def _why_asked(chunk: Interval, coverage: Coverage, freshness: timedelta) -> str:
    within = IntervalSet([chunk])
    missing = within - coverage.complete - coverage.provisional
    if missing == within:
        return "not held"
    stale = f"provisional, and in part older than {_spoken(freshness)}"
    return "partly not held, partly provisional" if missing else stale


def _spoken(span: timedelta) -> str:
    minutes, seconds = divmod(int(span.total_seconds()), 60)
    return f"{minutes} min" if not seconds else f"{int(span.total_seconds())} s"


@dataclass(frozen=True)
class Planner:
    """Plans over history.

    Attributes:
        history: the tier.
        columns: of a report's answers.
        declared: the reports whose rows may be rolled up to another's.
        tenant: whose data.
        reach: of a report's vendor: the instant before which it keeps nothing, or None.
    """

    history: History
    columns: Callable[[Report], tuple[Column, ...]]
    declared: Sequence[Report]
    tenant: str
    reach: Callable[[Report], datetime | None]

    async def plan(self, query: CanonicalQuery, now: datetime, room: QuotaHeadroom | None = None) -> Plan:
        """How a query would be answered as of now.

        Other series are looked at only where the query's own lacks something.

        Raises:
            InvalidInterval: something is held by nobody any more.
        """
        with span(
            "make_plan", report=query.source_series.report.name, interval=str(query.available_interval)
        ) as current:
            kept = await self._holding(query.source_series, query.available_interval)
            found = make_plan(query, kept, (), now, room=room)
            if found.due:
                found = make_plan(query, kept, await self._others(query), now, room=room)
            annotate(current, due=bool(found.due))
            return self._within_reach(found)

    async def costed(self, query: CanonicalQuery, now: datetime, room: QuotaHeadroom | None) -> Plan:
        """The same, with what its upstream queries have taken before.

        Raises:
            InvalidInterval: as ``make_plan`` does.
        """
        kept = await self._holding(query.source_series, query.available_interval)
        others = await self._others(query)
        learned = await asyncio.to_thread(self.history.chunk_cost, query.source_series)
        return self._within_reach(make_plan(query, kept, others, now, Cost(*learned) if learned else None, room))

    def _within_reach(self, found: Plan) -> Plan:
        report = found.query.source_series.report
        if (refused := retention_error(report, found.due, self.reach(report))) is not None:
            raise refused
        return found

    async def rows(self, found: Plan) -> pa.Table:
        """The rows that answer a query whose plan asks the vendor for nothing."""
        query, report = found.query, found.query.source_series.report
        borrowed = [rows for each in found.borrowed for rows in await self._rolled_up(each, report)]
        own = IntervalSet([query.available_interval])
        for each in found.borrowed:
            own -= each.intervals
        held = [await self._read(query.source_series, part) for part in own]
        tables = [*held, *borrowed]
        rows = tables[0] if len(tables) == 1 else sort_rows(pa.concat_tables(tables))
        if query.rollup_source is None:
            return rows
        asked = query.series.report
        return roll_up(rows, report, asked, self.columns(asked), query.interval)

    async def _rolled_up(self, borrowed: RolledUpPart, report: Report) -> list[pa.Table]:
        source = borrowed.holding.report
        columns, series = self.columns(report), Series(source, self.tenant)
        return [
            roll_up(await self._read(series, part), source, report, columns, part) for part in borrowed.intervals
        ] or [arrow_schema(columns).empty_table()]

    async def _read(self, series: Series, interval: Interval) -> pa.Table:
        return await asyncio.to_thread(self.history.read, series, interval, self.columns(series.report))

    async def _holding(self, series: Series, span: Interval) -> StoredSeries:
        coverage = await asyncio.to_thread(self.history.coverage, series, span)
        return StoredSeries(series.report, self.columns(series.report), coverage)

    async def _others(self, query: CanonicalQuery) -> list[StoredSeries]:
        kept = query.source_series.report
        found = {
            Series(report, self.tenant): columns
            for report in self.declared
            # Of another vendor's columns nothing can be said where that has no account.
            if (report.platform, report.query_type) == (kept.platform, kept.query_type)
            and can_roll_up(kept, report, columns := self.columns(report))
        }
        if not found:
            return []
        coverages = await asyncio.to_thread(self.history.coverages, list(found), query.available_interval)
        return [StoredSeries(each.report, columns, coverages[each.id]) for each, columns in found.items()]
