"""Runs upstream queries: claims each one in the ledger, submits it, and polls its job until the rows can be read.

Every step is recorded in the ledger before the next one, so that after a crash another process resumes the vendor's job.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from cache_pipeline.aio import cancel_and_wait, finish, run_in_thread
from cache_pipeline.errors import (
    AmbiguousSubmit,
    ClientUnknown,
    HistoryUnavailable,
    LoginRefused,
    UpstreamError,
    UpstreamJobFailed,
    UpstreamJobGone,
    UpstreamJobOverdue,
    UpstreamJobUnreadable,
    UpstreamRefused,
)
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.request_lane import RaisableLane, RequestLane
from cache_pipeline.storage.ports.ledger import (
    JobHandle,
    LeaseLost,
    Ledger,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    OpenJob,
    QueryInFlight,
)
from cache_pipeline.telemetry.spans import span
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter, VendorJob, VendorJobStatus

#: How long a cancelled caller waits for the response to a submit that has been sent.
_SUBMIT_TIMEOUT_SECONDS = 15.0
#: A vendor that is slow to accept a cancel must not delay the caller.
_CANCEL_TIMEOUT_SECONDS = 10.0
_TOO_MANY_REQUESTS = 429
#: How often a submit that waits for the quota checks whether a more urgent caller waits for it.
_LANE_CHECK_SECONDS = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedJob:
    """A job whose pages can be read.

    Attributes:
        job: The vendor's job.
        fetched_at: When the query was sent, which is the time its figures are from.
        calls: The number of requests it took so far.
        started: When this process began with it, on the monotonic clock.
    """

    job: VendorJob
    fetched_at: datetime
    calls: int
    started: float


@dataclass(frozen=True)
class QueryProgress:
    """The vendor's progress on one query.

    Attributes:
        interval: The interval of the query.
        percent: From 0 to 100, or None if the vendor does not report it.
    """

    interval: Interval
    percent: float | None


#: Returns the priority of the next request; a caller that waits for its result may have raised it.
CurrentPriority = Callable[[], Awaitable[Priority]]

#: Returns whether a cancelled fetch is still wanted by another process.
HasOtherRequesters = Callable[[], bool]


def no_other_requesters() -> bool:
    """Return False: what is cancelled is not wanted any more."""
    return False


def ignore_progress(_progress: QueryProgress) -> None:
    """Drop the vendor's progress."""


@contextmanager
def readable_job(job: VendorJob) -> Generator[None]:
    """Raise `UpstreamJobUnreadable` if the client of a job is refused in the block, for its login or for the job itself.

    Otherwise every process would resume the job for that client, and its interval would fail for good.
    """
    try:
        yield
    except (LoginRefused, UpstreamRefused) as error:
        is_throttled = isinstance(error, UpstreamRefused) and error.status == _TOO_MANY_REQUESTS
        if is_throttled or job.answer is not None:
            raise
        raise UpstreamJobUnreadable(job.id, error) from error


@asynccontextmanager
async def _following(lane: RaisableLane, current_priority: CurrentPriority) -> AsyncGenerator[None]:
    """Raise a request's priority while the block waits for it, as soon as another caller waits for its result."""

    async def follow() -> None:
        while True:
            await asyncio.sleep(_LANE_CHECK_SECONDS)
            lane.raise_to(await current_priority())

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        await cancel_and_wait([following])


class AlreadyStored(QueryInFlight):
    """Raised if another process has stored all of a query's rows since they were found missing."""


def _duration_kind(report: Report, interval: Interval) -> str:
    """Return a key for queries that take about equally long: one series, with interval lengths within a fifth of each other."""
    return f"{Series(report).id}:{round(4 * math.log2((interval.end - interval.start).total_seconds()))}"


