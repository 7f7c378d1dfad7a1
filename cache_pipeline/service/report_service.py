"""The one engine behind all three ways in: HTTP, Dagster and the command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from cache_pipeline.query.completeness import JudgedChunk
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.requested import AS_DECLARED, Narrowing, RequestedQuery, requested
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import Query, Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.fetching import (
    FailedPartition,
    FetchedPartition,
    clipped_to_now,
    finished,
)
from cache_pipeline.service.gathering import Gathering
from cache_pipeline.service.jobs import LeftToOthers, OnPercent, nobody_else
from cache_pipeline.service.judging import Proven
from cache_pipeline.service.keeping import keep
from cache_pipeline.service.kept import OnKeep, keep_no_record
from cache_pipeline.service.plan import Plan, Room, hot_plan
from cache_pipeline.service.planning import Planner
from cache_pipeline.service.reach import not_begun
from cache_pipeline.telemetry import spans
from cache_pipeline.tiers.answer import Answer, render, rolled_up
from cache_pipeline.tiers.flights import Flights, Sharing
from cache_pipeline.tiers.history import History
from cache_pipeline.tiers.hot import HotTier
from cache_pipeline.tiers.ledger import Claim, Ledger
from cache_pipeline.tiers.ttl import HOT_TTL_TIER, report_freshness
from cache_pipeline.upstream.platforms.base import Platform
from cache_pipeline.upstream.polling import Pacing
from cache_pipeline.upstream.quota import Lane


class PlatformNotConfigured(RuntimeError):
    """A report's platform has no account in the settings."""


#: What those hear who wait for an answer: a verdict, or how far the query of an interval is.
News = JudgedChunk | tuple[Interval, float | None]


def _ignore(_chunk: JudgedChunk) -> None:
    return


def _no_percent(_interval: Interval, _percent: float | None) -> None:
    return


#: A job that somebody left and that is taken up may tell of some buckets what is provisional and too old by now: these are
#: asked for anew, once for each such job.
_FETCHES = 3


