"""Answers queries for the HTTP API, Dagster and the command line alike: stored rows first, the vendor only for the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from cache_pipeline.errors import PlatformNotConfigured, SeriesMismatch
from cache_pipeline.fetch.fetch_session import FetchEvent, FetchSession
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.fetch.persist import store_verified
from cache_pipeline.fetch.upstream_jobs import CurrentPriority, HasOtherRequesters, no_other_requesters
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.query.query_request import NO_OVERRIDES, QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import RetentionLimit, retention_limit
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.service.cached_answers import AnswerLimits, CachedAnswers, Hit, Miss, ProgressEvent
from cache_pipeline.service.clipping import clip_request
from cache_pipeline.service.listed_names import ListedNames
from cache_pipeline.service.live_answers import LiveAnswers
from cache_pipeline.service.past_answers import PastAnswers
from cache_pipeline.service.plan import Plan, QuotaHeadroom, make_hot_plan
from cache_pipeline.service.planner import Planner
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.ports.hot import HotTier
from cache_pipeline.storage.ports.ledger import Ledger, LedgerClaim
from cache_pipeline.storage.ports.names import NameStore
from cache_pipeline.storage.ports.single_flight import SingleFlight
from cache_pipeline.storage.ttl import HOT_TTL_TIER
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter

#: How often one answer is fetched. A job that another process left and that is taken up again may return figures that are
#: provisional and too old by now; these are fetched once more for each such job.
_MAX_FETCHES = 3

_Notify = Callable[[ProgressEvent], None]
#: Finds an answer, and reports its progress on the way.
_FindAnswer = Callable[[_Notify], Coroutine[Any, Any, Hit | Miss]]


def _ignore_progress(_event: ProgressEvent) -> None:
    return


@dataclass(frozen=True)
class ReportService:
    """Answers queries from stored rows, and fetches from the vendor only what is missing.

    Attributes:
        accounts: The adapter of each vendor account, by ``Report.account_id``.
        history: The tier that holds rows and coverage.
        hot: The tier that holds rendered answers.
        ledger: The record of every upstream query.
        single_flight: Lets one process at a time work on an answer or a chunk.
        coalescer: Shares one task between all identical callers of this process.
        names: The names of ids.
        clock: The current time, in UTC.
        tenant: The tenant whose data it reads and writes.
        on_stored: Called with what was written to history.
        job_pollers: Decide when to poll an account's jobs, by account.
        declared: Reports whose rows may be rolled up to answer what another report lacks.
        retention: How long the vendor keeps an account's figures, by account, if that is declared.
        has_other_requesters: Whether a cancelled fetch is still wanted by another process, which then takes over the vendor's jobs.
        limits: How large an answer may be; None for any size.
        live: The answers of live reports; None for a service without them.
        listings: The vendors' listings of names; None for a service without them.
    """

    accounts: Mapping[str, VendorAdapter]
    history: History
    hot: HotTier
    ledger: Ledger
    single_flight: SingleFlight
    coalescer: Coalescer[Hit | Miss, ProgressEvent]
    names: NameStore
    clock: Callable[[], datetime]
    tenant: str
    on_stored: OnStored = ignore_stored
    job_pollers: Mapping[str, JobPoller] = field(default_factory=dict[str, JobPoller])
    declared: Sequence[Report] = ()
    retention: Mapping[str, timedelta] = field(default_factory=dict[str, timedelta])
    has_other_requesters: HasOtherRequesters = no_other_requesters
    limits: AnswerLimits | None = None
    live: LiveAnswers | None = None
    listings: ListedNames | None = None

    @property
    def live_answers(self) -> LiveAnswers:
        """The answers of live reports, of a service that was opened with them."""
        if self.live is None:
            raise RuntimeError("the service was opened without live reports")
        return self.live

    # --- Reports and their vendors -----------------------------------------------------------------------------------------

    def series(self, report: Report) -> Series:
        """Return the report as this tenant's series."""
        return Series(report, self.tenant)

    def adapter(self, report: Report) -> VendorAdapter:
        """Return the adapter of a report's account.

        Raises:
            PlatformNotConfigured: The vendor has no account; the message names the missing settings.
        """
        if report.account_id not in self.accounts:
            raise PlatformNotConfigured(
                f"{report.name} needs {report.account_id}, which has no account: set {report.account_setting()}"
            )
        return self.accounts[report.account_id]

    def columns(self, report: Report) -> tuple[Column, ...]:
        """Return the columns of a report's answers.

        Raises:
            PlatformNotConfigured: The report's vendor has no account.
        """
        return self.adapter(report).columns(report)

    def retention_limit(self, report: Report) -> RetentionLimit | None:
        """Return the instant before which a report or its vendor keeps nothing, or None if neither is declared."""
        return retention_limit(report, self.retention.get(report.account_id), self.clock())

    # --- Queries -----------------------------------------------------------------------------------------------------------

    def query(
        self, report: Report, interval: str | Interval, overrides: QueryOverrides = NO_OVERRIDES
    ) -> CanonicalQuery:
        """Return the query for the part of an interval whose buckets have begun.

        Raises:
            InvalidInterval: The interval cuts a bucket, or lies in the future.
            InvalidQuery: The report's rows do not hold what the query needs.
            PlatformNotConfigured: There are overrides, and the report's vendor has no account.
        """
        columns = () if overrides == NO_OVERRIDES else self.columns(report)
        return self.clip_to_now(resolve_request(report, interval, overrides, columns))

    def clip_to_now(self, request: QueryRequest) -> CanonicalQuery:
        """Return the query for the part of a request whose buckets have begun.

        Raises:
            InvalidInterval: No bucket has begun.
        """
        return clip_request(request, self.clock(), self.tenant)

    @cached_property
    def cached_answers(self) -> CachedAnswers:
        """The answers that need no request to the vendor."""
        return CachedAnswers(self.history, self.hot, self._planner, self.coalescer, self.clock, self.limits)

    @cached_property
    def past_answers(self) -> PastAnswers:
        """The answers as they were known at earlier instants."""
        return PastAnswers(self.history, self.columns, self.limits)

    @cached_property
    def _planner(self) -> Planner:
        return Planner(self.history, self.columns, self.declared, self.tenant, self.retention_limit)

    async def lookup(self, query: CanonicalQuery) -> Hit | Miss:
        """Return the answer if the stores hold it; otherwise the plan to fetch what is missing. Nothing is sent.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        return await self.cached_answers.lookup(query)

    async def plan(self, query: CanonicalQuery, headroom: QuotaHeadroom | None = None) -> Plan:
        """Return what answering a query now would take, without sending or rendering anything.

        Args:
            query: The query.
            headroom: What the quota has left; without it the plan has no waiting time.

        Raises:
            InvalidInterval: Something must be fetched that the vendor no longer keeps.
        """
        if await self.hot.get_entry(query.cache_key(HOT_TTL_TIER)) is not None:
            return make_hot_plan(query)
        return (await self._planner.plan(query, self.clock())).with_headroom(headroom)

    async def answer(
        self,
        report: Report,
        interval: str | Interval,
        lane: Lane = Lane.interactive,
        *,
        overrides: QueryOverrides = NO_OVERRIDES,
        on_progress: Callable[[ProgressEvent], None] = _ignore_progress,
    ) -> Answer:
        """Answer a query of a report from hot, else from history, else from the vendor.

        Args:
            report: The report.
            interval: The interval of the query.
            lane: The priority of upstream requests.
            overrides: What the query asks for other than the report declares.
            on_progress: Called with the verdict on each of the vendor's answers, and with its progress on queries.

        Raises:
            QueryError: The query is invalid, as in ``query``.
            IncompleteAnswer: The vendor's answer lacks rows and cannot be split further.
            UpstreamError: The vendor refused or failed the query, or cannot be reached.
            SchemaMismatch: The vendor's rows are not what the report declares.
        """
        return await self.answer_query(
            self.query(report, interval, overrides), fixed_priority(lane), on_progress=on_progress
        )

    async def answer_query(
        self,
        query: CanonicalQuery,
        priority: CurrentPriority | None = None,
        *,
        on_progress: Callable[[ProgressEvent], None] = _ignore_progress,
        refresh: bool = False,
    ) -> Answer:
        """Answer a query whose interval has begun.

        Fetches are always of the series that history stores, so that every other query over the same rows is answered from
        there.

        Args:
            query: The query.
            priority: The priority of upstream requests; by default that of the interactive lane.
            on_progress: As in ``answer``.
            refresh: Whether to fetch provisional figures again, however fresh they are. Final figures are never refetched.

        Raises:
            QueryError, IncompleteAnswer, UpstreamError, SchemaMismatch: As in ``answer``.
            RuntimeError: The answer was stored, but history does not hold it.
        """
        priority = priority or fixed_priority(Lane.interactive)
        # Callers with another priority meet at the single flight, where each raises that of the other.
        first = await priority()
        key = f"{query.cache_key(HOT_TTL_TIER)} {first.lane} {sorted(first.callers)}"
        if refresh:
            running = self.coalescer.run(f"{key} refresh", self._refresh_answer(query, priority), on_progress)
        else:
            running = self.coalescer.run(key, self._find_answer(query, priority), on_progress)
        # Release the query before waiting: many callers are woken one after another, and none should spend time on freeing it.
        del query
        found = await running
        if isinstance(found, Miss):
            raise RuntimeError(f"history does not hold {key} after it was stored; check for concurrent deletions")
        return found.answer

    def _refresh_answer(self, query: CanonicalQuery, priority: CurrentPriority) -> _FindAnswer:
        """Return the work that fetches the provisional part of an answer again, for all callers of this process."""

        async def refresh(notify: _Notify) -> Hit | Miss:
            requested_at = self.clock()
            plan = await self._planner.plan(query, requested_at, final_only=True)
            await self._fetch_and_store(plan, priority, notify, refetch=True)
            return await self.cached_answers.from_history(query, requested_at)

        return refresh

    def _find_answer(self, query: CanonicalQuery, priority: CurrentPriority) -> _FindAnswer:
        """Return the work that finds an answer, for all identical callers of this process."""

        async def find(notify: _Notify) -> Hit | Miss:
            requested_at, cached, key = self.clock(), self.cached_answers, query.cache_key(HOT_TTL_TIER)
            found = await cached.from_hot(query, key) or await cached.from_history(query, requested_at)
            if isinstance(found, Hit):
                return found

            async def is_answered() -> bool:
                nonlocal found
                # Large answers are not kept hot, so look in history too.
                found = await cached.from_hot(query, key) or await cached.from_history(query, requested_at)
                return isinstance(found, Hit)

            # Other processes wait for the finished answer, not for its chunks one by one.
            async with self.single_flight.acquire(key, is_answered, priority=await priority()) as flight:
                for _ in range(_MAX_FETCHES):
                    if flight is None or isinstance(found, Hit):
                        break
                    await self._fetch_and_store(found.plan, _joined(priority, flight.priority), notify)
                    # Freshness counts from the request: a slow vendor's answer may be older than that when it arrives.
                    found = await cached.from_history(query, requested_at)
                return found

        return find

    # --- Fetching and storing ----------------------------------------------------------------------------------------------

    async def fetch(
        self, report: Report, partitions: Mapping[str, Interval], lane: Lane, *, refetch: bool = False
    ) -> AsyncGenerator[FetchEvent]:
        """Collect the rows of some partitions, and fetch from the vendor what history lacks.

        Nothing of a finished partition is stored yet: the caller may check the rows first, and then calls ``store``.

        Args:
            report: The report.
            partitions: Interval by partition key; its ends must be boundaries of the granularity.
            lane: The priority of upstream requests.
            refetch: Whether to fetch everything, whatever history holds.

        Yields:
            Every partition once, as soon as it is finished (a partition that has not begun yet counts as failed); before that,
            the verdict on each of the vendor's answers, and its progress on queries.
        """
        session = self._fetch_session(report, fixed_priority(lane), refetch=refetch)
        async with aclosing(session.fetch(partitions)) as events:
            async for event in events:
                yield event

    async def store(
        self, report: Report, partitions: Sequence[FetchedPartition], claims: Sequence[LedgerClaim] = ()
    ) -> None:
        """Write what was fetched from the vendor to history, rows and coverage in one transaction.

        Rows that came from history are not written again, and rows that others have stored since are kept.

        Raises:
            LeaseLost: Another process has taken over one of the claims that the rows come from.
            SeriesMismatch: A partition was fetched for another series; nothing is written.
        """
        series = self.series(report)
        for partition in partitions:
            if partition.query_id not in (None, series.query_id):
                raise SeriesMismatch(report.name, partition.key)
        await store_verified(self.history, series, partitions, claims, self.on_stored)

    def _fetch_session(
        self, report: Report, priority: CurrentPriority, *, refetch: bool, stores_chunks: bool = False
    ) -> FetchSession:
        return FetchSession(
            series=self.series(report),
            adapter=self.adapter(report),
            history=self.history,
            ledger=self.ledger,
            single_flight=self.single_flight,
            clock=self.clock,
            poller=self.job_pollers.get(report.account_id) or JobPoller(),
            priority=priority,
            retention_limit=self.retention_limit(report),
            refetch=refetch,
            stores_chunks=stores_chunks,
            on_stored=self.on_stored,
            has_other_requesters=self.has_other_requesters,
        )

    async def _fetch_and_store(
        self, plan: Plan, priority: CurrentPriority, notify: _Notify, *, refetch: bool = False
    ) -> None:
        """Fetch what a plan lacks, and store each chunk in history as soon as it is verified."""
        session = self._fetch_session(plan.query.source_series.report, priority, refetch=refetch, stores_chunks=True)
        async with aclosing(session.fetch({str(chunk): chunk for chunk in plan.chunks})) as events:
            async for event in events:
                if isinstance(event, FailedPartition):
                    raise event.error
                if not isinstance(event, FetchedPartition):
                    notify(event)


def fixed_priority(lane: Lane) -> CurrentPriority:
    """Return the priority of the deployment's own work in a lane, which does not change."""

    async def current() -> Priority:
        return Priority(lane)

    return current


def _joined(one: CurrentPriority, other: CurrentPriority) -> CurrentPriority:
    async def current() -> Priority:
        return await one() | await other()

    return current
