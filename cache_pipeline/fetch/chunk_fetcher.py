"""Takes one chunk from missing to stored, once over all processes.

`ChunkFetcher.fetch` is the loop; the states and what follows from them are in `chunk_states`. Overlapping requests wait for
each other's lock, so no gap is fetched twice; hours of one day that different callers lack are fetched side by side. Jobs that
the vendor already has (of a process that died, or waiting to be stored) are found in the ledger and read instead of submitted
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.aio import finish, gather_or_cancel
from cache_pipeline.errors import ClientUnknown, SchemaMismatch, UpstreamError, UpstreamJobGone, UpstreamJobUnreadable
from cache_pipeline.fetch.chunk_states import (
    ChunkOutcome,
    ChunkState,
    EarlierRows,
    Failed,
    IncompleteAnswer,
    Locked,
    Missing,
    Received,
    RetryLater,
    Split,
    Stored,
    Submitted,
    Verified,
    refusal_result,
)
from cache_pipeline.fetch.gap_rule import GapRule
from cache_pipeline.fetch.persist import store_verified
from cache_pipeline.fetch.series_knowledge import SeriesKnowledge
from cache_pipeline.fetch.upstream_jobs import AlreadyStored, CurrentPriority, UpstreamJobs, readable_job
from cache_pipeline.fetch.vendor_response import VendorResponse, read_response
from cache_pipeline.fetch.verified_rows import VerifiedRows
from cache_pipeline.fetch.write_events import OnStored
from cache_pipeline.query.calendar import Step, floor_to_step, next_boundary
from cache_pipeline.query.completeness import ChunkResult, Verdict
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Priority
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.ports.ledger import LeaseLost, OpenJob, QueryInFlight
from cache_pipeline.storage.ports.single_flight import Flight, SingleFlight
from cache_pipeline.telemetry.spans import span
from cache_pipeline.vendors.base import VendorAdapter


@dataclass(frozen=True)
class ChunkFetcher:
    """Fetches the chunks of one session.

    Attributes:
        series: The series.
        adapter: The vendor's adapter.
        history: The tier that holds rows and coverage.
        single_flight: Lets one process at a time fetch a gap.
        jobs: Sends the queries.
        knowledge: What the session knows of the series.
        gaps: What must be fetched.
        priority: Returns the priority of the session.
        on_result: Called with every verdict as soon as it is known.
        on_stored: Called with what was written to history; None if the session's caller stores the rows later.
    """

    series: Series
    adapter: VendorAdapter
    history: History
    single_flight: SingleFlight
    jobs: UpstreamJobs
    knowledge: SeriesKnowledge
    gaps: GapRule
    priority: CurrentPriority
    on_result: Callable[[ChunkResult], None]
    on_stored: OnStored | None

    async def fetch(self, missing: Missing) -> ChunkOutcome:
        """Take a chunk to the end of its states. Errors of the vendor and the stores are outcomes too."""
        with span("chunk", report=self.series.report.name, interval=str(missing.chunk)):
            async with AsyncExitStack() as held:
                work = _ChunkWork(self, missing, held)
                try:
                    return await work.run()
                except Exception as error:  # noqa: BLE001 - reported with its partitions; the other chunks continue
                    return Failed(missing.chunk, error)

    async def read_stored(self, interval: Interval, coverage: Coverage) -> VerifiedRows:
        """Read the rows of an interval that others have stored meanwhile."""
        part = IntervalSet([interval])
        fetched = [each.at for each in coverage.fetch_times if each.intervals & part]
        return VerifiedRows(
            interval,
            await self.read_rows(part),
            coverage.watermark or interval.start,
            min(fetched, default=interval.end),
            from_history=part,
            provisional_from_history=part & coverage.provisional,
        )

    async def read_coverage(self, around: Interval) -> Coverage:
        """Read what history holds around an interval."""
        return await asyncio.to_thread(self.history.coverage, self.series, around)

    async def read_rows(self, intervals: IntervalSet) -> Rows:
        """Read history's rows of some intervals."""
        columns = self.adapter.columns(self.series.report)
        return await asyncio.to_thread(self.history.rows, self.series, intervals, columns)


