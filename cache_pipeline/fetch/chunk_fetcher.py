"""Fetches each missing chunk once over all processes.

Before a chunk is fetched, its process acquires the single flight of the series and the missing interval, reads coverage again, and
fetches only what is still missing. Overlapping requests wait, so no gap is fetched twice; hours of one day that different callers
lack are fetched concurrently. Jobs that the vendor has already (of a process that died, or waiting to be stored) are found in the
ledger and read instead of submitted again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cache_pipeline.aio import gather_or_cancel, run_in_thread
from cache_pipeline.errors import ClientUnknown, SchemaMismatch, UpstreamJobGone
from cache_pipeline.fetch.upstream_jobs import AlreadyStored, UpstreamJobs
from cache_pipeline.fetch.vendor_response import VendorResponse, read_response
from cache_pipeline.fetch.verifier import EarlierRows, IncompleteAnswer, VerifiedRows, Verifier, merge_second_looks
from cache_pipeline.query.calendar import Step, floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.postgres.ledger import LeaseLost, LedgerClaim, OpenJob, QueryInFlight
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline.telemetry.spans import span

StoreRows = Callable[[VerifiedRows, Sequence[LedgerClaim]], Awaitable[None]]
#: Returns the part of an interval that must be fetched from the vendor, given what history holds.
Missing = Callable[[Interval, Coverage], IntervalSet]


async def fetch_response(jobs: UpstreamJobs, interval: Interval, missing: IntervalSet) -> VendorResponse:
    """Fetch an interval; if the vendor has lost the job that was resumed, submit it again once.

    Raises:
        UpstreamError, SchemaMismatch, DiskUnwritable: As in ``read_response``.
    """
    try:
        return await read_response(jobs, interval, missing)
    except (UpstreamJobGone, ClientUnknown):
        return await read_response(jobs, interval, missing)


def plan_queries(
    missing: IntervalSet, open_jobs: Iterable[OpenJob], is_usable: Callable[[OpenJob], bool]
) -> list[Interval]:
    """Return the queries that fetch what is missing of a cell, resuming the vendor's jobs where they can be used.

    Args:
        missing: The missing part of one cell of the grid of declared chunks.
        open_jobs: The jobs within that cell, the longest first.
        is_usable: Whether the answer to a job would still be fresh enough.

    Raises:
        QueryInFlight: Another process is working on one of these jobs.
    """
    queries: list[Interval] = []
    for job in open_jobs:
        if not IntervalSet([job.interval]) & missing:
            continue
        if job.is_alive:
            raise QueryInFlight(f"another process is fetching {job.interval}; wait for its answer")
        if is_usable(job):
            queries.append(job.interval)
            missing = missing - IntervalSet([job.interval])
    return [*queries, *missing]


@dataclass(frozen=True)
class ChunkFetcher:
    """Fetches and verifies the chunks of one fetch session.

    Attributes:
        jobs: Sends the queries.
        verifier: Verifies the answers.
        single_flight: Lets one process at a time fetch a gap.
        coverage: Reads what history holds around an interval.
        stored_rows: Reads history's rows of some intervals.
        missing: Returns the part of an interval that must be fetched.
        store: Writes verified rows to history while the single flight is held; None if the caller stores them later.
    """

    jobs: UpstreamJobs
    verifier: Verifier
    single_flight: SingleFlight
    coverage: Callable[[Interval], Awaitable[Coverage]]
    stored_rows: Callable[[IntervalSet], Awaitable[Rows]]
    missing: Missing
    store: StoreRows | None

    async def verify(self, chunk: Interval) -> VerifiedRows:
        """Return the verified rows of a chunk within one cell, from the vendor, or from history if others were faster.

        Raises:
            IncompleteAnswer: The answer lacks rows and cannot be split further.
            UpstreamError: The vendor refused or failed the query, or cannot be reached.
            SchemaMismatch: The rows are not what the report declares.
        """
        with span("chunk", report=self.jobs.report.name, interval=str(chunk)):
            return await self._verify(chunk)

    async def _verify(self, chunk: Interval) -> VerifiedRows:
        name, within = self.jobs.series.id, chunk

        async def is_stored() -> bool:
            return not self.missing(chunk, await self.coverage(chunk))

        while True:
            async with self.single_flight.acquire(name, is_stored, within) as is_holder:
                outcome = await self._try_fetch(chunk, within, may_fetch=is_holder)
                while outcome is None:
                    # Wait while holding the flight, so that only one of the processes that lack this keeps looking.
                    await self.single_flight.wait_for_release(name, within)
                    outcome = await self._try_fetch(chunk, within, may_fetch=is_holder)
            if isinstance(outcome, VerifiedRows):
                return outcome
            within = outcome

    async def _try_fetch(self, chunk: Interval, within: Interval, *, may_fetch: bool) -> VerifiedRows | Interval | None:
        """Return the rows, or the wider interval whose flight is needed, or None if another process is fetching them.

        The ledger knows of a fetch even if its flight was lost with Redis, or if the news of its holder was slow to arrive.
        """
        coverage = await self.coverage(chunk)
        missing = self.missing(chunk, coverage)
        if missing and not may_fetch:
            return within
        try:
            queries = await self._plan_queries(chunk, missing) if missing else []
            # A resumed job may be longer than the chunk. Processes that lack another part of it must wait for it too.
            needed = Interval(
                min(each.start for each in [within, *queries]), max(each.end for each in [within, *queries])
            )
            if needed != within:
                return needed
            answers = await gather_or_cancel(self._fetch(each, missing, coverage) for each in queries)
        except (QueryInFlight, LeaseLost):
            return None
        return await self._merge(chunk, missing, coverage, answers)

    async def _plan_queries(self, chunk: Interval, missing: IntervalSet) -> list[Interval]:
        cell = self._cell(chunk)
        ledger = self.jobs.ledger
        open_jobs = await run_in_thread(lambda: ledger.open_jobs(self.jobs.series, cell), ledger.threads)
        within = [job for job in open_jobs if cell.contains(job.interval)]

        def is_usable(job: OpenJob) -> bool:
            # A job whose answer would be truncated is not read: all its parts would be fetched, even stored ones.
            is_fresh = job.requested_at >= self.jobs.not_before(job.interval)
            return is_fresh and not self.verifier.knowledge.is_too_large(job.interval)

        return plan_queries(missing, within, is_usable)

    def _cell(self, chunk: Interval) -> Interval:
        """Return the cell of the grid of declared chunks: a job within it may have been submitted for the same fetch."""
        report = self.jobs.report
        step = Step.parse(report.fetch.max_query_interval)
        start = floor_to_step(chunk.start, step, report.zone)
        return Interval(start, next_boundary(start, step, report.zone))

    async def _fetch(self, interval: Interval, missing: IntervalSet, coverage: Coverage) -> VerifiedRows:
        async def ask(part: Interval) -> VendorResponse:
            return await fetch_response(self.jobs, part, missing)

        earlier = await self._read_earlier_rows(interval, coverage)
        async with self._record_outcome(interval):
            verified = await self.verifier.verify(interval, ask, earlier)
            if self.store is not None:
                await self.store(verified, self.jobs.claims(interval))
                self.jobs.mark_stored(interval)
        if self.store is None:
            await self.jobs.mark_verified(interval)
        return verified

    async def _read_earlier_rows(self, interval: Interval, coverage: Coverage) -> EarlierRows:
        due = coverage.second_look_due(self.jobs.clock()) & IntervalSet([interval])
        return EarlierRows(due, (await self.stored_rows(due)).tallies) if due else EarlierRows()

    @asynccontextmanager
    async def _record_outcome(self, interval: Interval) -> AsyncGenerator[None]:
        try:
            yield
        except (IncompleteAnswer, SchemaMismatch, AlreadyStored) as error:
            # If others stored a part, the whole query is not needed any more. Left open, its job would be resumed.
            await self.jobs.mark_unusable(interval, error)
            raise
        except BaseException:
            await self.jobs.release(interval)
            raise

    async def _merge(
        self, chunk: Interval, missing: IntervalSet, coverage: Coverage, answers: Sequence[VerifiedRows]
    ) -> VerifiedRows:
        from_history = IntervalSet([chunk]) - missing
        rows = [await self.stored_rows(from_history)]
        remaining = missing
        for each in answers:
            # Resumed jobs may overlap each other, and may be longer than the chunk.
            rows.extend(each.rows.within(part) for part in remaining & IntervalSet([each.interval]))
            remaining -= IntervalSet([each.interval])
        watermarks = [each.watermark for each in answers]
        fetched = [each.fetched_at for each in answers]
        if from_history:
            watermarks.append(coverage.watermark or chunk.start)
            fetched.extend(each.at for each in coverage.fetch_times if each.intervals & from_history)
        return VerifiedRows(
            chunk,
            Rows.concat(rows[0].schema, rows),
            min(watermarks),
            min(fetched, default=chunk.end),
            tuple(verdict for each in answers for verdict in each.chunks),
            from_history,
            from_history & coverage.provisional,
            merge_second_looks(answers, missing),
            tuple(
                FetchTime(part, each.at)
                for answer in answers
                for each in answer.fetch_times
                if (part := each.intervals & missing)
            ),
        )