@dataclass
class UpstreamJobs:
    """The upstream queries of one fetch session; an async context manager, because it holds leases.

    Attributes:
        adapter: The vendor's adapter.
        series: The series of the rows.
        clock: The current time, in UTC.
        ledger: The record of every query.
        poller: Decides when to poll a job.
        on_progress: Called at every poll.
        has_other_requesters: Whether a cancelled query's job is left for another process to resume; otherwise it is cancelled.
    """

    adapter: VendorAdapter
    series: Series
    clock: Callable[[], datetime]
    ledger: Ledger
    poller: JobPoller = field(default_factory=JobPoller)
    on_progress: Callable[[QueryProgress], None] = ignore_progress
    has_other_requesters: HasOtherRequesters = no_other_requesters
    _held_claims: dict[int, LedgerClaim] = field(default_factory=dict[int, LedgerClaim])
    _lease_task: asyncio.Task[None] | None = None

    @property
    def report(self) -> Report:
        """The report's declaration."""
        return self.series.report

    async def __aenter__(self) -> Self:
        self._lease_task = asyncio.create_task(self._renew_leases())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lease_task is not None:
            await cancel_and_wait([self._lease_task])
        await self._release(list(self._held_claims.values()))

    async def open_jobs(self, interval: Interval) -> list[OpenJob]:
        """Return the jobs within an interval that the vendor has, or that are being submitted now, longest first."""
        found = await run_in_thread(lambda: self.ledger.open_jobs(self.series, interval), self.ledger.threads)
        return [job for job in found if interval.contains(job.interval)]

    @asynccontextmanager
    async def claim(self, interval: Interval, min_requested_at: datetime, lane: Lane) -> AsyncGenerator[LedgerClaim]:
        """Claim a query in the ledger, new or left by a dead process; an exception in the block ends or releases it.

        After the block the query stays claimed until ``mark_stored``, ``mark_verified``, ``mark_unusable`` or ``release`` is
        called.

        Args:
            interval: The interval of the query.
            min_requested_at: The earliest time at which it may have been sent for its answer to be fresh enough.
            lane: The lane to record.

        Raises:
            QueryInFlight: Another process is working on the same query.
        """
        request = LedgerRequest(self.series, interval, lane, self.clock(), min_requested_at)

        def claim() -> LedgerClaim:
            claimed = self.ledger.claim(request)
            # Set in the thread, because a caller that is cancelled meanwhile would never release the claim.
            self._held_claims[claimed.id] = claimed
            return claimed

        claimed = await run_in_thread(claim, self.ledger.threads)
        try:
            if claimed.superseded_job is not None:
                await self._cancel(claimed.superseded_job)
            yield claimed
        except BaseException as error:
            await finish(self._record_failure(claimed.id, error))
            raise

    async def finish(self, claim: LedgerClaim, current_priority: CurrentPriority) -> FinishedJob:
        """Submit a claimed query, or resume the job it already has, and poll it until it is done (G1 to G3).

        Raises:
            LeaseLost: Another process has taken over this query.
            UpstreamJobGone, ClientUnknown: The vendor no longer has the resumed job; it must be claimed again.
            UpstreamError: The vendor refused or failed the job, or cannot be reached.
        """
        started = time.monotonic()
        if claim.handle is not None:
            job, calls = self._job(claim.handle, await current_priority()), 0
            logger.info("%s %s: resuming job %s", self.report.name, claim.interval, job.id)
        else:
            job, calls = await self._submit(claim, current_priority), 1
        if job.answer is None:
            with readable_job(job):
                calls += await self._poll(job, claim, current_priority)
        return FinishedJob(replace(job, lane=await current_priority()), claim.requested_at, calls, started)

    def claims(self, interval: Interval) -> tuple[LedgerClaim, ...]:
        """Return the claims on an interval and its parts, under which its rows are stored."""
        # A copy, because threads add claims meanwhile.
        return tuple(claim for claim in list(self._held_claims.values()) if interval.contains(claim.interval))

    def mark_stored(self, interval: Interval) -> None:
        """Forget the claims of rows that are in history; the same transaction closed their ledger entries."""
        for claim in self.claims(interval):
            del self._held_claims[claim.id]

    async def mark_verified(self, interval: Interval) -> None:
        """Record that the rows are verified and stored later; until then any process may read the vendor's answer again."""
        for claim in self._pop_claims(interval):
            await self._update_ledger(lambda claim=claim: self.ledger.mark_ready(claim))

    async def mark_unusable(self, interval: Interval, reason: Exception) -> None:
        """Record that the rows cannot be used, so that the next request submits the query again."""
        for claim in self._pop_claims(interval):
            await self._update_ledger(lambda claim=claim: self.ledger.end(claim, LedgerState.failed, str(reason)))

    async def release(self, interval: Interval) -> None:
        """Release the claims after another failure, so that the next request resumes the vendor's jobs."""
        await self._release(self._pop_claims(interval))

    def _pop_claims(self, interval: Interval) -> Iterator[LedgerClaim]:
        return iter([self._held_claims.pop(claim.id) for claim in self.claims(interval)])

    async def _submit(self, claim: LedgerClaim, current_priority: CurrentPriority) -> VendorJob:
        lane = RaisableLane(await current_priority())
        async with _following(lane, current_priority):
            return await self._submit_in(lane, claim)

    async def _submit_in(self, lane: RaisableLane, claim: LedgerClaim) -> VendorJob:
        with span("submit", platform=self.adapter.name, interval=str(claim.interval)):
            submitting = asyncio.create_task(self.adapter.submit(self.report, claim.interval, lane))
            try:
                job = await asyncio.shield(submitting)
            except asyncio.CancelledError:
                await finish(self._finish_cancelled_submit(claim, submitting))
                raise
        await self._record_submit(claim, job)
        return replace(job, lane=lane.current)

    async def _finish_cancelled_submit(self, claim: LedgerClaim, submitting: asyncio.Task[VendorJob]) -> None:
        """Stop a submit whose caller is cancelled, and record it if the vendor may have accepted it."""
        submitting.cancel()
        # The transport completes a request that has been sent.
        await asyncio.wait({submitting}, timeout=_SUBMIT_TIMEOUT_SECONDS)
        if not submitting.done():
            await cancel_and_wait([submitting])
            await self._record_failure(
                claim.id,
                AmbiguousSubmit(
                    method="submit of",
                    path=str(claim.interval),
                    reason=f"no answer within {_SUBMIT_TIMEOUT_SECONDS:g} s",
                ),
            )
        elif not submitting.cancelled():
            try:
                await self._record_submit(claim, submitting.result())
            except Exception as error:  # noqa: BLE001 - recorded in the ledger; the caller is cancelled in any case
                await self._record_failure(claim.id, error)

    async def _record_submit(self, claim: LedgerClaim, job: VendorJob) -> None:
        """Record the vendor's job id in the ledger."""
        if job.answer is not None:
            return
        handle = JobHandle(job.id, job.oauth_client)
        self._held_claims[claim.id] = replace(claim, handle=handle)
        try:
            await run_in_thread(lambda: self.ledger.mark_submitted(claim, handle), self.ledger.threads)
        except (LeaseLost, HistoryUnavailable):
            # The process that takes over submits its own job and does not know of this one.
            await self._cancel(handle)
            raise

    def _job(self, handle: JobHandle, lane: RequestLane) -> VendorJob:
        return VendorJob(handle.id, handle.oauth_client, lane)

    async def _poll(self, job: VendorJob, claim: LedgerClaim, current_priority: CurrentPriority) -> int:
        polls = 0

        async def check() -> VendorJobStatus:
            nonlocal polls
            polls += 1
            return await self.adapter.status(replace(job, lane=await current_priority()))

        resumed = claim.handle is not None
        age = max(0.0, (self.clock() - claim.requested_at).total_seconds()) if resumed else 0.0
        with span("poll", platform=self.adapter.name, resumed=resumed):
            await self.poller.wait_until_done(
                _duration_kind(self.report, claim.interval),
                check,
                # Counted from the submit. Otherwise every process that resumes a hanging job would wait the full time again.
                deadline_seconds=max(0.0, self.poller.deadline_seconds - age),
                age_seconds=age,
                on_progress=lambda percent: self.on_progress(QueryProgress(claim.interval, percent)),
            )
        return polls

    async def _record_failure(self, claim_id: int, error: BaseException) -> None:
        """Record once in the ledger how a failed query ended."""
        claim = self._held_claims.pop(claim_id, None)
        if claim is None:
            return
        if isinstance(error, AmbiguousSubmit):
            await self._update_ledger(lambda: self.ledger.mark_ambiguous(claim, str(error)))
        elif isinstance(error, UpstreamJobGone | ClientUnknown):
            await self._update_ledger(lambda: self.ledger.end(claim, LedgerState.expired, str(error)))
        elif isinstance(error, asyncio.CancelledError):
            await self._abandon(claim)
        elif isinstance(error, LeaseLost):
            return
        elif isinstance(error, AlreadyStored):
            await self._update_ledger(lambda: self.ledger.end(claim, LedgerState.abandoned, str(error)))
        elif isinstance(error, UpstreamJobOverdue):
            # Left open, a hanging job would be resumed again and again, and block its interval.
            await self._update_ledger(lambda: self.ledger.end(claim, LedgerState.failed, str(error)))
            if claim.handle is not None:
                await self._cancel(claim.handle)
        elif claim.handle is not None and isinstance(error, UpstreamError) and not isinstance(error, UpstreamJobFailed):
            # The vendor cannot be reached, but the job may still finish.
            await self._release([claim])
        else:
            await self._update_ledger(lambda: self.ledger.end(claim, LedgerState.failed, str(error)))

    async def _abandon(self, claim: LedgerClaim) -> None:
        if claim.handle is not None and (self.has_other_requesters() or not self.adapter.capabilities.has_cancel):
            # A job that cannot be cancelled keeps running. It is released, so that a later request can use it.
            await self._release([claim])
            return
        await self._update_ledger(lambda: self.ledger.end(claim, LedgerState.abandoned))
        if claim.handle is not None:
            await self._cancel(claim.handle)

    async def _cancel(self, handle: JobHandle) -> None:
        """Cancel the vendor's job; ignore a failing cancel, because the error before it matters more."""
        if self.adapter.capabilities.has_cancel:
            with suppress(UpstreamError, TimeoutError):
                async with asyncio.timeout(_CANCEL_TIMEOUT_SECONDS):
                    await self.adapter.cancel(self._job(handle, Lane.scheduled))

    async def _release(self, claims: Iterable[LedgerClaim]) -> None:
        claims = list(claims)
        await self._update_ledger(lambda: self.ledger.release(claim for claim in claims if claim.handle is not None))
        for claim in claims:
            if claim.handle is None:
                await self._update_ledger(lambda claim=claim: self.ledger.end(claim, LedgerState.abandoned))

    async def _update_ledger(self, update: Callable[[], None]) -> None:
        try:
            await run_in_thread(update, self.ledger.threads)
        except HistoryUnavailable as error:
            # The entry's lease expires, and the next process finds it open.
            logger.warning("%s: the job ledger could not be updated: %s", self.report.name, error)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self.ledger.lease.total_seconds() / 3)
            held = list(self._held_claims.values())
            if held:
                await self._update_ledger(lambda held=held: self.ledger.renew(held))
