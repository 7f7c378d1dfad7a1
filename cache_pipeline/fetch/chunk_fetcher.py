"""Each chunk asked by one caller over all processes: the flight is taken, history looked at again, and only the rest asked.

A flight is of the series and of the gap that is asked for: what overlaps it waits and looks again, so that no gap is asked
for twice, and hours of one day that different callers lack are asked for side by side. What the vendor holds already, left by a
process that died or waiting to be kept, is found in the ledger and read, not asked for again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cache_pipeline.aio import gather_or_cancel, run_in_thread
from cache_pipeline.errors import ClientUnknown, SchemaMismatch, UpstreamJobGone
from cache_pipeline.fetch.completeness_checker import CompletenessChecker, IncompleteAnswer, VerifiedRows
from cache_pipeline.fetch.upstream_jobs import AlreadyStored, UpstreamJobs
from cache_pipeline.fetch.vendor_response import VendorResponse, read_response
from cache_pipeline.query.calendar import Step, floor_to_step, next_boundary
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.ledger import LeaseLost, LedgerClaim, OpenJob, QueryInFlight
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline.telemetry.spans import span

#: What history lacked when it was looked at last, for the queries that follow from that look.
MISSED: ContextVar[IntervalSet | None] = ContextVar("missed", default=None)
StoreRows = Callable[[VerifiedRows, Sequence[LedgerClaim]], Awaitable[None]]
#: The part of an interval that must be asked of the vendor, by what history holds.
Missing = Callable[[Interval, Coverage], IntervalSet]


async def fetch_response(jobs: UpstreamJobs, interval: Interval) -> VendorResponse:
    """Ask; where the vendor no longer has the job, ask anew, once.

    Raises:
        As ``read_response`` does.
    """
    try:
        return await read_response(jobs, interval)
    except (UpstreamJobGone, ClientUnknown):
        return await read_response(jobs, interval)


def queries_for(missing: IntervalSet, open_jobs: Iterable[OpenJob], good: Callable[[OpenJob], bool]) -> list[Interval]:
    """What to ask for so as to have what is missing of a cell, taking up the vendor's jobs where they serve.

    Args:
        missing: part of one cell of the grid of declared chunks.
        open_jobs: those within that cell, the longest first.
        good: whether the answer to a job would still do.

    Raises:
        QueryInFlight: somebody works on one of those jobs just now.
    """
    found: list[Interval] = []
    for job in open_jobs:
        if not IntervalSet([job.interval]) & missing:
            continue
        if job.is_alive:
            raise QueryInFlight(f"{job.interval} is being asked by another process")
        if good(job):
            found.append(job.interval)
            missing = missing - IntervalSet([job.interval])
    return [*found, *missing]


@dataclass(frozen=True)
class ChunkFetcher:
    """Proves the chunks of one fetch.

    Attributes:
        jobs: sends the queries.
        judge: proves the answers.
        single_flight: one for each gap over all processes.
        coverage: what history holds around an interval.
        held: history's rows of some intervals.
        missing: the part of an interval that must be asked.
        store: writes proven rows to history within the flight; None where they are kept later by somebody else.
    """

    jobs: UpstreamJobs
    judge: CompletenessChecker
    single_flight: SingleFlight
    coverage: Callable[[Interval], Awaitable[Coverage]]
    held: Callable[[IntervalSet], Awaitable[Rows]]
    missing: Missing
    store: StoreRows | None

    async def prove(self, chunk: Interval) -> VerifiedRows:
        """The rows of a chunk that lies within one cell, from the vendor or, where others were faster, from history.

        Raises:
            IncompleteAnswer, UpstreamError, SchemaMismatch: as proving and asking do.
        """
        with span("chunk", report=self.jobs.report.name, interval=str(chunk)):
            return await self._prove(chunk)

    async def _prove(self, chunk: Interval) -> VerifiedRows:
        name, within = self.jobs.series.id, chunk

        async def landed() -> bool:
            return not self.missing(chunk, await self.coverage(chunk))

        while True:
            async with self.single_flight.acquire(name, landed, within) as mine:
                found = await self._found(chunk, within, may_ask=mine)
                while found is None:
                    # Waiting with the flight in hand, so that of all who lack this only one goes on looking.
                    await self.single_flight.wait_for_release(name, within)
                    found = await self._found(chunk, within, may_ask=mine)
            if isinstance(found, VerifiedRows):
                return found
            within = found

    async def _found(self, chunk: Interval, within: Interval, *, may_ask: bool) -> VerifiedRows | Interval | None:
        """The rows; or what else a flight is needed of; or None where they are on their way all the same.

        A flight that was lost with Redis, or whose holder was slow to be heard of, is known to the ledger.
        """
        coverage = await self.coverage(chunk)
        missing = self.missing(chunk, coverage)
        if missing and not may_ask:
            return within
        try:
            queries = await self._queries(chunk, missing) if missing else []
            # Whoever lacks another part of a job that somebody left waits for it too.
            needed = Interval(
                min(each.start for each in [within, *queries]), max(each.end for each in [within, *queries])
            )
            if needed != within:
                return needed
            answers = await gather_or_cancel(self._asked(each, missing) for each in queries)
        except (QueryInFlight, LeaseLost):
            return None
        return await self._merged(chunk, missing, coverage, answers)

    async def _queries(self, chunk: Interval, missing: IntervalSet) -> list[Interval]:
        cell = self._cell(chunk)
        ledger = self.jobs.ledger
        found = await run_in_thread(lambda: ledger.open_jobs(self.jobs.series, cell), ledger.threads)
        within = [job for job in found if cell.contains(job.interval)]

        def good(job: OpenJob) -> bool:
            # One that would be cut is not read: its parts would be asked for, whatever history holds of them.
            return job.requested_at >= self.jobs.not_before(job.interval) and not self.judge.would_be_cut(job.interval)

        return queries_for(missing, within, good)

    def _cell(self, chunk: Interval) -> Interval:
        """What the declared chunks are the grid of: a job within it is one that might have been asked for by itself."""
        report = self.jobs.report
        step = Step.parse(report.fetch.max_query_interval)
        start = floor_to_step(chunk.start, step, report.zone)
        return Interval(start, next_boundary(start, step, report.zone))

    async def _asked(self, interval: Interval, missing: IntervalSet) -> VerifiedRows:
        # Each query is a task of its own, and so are its parts, which take this over.
        MISSED.set(missing)
        async with self._accounted(interval):
            proven = await self.judge.prove(interval)
            if self.store is not None:
                await self.store(proven, self.jobs.claims(interval))
                self.jobs.kept(interval)
        if self.store is None:
            await self.jobs.proven(interval)
        return proven

    @asynccontextmanager
    async def _accounted(self, interval: Interval) -> AsyncGenerator[None]:
        try:
            yield
        except (IncompleteAnswer, SchemaMismatch, AlreadyStored) as error:
            # Of a part that others kept: the whole is not needed any more, and left open it would be taken up again.
            await self.jobs.unusable(interval, error)
            raise
        except BaseException:
            await self.jobs.unfinished(interval)
            raise

    async def _merged(
        self, chunk: Interval, missing: IntervalSet, coverage: Coverage, answers: Sequence[VerifiedRows]
    ) -> VerifiedRows:
        from_history = IntervalSet([chunk]) - missing
        rows = [await self.held(from_history)]
        left = missing
        for each in answers:
            # Jobs of before may overlap each other, and go beyond the chunk.
            rows.extend(each.rows.within(part) for part in left & IntervalSet([each.interval]))
            left -= IntervalSet([each.interval])
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
        )
