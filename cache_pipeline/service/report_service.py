"""The one engine behind all three ways in: HTTP, Dagster and the command line."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from cache_pipeline.errors import PlatformNotConfigured
from cache_pipeline.fetch.completeness_checker import VerifiedRows
from cache_pipeline.fetch.fetch_session import FetchSession
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition, clip_to_now, collect_partitions
from cache_pipeline.fetch.persist import store_partitions
from cache_pipeline.fetch.upstream_jobs import HasOtherRequesters, OnPercent, no_other_requesters
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.query_request import NO_OVERRIDES, QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import future_interval_error
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.cached_answers import CachedAnswers, ProgressEvent
from cache_pipeline.service.planner import Plan, Planner, QuotaHeadroom, make_hot_plan
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.postgres.ledger import Ledger, LedgerClaim
from cache_pipeline.storage.redis.hot import HotTier
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline.storage.ttl import HOT_TTL_TIER, report_freshness
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter


def _ignore(_chunk: ChunkResult) -> None:
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
        single_flight: one for each thing that is asked, over all processes.
        coalescer: one task for all identical callers of this process.
        redis: what the hot tier and the single_flight stand on.
        clock: the time, in UTC.
        tenant: whose data.
        on_stored: hears of what was written to history.
        job_pollers: by platform, when its jobs are asked for.
        declared: reports whose rows may be rolled up to answer what another one lacks.
        retention: by platform, how long its vendor keeps figures, where that is declared.
        has_other_requesters: whether somebody else goes on with what is cancelled; the vendor's jobs are left to them then.
    """

    platforms: Mapping[str, VendorAdapter]
    history: History
    hot: HotTier
    ledger: Ledger
    single_flight: SingleFlight
    coalescer: Coalescer[Answer | None, ProgressEvent]
    redis: Redis
    clock: Callable[[], datetime]
    tenant: str
    on_stored: OnStored = ignore_stored
    job_pollers: Mapping[str, JobPoller] = field(default_factory=dict[str, JobPoller])
    declared: Sequence[Report] = ()
    retention: Mapping[str, timedelta] = field(default_factory=dict[str, timedelta])
    has_other_requesters: HasOtherRequesters = no_other_requesters

    def series(self, report: Report) -> Series:
        """The report as this tenant's series."""
        return Series(report, self.tenant)

    def platform(self, report: Report) -> VendorAdapter:
        """The vendor behind a report.

        Raises:
            PlatformNotConfigured: naming the settings that are missing.
        """
        if report.platform not in self.platforms:
            prefix = f"CACHE_PIPELINE_{report.platform.upper()}__"
            raise PlatformNotConfigured(
                f"{report.name} asks {report.platform}, which has no account: set {prefix}BASE_URL and {prefix}CLIENTS"
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
        on_chunk: Callable[[ChunkResult], None] = _ignore,
        on_percent: OnPercent = _no_percent,
        refetch: bool = False,
    ) -> AsyncGenerator[FetchedPartition | FailedPartition]:
        """Bring together the rows of some partitions, asking the vendor for what history lacks.

        Nothing is kept yet: that is for ``store_partitions``, after whatever checks the caller makes.

        Args:
            report: the declaration.
            wanted: interval by partition key; ends must be boundaries of the granularity.
            lane: who asks.
            on_chunk: hears of every judged answer as it falls.
            on_percent: hears, at every poll, how far the query of an interval is.
            refetch: ask for everything, whatever history holds.

        Yields:
            Every partition once, as it is finished; one that has not begun yet has failed.
        """
        fetched = self._session(report).partitions(wanted, lane, on_chunk, on_percent, refetch=refetch)
        async with aclosing(fetched) as partitions:
            async for partition in partitions:
                yield partition

    async def store(
        self, report: Report, partitions: Sequence[FetchedPartition], claims: Sequence[LedgerClaim] = ()
    ) -> None:
        """Write what the vendor was asked for to history, rows and coverage in one transaction.

        What came out of history stays as it is there, and so does what others have asked for since.

        Raises:
            LeaseLost: another process has taken over one of the claims that the rows come from.
        """
        await store_partitions(self.history, self.series(report), partitions, claims, self.on_stored)

    def _session(self, report: Report) -> FetchSession:
        return FetchSession(
            series=self.series(report),
            platform=self.platform(report),
            history=self.history,
            ledger=self.ledger,
            single_flight=self.single_flight,
            clock=self.clock,
            poller=self.job_pollers.get(report.platform) or JobPoller(),
            reach=self.reach(report),
            has_other_requesters=self.has_other_requesters,
        )

    def query(
        self, report: Report, interval: str | Interval, overrides: QueryOverrides = NO_OVERRIDES
    ) -> CanonicalQuery:
        """What is asked now: the part of the interval whose buckets have begun.

        Raises:
            InvalidInterval: it cuts a bucket, or lies in the future.
            InvalidQuery: the report's rows do not hold what is asked for.
            PlatformNotConfigured: something is asked for otherwise than declared, and the platform has no account.
        """
        columns = () if overrides == NO_OVERRIDES else self.columns(report)
        return self.clip_to_now(resolve_request(report, interval, overrides, columns))

    def clip_to_now(self, wanted: QueryRequest) -> CanonicalQuery:
        """The part of a question whose buckets have begun; there is nothing to say of the future.

        Raises:
            InvalidInterval: none has begun.
        """
        now = self.clock()
        begun = clip_to_now(wanted.interval, wanted.requested, now)
        if begun is None:
            raise future_interval_error(wanted.interval)
        query = replace(wanted, interval=begun).canonical_query(self.tenant)
        return replace(query, elapsed=clip_to_now(begun, wanted.declared, now)) if wanted.is_rolled_up else query

    @property
    def cached_answers(self) -> CachedAnswers:
        """Those that need nothing of the vendor."""
        return CachedAnswers(self.history, self.hot, self._planner, self.coalescer, self.clock)

    async def answer(
        self,
        report: Report,
        interval: str | Interval,
        lane: Lane = Lane.interactive,
        *,
        overrides: QueryOverrides = NO_OVERRIDES,
        on_chunk: Callable[[ChunkResult], None] = _ignore,
        on_percent: OnPercent = _no_percent,
    ) -> Answer:
        """Answer a question asked of a report: hot, else history, else the vendor.

        Args:
            report: the declaration.
            interval: what is asked of it.
            lane: who asks.
            overrides: what is asked for otherwise than declared.
            on_chunk: hears of every judged answer of the vendor as it falls.
            on_percent: hears, at every poll, how far the vendor's query of an interval is.

        Raises:
            QueryError: as ``query`` does.
            IncompleteAnswer, UpstreamError, SchemaMismatch: the vendor's answer cannot be had or kept.
        """
        return await self.answer_query(
            self.query(report, interval, overrides), lane, on_chunk=on_chunk, on_percent=on_percent
        )

    async def answer_query(
        self,
        query: CanonicalQuery,
        lane: Lane = Lane.interactive,
        *,
        on_chunk: Callable[[ChunkResult], None] = _ignore,
        on_percent: OnPercent = _no_percent,
        refresh: bool = False,
    ) -> Answer:
        """Answer a query that has begun; as ``answer`` does.

        What is asked of the vendor is always the series that history keeps, so that every other way to look at it is
        answered from there. To ``refresh`` is to ask it refetch for what is provisional, however fresh that is; what is
        final is never asked for refetch.
        """

        def hear(news: ProgressEvent) -> None:
            if isinstance(news, ChunkResult):
                on_chunk(news)
            else:
                on_percent(*news)

        key = query.cache_key(HOT_TTL_TIER)
        if refresh:
            found = self.coalescer.run(f"{key} anew", self._refreshing(query, lane), hear)
        else:
            found = self.coalescer.run(key, self._finding(query, lane), hear)
        # Callers of a crowd are woken one after another, and none should free what the first alone needs.
        del query
        answer = await found
        if answer is None:
            raise RuntimeError(f"{key} was kept, and history does not hold it")
        return answer

    def _refreshing(
        self, query: CanonicalQuery, lane: Lane
    ) -> Callable[[Callable[[ProgressEvent], None]], Coroutine[Any, Any, Answer | None]]:
        """What has the provisional part of an answer asked for refetch, for all who wish that in this process."""

        async def anew(tell: Callable[[ProgressEvent], None]) -> Answer | None:
            asked_at = self.clock()
            # As of then nothing that is held now and can still change is fresh.
            plan = await self._planner.plan(query, asked_at + report_freshness(query.source_series.report))
            await self._fetch_and_keep(plan, lane, tell, refetch=True)
            return await self.cached_answers.from_history(query, asked_at)

        return anew

    def _finding(
        self, query: CanonicalQuery, lane: Lane
    ) -> Callable[[Callable[[ProgressEvent], None]], Coroutine[Any, Any, Answer | None]]:
        """What finds an answer, telling of its progress, for all identical callers of this process."""

        async def found(tell: Callable[[ProgressEvent], None]) -> Answer | None:
            asked_at, held = self.clock(), self.cached_answers
            if (ready := await held.from_hot(query)) is not None:
                return ready
            plan = await self._planner.plan(query, asked_at)
            if not plan.due:
                return await held.render_and_cache(plan)

            async def landed() -> bool:
                nonlocal ready
                ready = await held.from_hot(query)
                return ready is not None

            # Other processes wait for the answer as it goes out, and not for its chunks one by one.
            async with self.single_flight.hold(query.cache_key(HOT_TTL_TIER), landed) as mine:
                if not mine:
                    return ready
                for _ in range(_FETCHES):
                    await self._fetch_and_keep(plan, lane, tell)
                    # As fresh as when it was asked for: a slow vendor's answer may be older than the freshness when it lands.
                    plan = await self._planner.plan(query, asked_at)
                    if not plan.due:
                        return await held.render_and_cache(plan)
                return None

        return found

    async def _fetch_and_keep(
        self, plan: Plan, lane: Lane, tell: Callable[[ProgressEvent], None], *, refetch: bool = False
    ) -> None:
        """Bring what a plan finds missing into history, each chunk as soon as it is proven."""
        report = plan.query.source_series.report
        wanted = {str(chunk): chunk for chunk in plan.chunks}

        async def keep(proven: VerifiedRows, claims: Sequence[LedgerClaim]) -> None:
            await self.store(report, [collect_partitions(proven)], claims)

        fetched = self._session(report).partitions(
            wanted, lane, tell, lambda part, percent: tell((part, percent)), keep=keep, refetch=refetch
        )
        async with aclosing(fetched) as partitions:
            async for partition in partitions:
                if isinstance(partition, FailedPartition):
                    raise partition.error

    async def plan(self, query: CanonicalQuery, room: QuotaHeadroom | None = None) -> Plan:
        """What answering a query now will take, without sending anything.

        Args:
            query: what is asked.
            room: of the quota; without it nothing is said of waiting for it.
        """
        if await self.hot.get(query) is not None:
            return make_hot_plan(query)
        return await self._planner.costed(query, self.clock(), room)

    @property
    def _planner(self) -> Planner:
        return Planner(self.history, self.columns, self.declared, self.tenant, self.reach)

    def reach(self, report: Report) -> datetime | None:
        """The instant before which a report's vendor keeps nothing, or None where that is not declared."""
        kept = self.retention.get(report.platform)
        return self.clock() - kept if kept else None