class _ChunkWork:
    """The work on one chunk: what each state needs from the stores and the vendor."""

    def __init__(self, fetcher: ChunkFetcher, missing: Missing, held: AsyncExitStack) -> None:
        self._fetcher, self._first, self._chunk, self._held = fetcher, missing, missing.chunk, held
        self._jobs, self._knowledge, self._gaps = fetcher.jobs, fetcher.knowledge, fetcher.gaps
        self._flight: Flight | None = None
        self._coverage, self._missing = Coverage(), IntervalSet()
        self._reported: set[tuple[Interval, Verdict]] = set()

    async def run(self) -> ChunkOutcome:
        state: ChunkState = self._first
        try:
            while not isinstance(state, Stored | Split | Failed):
                state = await self._advance(state)
        except BaseException as error:
            await finish(self._give_up(error))
            raise
        if isinstance(state, Failed):
            await self._give_up(state.error)
        return state

    async def _advance(self, state: Missing | Locked | RetryLater | Submitted | Received | Verified) -> ChunkState:
        match state:
            case Missing():
                return await self._lock()
            case Locked():
                return state.choose(self._knowledge.current, self._is_fresh)
            case RetryLater():
                # The lock is held meanwhile, so that only one of the processes that lack this keeps looking.
                await self._fetcher.single_flight.wait_for_release(self._fetcher.series.id, self._chunk)
                return await self._look()
            case Submitted():
                return await self._send(state)
            case Received():
                following, results = state.judge(self._knowledge.current)
                self._report(results)
                self._knowledge.learn_failures(state.evidence, is_final=isinstance(following, Failed))
                return following
            case Verified():
                return await self._store(state)

    async def _lock(self) -> ChunkState:
        async def is_stored() -> bool:
            self._coverage = await self._fetcher.read_coverage(self._chunk)
            return not self._gaps.missing(self._chunk, self._coverage)

        acquiring = self._fetcher.single_flight.acquire(
            self._fetcher.series.id, is_stored, self._chunk, priority=await self._fetcher.priority()
        )
        self._flight = await self._held.enter_async_context(acquiring)
        if self._flight is None:
            return Stored(await self._fetcher.read_stored(self._chunk, self._coverage))
        return await self._look()

    async def _look(self) -> Locked | Stored:
        """Read what history and the ledger hold now, under the lock."""
        self._coverage = coverage = await self._fetcher.read_coverage(self._chunk)
        self._missing = self._gaps.missing(self._chunk, coverage)
        if not self._missing:
            return Stored(await self._fetcher.read_stored(self._chunk, coverage))
        due = coverage.second_look_due(self._jobs.clock()) & IntervalSet([self._chunk])
        earlier = EarlierRows(due, (await self._fetcher.read_rows(due)).tallies) if due else EarlierRows()
        jobs = await self._jobs.open_jobs(self._cell())
        return Locked(self._chunk, self._missing, tuple(jobs), earlier, self._first.is_part)

    def _cell(self) -> Interval:
        """Return the cell of the grid of declared chunks: a job within it may have been submitted for the same fetch."""
        report = self._fetcher.series.report
        step = Step.parse(report.fetch.max_query_interval)
        start = floor_to_step(self._chunk.start, step, report.zone)
        return Interval(start, next_boundary(start, step, report.zone))

    def _is_fresh(self, job: OpenJob) -> bool:
        return job.requested_at >= self._min_requested_at(job.interval)

    def _min_requested_at(self, query: Interval) -> datetime:
        return self._gaps.min_requested_at(query, self._missing, self._coverage)

    async def _send(self, state: Submitted) -> Received | RetryLater | Locked | Stored:
        try:
            return state.receive(await gather_or_cancel(self._ask(query) for query in state.queries))
        except AlreadyStored as error:
            # The whole query is not needed any more. Left open, its job would be resumed.
            await self._jobs.mark_unusable(self._chunk, error)
            return await self._look()
        except (QueryInFlight, LeaseLost):
            await self._jobs.release(self._chunk)
            return RetryLater(self._chunk)

    async def _ask(self, query: Interval) -> VendorResponse | UpstreamError:
        """Send one query; a refusal for its size and a failed job are outcomes, any other error is raised."""
        try:
            try:
                return await self._fetch(query)
            except (UpstreamJobGone, ClientUnknown):
                # The vendor has lost the job, or its client may not read it any more.
                return await self._fetch(query)
        except UpstreamJobUnreadable as error:
            raise error.refusal from error
        except UpstreamError as error:
            if not error.may_be_too_large:
                raise
            if error.is_too_large:
                self._report((refusal_result(query),))
            return error

    async def _fetch(self, query: Interval) -> VendorResponse:
        priority = await self._current_priority()
        async with self._jobs.claim(query, self._min_requested_at(query), priority.lane) as claim:
            # Checked only after the claim: rows that others stored before it are seen here, and later they see the claim.
            if claim.handle is None and not await self._is_still_missing(query):
                raise AlreadyStored(
                    f"{self._fetcher.series.report.name} {query} was stored by another process meanwhile; read it from history"
                )
            finished = await self._jobs.finish(claim, self._current_priority)
            with readable_job(finished.job):
                response = await read_response(self._fetcher.adapter, self._fetcher.series.report, query, finished)
        await self._reopen(response)
        return response

    async def _reopen(self, response: VendorResponse) -> None:
        """Fetch the earlier buckets again of which history holds a row without the end that it now has."""
        fetcher = self._fetcher
        end_column = fetcher.adapter.end_column(fetcher.series.report)
        if end_column is None or not response.ended:
            return
        rows = [(row.bucket, row.key) for row in response.ended]
        await asyncio.to_thread(fetcher.history.reopen, fetcher.series, rows, end_column)

    async def _is_still_missing(self, query: Interval) -> bool:
        """Return whether history still lacks what it lacked of an interval when the chunk was locked.

        What was stored before is fetched on purpose, as part of a larger query.
        """
        needed = self._missing & IntervalSet([query])
        # Looked at for the whole chunk: a part that is fresh by itself may be fetched only because of its neighbours.
        missing = self._gaps.missing(self._chunk, await self._fetcher.read_coverage(self._chunk))
        return not needed or bool(missing & needed)

    async def _current_priority(self) -> Priority:
        own = await self._fetcher.priority()
        return own if self._flight is None else own | await self._flight.priority()

    def _report(self, results: tuple[ChunkResult, ...]) -> None:
        """Report the verdicts that are new, and learn from them."""
        fresh = [each for each in results if (each.interval, each.verdict) not in self._reported]
        self._reported.update((each.interval, each.verdict) for each in fresh)
        self._knowledge.learn_results(fresh)
        for each in fresh:
            self._fetcher.on_result(each)

    async def _store(self, state: Verified) -> Stored | RetryLater:
        self._knowledge.learn_rows(state)
        if self._fetcher.on_stored is None:
            await self._jobs.mark_verified(self._chunk)
        else:
            claims = self._jobs.claims(self._chunk)
            try:
                await store_verified(
                    self._fetcher.history, self._fetcher.series, [state.rows], claims, self._fetcher.on_stored
                )
            except LeaseLost:
                await self._jobs.release(self._chunk)
                return RetryLater(self._chunk)
            self._jobs.mark_stored(self._chunk)
        return Stored(state.rows)

    async def _give_up(self, error: BaseException) -> None:
        if isinstance(error, IncompleteAnswer | SchemaMismatch):
            await self._jobs.mark_unusable(self._chunk, error)
        else:
            await self._jobs.release(self._chunk)