@dataclass(frozen=True)
class ReportService:
    """Answers queries from what is kept, and asks the vendor only for what is missing.

    Attributes:
        platforms: by name, those that have an account.
        history, hot: the tiers.
        ledger: where every upstream query is noted.
        flights: one for each thing that is asked, over all processes.
        sharing: one task for all identical callers of this process.
        redis: what the hot tier and the flights stand on.
        clock: the time, in UTC.
        tenant: whose data.
        on_keep: hears of what was written to history.
        pacings: by platform, when its jobs are asked for.
        declared: reports whose rows may be rolled up to answer what another one lacks.
        retention: by platform, how long its vendor keeps figures, where that is declared.
        left_to_others: whether somebody else goes on with what is cancelled; the vendor's jobs are left to them then.
    """

    platforms: Mapping[str, Platform]
    history: History
    hot: HotTier
    ledger: Ledger
    flights: Flights
    sharing: Sharing[Answer | None, News]
    redis: Redis
    clock: Callable[[], datetime]
    tenant: str
    on_keep: OnKeep = keep_no_record
    pacings: Mapping[str, Pacing] = field(default_factory=dict[str, Pacing])
    declared: Sequence[Report] = ()
    retention: Mapping[str, timedelta] = field(default_factory=dict[str, timedelta])
    left_to_others: LeftToOthers = nobody_else

    def series(self, report: Report) -> Series:
        """The report as this tenant's series."""
        return Series(report, self.tenant)

    def platform(self, report: Report) -> Platform:
        """The vendor behind a report.

        Raises:
            PlatformNotConfigured: naming the settings that are missing.
        """
        if report.platform not in self.platforms:
            prefix = f"CACHE_PIPELINE_{report.platform.upper()}__"
            raise PlatformNotConfigured(
                f"{report.report} asks {report.platform}, which has no account: set {prefix}BASE_URL and {prefix}CLIENTS"
            )
        return self.platforms[report.platform]

    def columns(self, report: Report) -> tuple[Column, ...]:
        """The columns of a report's answers."""
        return self.platform(report).columns(report)

    async def fetch(
        self,
        report: Report,
        wanted: Mapping[str, Interval],
        lane: Lane,
        *,
        on_chunk: Callable[[JudgedChunk], None] = _ignore,
        on_percent: OnPercent = _no_percent,
        again: bool = False,
    ) -> AsyncGenerator[FetchedPartition | FailedPartition]:
        """Bring together the rows of some partitions, asking the vendor for what history lacks.

        Nothing is kept yet: that is for ``keep``, after whatever checks the caller makes.

        Args:
            report: the declaration.
            wanted: interval by partition key; ends must be boundaries of the granularity.
            lane: who asks.
            on_chunk: hears of every judged answer as it falls.
            on_percent: hears, at every poll, how far the query of an interval is.
            again: ask for everything, whatever history holds.

        Yields:
            Every partition once, as it is finished; one that has not begun yet has failed.
        """
        fetched = self._gathering(report).partitions(wanted, lane, on_chunk, on_percent, again=again)
        async with aclosing(fetched) as partitions:
            async for partition in partitions:
                yield partition

    async def keep(self, report: Report, partitions: Sequence[FetchedPartition], claims: Sequence[Claim] = ()) -> None:
        """Write what the vendor was asked for to history, rows and coverage in one transaction.

        What came out of history stays as it is there, and so does what others have asked for since.

        Raises:
            LeaseLost: another process has taken over one of the claims that the rows come from.
        """
        await keep(self.history, self.series(report), partitions, claims, self.on_keep)

    def _gathering(self, report: Report) -> Gathering:
        return Gathering(
            series=self.series(report),
            platform=self.platform(report),
            history=self.history,
            ledger=self.ledger,
            flights=self.flights,
            clock=self.clock,
            pacing=self.pacings.get(report.platform) or Pacing(),
            reach=self.reach(report),
            left_to_others=self.left_to_others,
        )

    def query(self, report: Report, interval: str | Interval, narrowing: Narrowing = AS_DECLARED) -> Query:
        """What is asked now: the part of the interval whose buckets have begun.

        Raises:
            InvalidInterval: it cuts a bucket, or lies in the future.
            InvalidQuery: the report's rows do not hold what is asked for.
            PlatformNotConfigured: something is asked for otherwise than declared, and the platform has no account.
        """
        columns = () if narrowing == AS_DECLARED else self.columns(report)
        return self.begun(requested(report, interval, narrowing, columns))

    def begun(self, wanted: RequestedQuery) -> Query:
        """The part of a question whose buckets have begun; there is nothing to say of the future.

        Raises:
            InvalidInterval: none has begun.
        """
        now = self.clock()
        begun = clipped_to_now(wanted.interval, wanted.asked, now)
        if begun is None:
            raise not_begun(wanted.interval)
        query = replace(wanted, interval=begun).query(self.tenant)
        return replace(query, begun=clipped_to_now(begun, wanted.declared, now)) if wanted.is_narrowed else query

    async def ready(self, query: Query, *, stale: timedelta = timedelta(0)) -> Answer | None:
        """The answer where hot or history holds it, without asking the vendor; None where it must be asked.

        Args:
            query: what is asked.
            stale: by how much provisional figures may be older than the report's freshness.
        """
        return await self.held(query) or await self._recalled(query, self.clock() - stale)

    async def settled(self, query: Query) -> Answer | None:
        """The answer where history holds all of it and none of it can change any more."""
        return await self._from_history(query, self.clock() + report_freshness(query.kept.report))

    async def held(self, query: Query) -> Answer | None:
        """The answer where the hot tier holds it; the lot may fall on this reader to have it made anew meanwhile."""
        held = await self.hot.look(query)
        if held is None:
            return None
        if held.due:
            self.renew(query)
        return held.answer

    def renew(self, query: Query) -> None:
        """Have the hot tier's answer made anew from history, in the background."""
        self.sharing.begin(query.key(HOT_TTL_TIER), lambda: self._from_history(query, self.clock()))

    async def _recalled(self, query: Query, asked_at: datetime) -> Answer | None:
        """One read of history for all who miss the same answer in the hot tier."""
        key = f"{asked_at.isoformat(timespec='seconds')} {query.key(HOT_TTL_TIER)}"
        return await self.sharing.run(key, lambda _tell: self._from_history(query, asked_at))

    async def answer(
        self,
        report: Report,
        interval: str | Interval,
        lane: Lane = Lane.interactive,
        *,
        narrowing: Narrowing = AS_DECLARED,
        on_chunk: Callable[[JudgedChunk], None] = _ignore,
        on_percent: OnPercent = _no_percent,
    ) -> Answer:
        """Answer a question asked of a report: hot, else history, else the vendor.

        Args:
            report: the declaration.
            interval: what is asked of it.
            lane: who asks.
            narrowing: what is asked for otherwise than declared.
            on_chunk: hears of every judged answer of the vendor as it falls.
            on_percent: hears, at every poll, how far the vendor's query of an interval is.

        Raises:
            QueryError: as ``query`` does.
            IncompleteAnswer, UpstreamError, SchemaMismatch: the vendor's answer cannot be had or kept.
        """
        return await self.answer_query(
            self.query(report, interval, narrowing), lane, on_chunk=on_chunk, on_percent=on_percent
        )

    async def answer_query(
        self,
        query: Query,
        lane: Lane = Lane.interactive,
        *,
        on_chunk: Callable[[JudgedChunk], None] = _ignore,
        on_percent: OnPercent = _no_percent,
        refresh: bool = False,
    ) -> Answer:
        """Answer a query that has begun; as ``answer`` does.

        What is asked of the vendor is always the series that history keeps, so that every other way to look at it is
        answered from there. To ``refresh`` is to ask it again for what is provisional, however fresh that is; what is
        final is never asked for again.
        """

        def hear(news: News) -> None:
            if isinstance(news, JudgedChunk):
                on_chunk(news)
            else:
                on_percent(*news)

        key = query.key(HOT_TTL_TIER)
        if refresh:
            found = self.sharing.run(f"{key} anew", self._refreshing(query, lane), hear)
        else:
            found = self.sharing.run(key, self._finding(query, lane), hear)
        # Callers of a crowd are woken one after another, and none should free what the first alone needs.
        del query
        answer = await found
        if answer is None:
            raise RuntimeError(f"{key} was kept, and history does not hold it")
        return answer

    def _refreshing(
        self, query: Query, lane: Lane
    ) -> Callable[[Callable[[News], None]], Coroutine[Any, Any, Answer | None]]:
        """What has the provisional part of an answer asked for again, for all who wish that in this process."""

        async def anew(tell: Callable[[News], None]) -> Answer | None:
            asked_at = self.clock()
            # As of then nothing that is held now and can still change is fresh.
            plan = await self._planner.plan(query, asked_at + report_freshness(query.kept.report))
            await self._fetch_and_keep(plan, lane, tell, again=True)
            return await self._from_history(query, asked_at)

        return anew

    def _finding(
        self, query: Query, lane: Lane
    ) -> Callable[[Callable[[News], None]], Coroutine[Any, Any, Answer | None]]:
        """What finds an answer, telling of its progress, for all identical callers of this process."""

        async def found(tell: Callable[[News], None]) -> Answer | None:
            asked_at = self.clock()
            if (ready := await self.held(query)) is not None:
                return ready
            plan = await self._planner.plan(query, asked_at)
            if not plan.due:
                return await self._answered(plan)

            async def landed() -> bool:
                nonlocal ready
                ready = await self.held(query)
                return ready is not None

            # Other processes wait for the answer as it goes out, and not for its chunks one by one.
            async with self.flights.hold(query.key(HOT_TTL_TIER), landed) as mine:
                if not mine:
                    return ready
                for _ in range(_FETCHES):
                    await self._fetch_and_keep(plan, lane, tell)
                    # As fresh as when it was asked for: a slow vendor's answer may be older than the freshness when it lands.
                    plan = await self._planner.plan(query, asked_at)
                    if not plan.due:
                        return await self._answered(plan)
                return None

        return found

    async def rendered(self, report: Report, intervals: Sequence[Interval]) -> list[tuple[Query, Answer]]:
        """Answers as they would go out, for those of the intervals that history holds, in a few reads."""
        series = self.series(report)
        spans = IntervalSet(intervals)
        hull = Interval(min(each.start for each in spans), max(each.end for each in spans)) if spans else None
        coverage = await asyncio.to_thread(self.history.coverage, series, hull)
        rows = await self._held_rows(series, spans & (coverage.complete | coverage.provisional))
        return [
            (query, render(query, rows.within(interval).table(), completeness))
            for interval in intervals
            if (completeness := coverage.of(interval)) is not None and (query := Query(series, interval))
        ]

    async def _fetch_and_keep(
        self, plan: Plan, lane: Lane, tell: Callable[[News], None], *, again: bool = False
    ) -> None:
        """Bring what a plan finds missing into history, each chunk as soon as it is proven."""
        report = plan.query.kept.report
        wanted = {str(chunk): chunk for chunk in plan.chunks}

        async def keep(proven: Proven, claims: Sequence[Claim]) -> None:
            await self.keep(report, [finished(proven)], claims)

        fetched = self._gathering(report).partitions(
            wanted, lane, tell, lambda part, percent: tell((part, percent)), keep=keep, again=again
        )
        async with aclosing(fetched) as partitions:
            async for partition in partitions:
                if isinstance(partition, FailedPartition):
                    raise partition.error

    async def plan(self, query: Query, room: Room | None = None) -> Plan:
        """What answering a query now will take, without sending anything.

        Args:
            query: what is asked.
            room: of the quota; without it nothing is said of waiting for it.
        """
        if await self.hot.get(query) is not None:
            return hot_plan(query)
        return await self._planner.costed(query, self.clock(), room)

    @property
    def _planner(self) -> Planner:
        return Planner(self.history, self.columns, self.declared, self.tenant, self.reach)

    def reach(self, report: Report) -> datetime | None:
        """The instant before which a report's vendor keeps nothing, or None where that is not declared."""
        kept = self.retention.get(report.platform)
        return self.clock() - kept if kept else None

    async def _from_history(self, query: Query, asked_at: datetime) -> Answer | None:
        """The answer where history holds all of it fresh enough; it goes into the hot tier on the way."""
        plan = await self._planner.plan(query, asked_at)
        return None if plan.due else await self._answered(plan)

    async def _answered(self, plan: Plan) -> Answer:
        """The answer that a plan finds held; it goes into the hot tier on the way."""
        started = time.monotonic()
        query, completeness = plan.query, plan.coverage.of(plan.query.span)
        if completeness is None:
            raise RuntimeError(f"{query.kept.report.report} {query.span}: the plan leaves out a part")
        if query.made_of is not None:
            completeness = rolled_up(completeness, query)
        answer = render(query, await self._planner.rows(plan), completeness)
        with spans.span("store hot", report=query.kept.report.report):
            await self.hot.put([(query, answer)], self.clock(), cost=time.monotonic() - started)
        return answer

    async def _held_rows(self, series: Series, intervals: IntervalSet) -> Rows:
        return await asyncio.to_thread(self.history.rows, series, intervals, self.columns(series.report))
