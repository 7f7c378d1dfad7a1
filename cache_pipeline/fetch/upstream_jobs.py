"""One query of the vendor, from intent to a job that is done: its rows are ready to be read.

Every step is in the ledger before the next is taken, so that whoever comes after a crash resumes the vendor's own job.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from cache_pipeline.aio import cancel_and_wait, finish, run_in_thread
from cache_pipeline.errors import (
    AmbiguousSubmit,
    ClientUnknown,
    HistoryUnavailable,
    UpstreamError,
    UpstreamJobFailed,
    UpstreamJobGone,
    UpstreamJobOverdue,
)
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.ledger import (
    JobHandle,
    LeaseLost,
    Ledger,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    QueryInFlight,
)
from cache_pipeline.telemetry.spans import span
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter, VendorJob, VendorJobStatus

#: How long whoever is cancelled waits for the answer to a submit that is on the wire.
_SUBMIT_TIMEOUT_SECONDS = 15.0
#: A vendor that is slow to take a cancel must not hold up who cancels.
_CANCEL_TIMEOUT_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedJob:
    """A job whose pages can be read.

    Attributes:
        job: the vendor's.
        fetched_at: when the query was sent: the figures are of then.
        calls: requests it took so far.
        started: on the monotonic clock, when this process began with it.
    """

    job: VendorJob
    fetched_at: datetime
    calls: int
    started: float


OnPercent = Callable[[Interval, float | None], None]


#: Whether somebody else goes on with what is cancelled now.
HasOtherRequesters = Callable[[], bool]


def no_other_requesters() -> bool:
    """What is cancelled is wanted by nobody any more."""
    return False


def _ignore_percent(_interval: Interval, _percent: float | None) -> None:
    return


async def _always_missing(_interval: Interval) -> bool:
    return True


class AlreadyStored(QueryInFlight):
    """Another process has mark_stored all of it since it was found to be missing."""


def _duration_kind(report: Report, interval: Interval) -> str:
    """What takes a vendor about equally long: one series, and intervals of lengths within a fifth of each other."""
    return f"{Series(report).id}:{round(4 * math.log2((interval.end - interval.start).total_seconds()))}"


@dataclass
class UpstreamJobs:
    """The upstream queries of one fetch. To be opened and closed, for it holds leases.

    Attributes:
        platform: the vendor.
        series: whose rows.
        lane: who asks.
        clock: the time, in UTC.
        ledger: where every query is noted.
        not_before: for an interval, the earliest a query may have been asked whose answer would still do.
        poller: when to ask for a job.
        on_percent: hears, at every poll, how far the query of an interval is; None where the vendor does not say.
        is_missing: whether history still lacks something of an interval.
        has_other_requesters: of what is cancelled, whether the vendor's job is left to be taken up; else it is given up.
    """

    platform: VendorAdapter
    series: Series
    lane: Lane
    clock: Callable[[], datetime]
    ledger: Ledger
    not_before: Callable[[Interval], datetime]
    poller: JobPoller = field(default_factory=JobPoller)
    on_percent: OnPercent = _ignore_percent
    is_missing: Callable[[Interval], Awaitable[bool]] = _always_missing
    has_other_requesters: HasOtherRequesters = no_other_requesters
    _claims: dict[int, LedgerClaim] = field(default_factory=dict[int, LedgerClaim])
    _lease_task: asyncio.Task[None] | None = None

    @property
    def report(self) -> Report:
        """The declaration."""
        return self.series.report

    async def __aenter__(self) -> Self:
        self._lease_task = asyncio.create_task(self._renew_leases())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lease_task is not None:
            await cancel_and_wait([self._lease_task])
        await self._release(list(self._claims.values()))

    @asynccontextmanager
    async def run(self, interval: Interval) -> AsyncGenerator[FinishedJob]:
        """Submit a query, or take up one that a process which is gone has left, and poll it until it is done (G1 to G3).

        Its pages are read inside the block: whatever is raised there says that the answer cannot be used, and ends the job.
        After the block the job is still held, until ``mark_stored``, ``mark_verified`` or ``mark_unusable`` says what became of its answer.

        Raises:
            QueryInFlight: another process works on the same query just now; or, as AlreadyStored, has mark_stored its answer.
            LeaseLost: another has taken this one over.
            UpstreamJobGone, ClientUnknown: the vendor no longer has a job that was taken up; asked again, it is submitted anew.
            UpstreamError: the vendor refused, failed the job or cannot be reached.
        """
        started = time.monotonic()
        claim = await self._claim(interval)
        try:
            if claim.handle is not None:
                job, calls = self._job(claim.handle), 0
                logger.info("%s %s: resuming job %s", self.report.name, interval, job.id)
            else:
                # Only now that it is claimed: what others mark_stored until then is seen, and from then on they see the claim.
                if not await self.is_missing(interval):
                    raise AlreadyStored(f"{self.report.name} {interval} was mark_stored by another process meanwhile")
                job, calls = await self._submit(claim), 1
            if job.answer is None:
                calls += await self._poll(job, claim)
            yield FinishedJob(job, claim.asked_at, calls, started)
        except BaseException as error:
            await finish(self._record_failure(claim.id, error))
            raise

    def claims(self, interval: Interval) -> tuple[LedgerClaim, ...]:
        """What is held of an interval and its parts: its rows are mark_stored by these."""
        # A copy, made in one go: threads add to it meanwhile.
        return tuple(claim for claim in list(self._claims.values()) if interval.contains(claim.interval))

    def mark_stored(self, interval: Interval) -> None:
        """The rows are in history, which closed the entries with them."""
        for claim in self.claims(interval):
            del self._claims[claim.id]

    async def mark_verified(self, interval: Interval) -> None:
        """The rows are mark_verified and will be mark_stored later: until then whoever needs them may read the vendor's answer again."""
        for claim in self._pop_claims(interval):
            await self._record(lambda claim=claim: self.ledger.done(claim))

    async def mark_unusable(self, interval: Interval, reason: Exception) -> None:
        """The rows cannot be used: the next who asks must ask the vendor anew."""
        for claim in self._pop_claims(interval):
            await self._record(lambda claim=claim: self.ledger.end(claim, LedgerState.failed, str(reason)))

    async def release(self, interval: Interval) -> None:
        """Something else went wrong: the next who asks goes on from where the vendor's jobs are."""
        await self._release(self._pop_claims(interval))

    def _pop_claims(self, interval: Interval) -> Iterator[LedgerClaim]:
        return iter([self._claims.pop(claim.id) for claim in self.claims(interval)])

    async def _claim(self, interval: Interval) -> LedgerClaim:
        wanted = LedgerRequest(self.series, interval, self.lane, self.clock(), self.not_before(interval))

        def claim() -> LedgerClaim:
            claimed = self.ledger.claim(wanted)
            # In the thread: were it left to a caller who is being cancelled, nobody would let go of it.
            self._claims[claimed.id] = claimed
            return claimed

        claimed = await run_in_thread(claim, self.ledger.threads)
        if claimed.given_up is not None:
            await self._cancel(claimed.given_up)
        return claimed

    async def _submit(self, claim: LedgerClaim) -> VendorJob:
        with span("submit", platform=self.platform.name, interval=str(claim.interval)):
            submitting = asyncio.create_task(self.platform.submit(self.report, claim.interval, self.lane))
            try:
                job = await asyncio.shield(submitting)
            except asyncio.CancelledError:
                await finish(self._finish_cancelled_submit(claim, submitting))
                raise
        await self._record_submit(claim, job)
        return job

    async def _finish_cancelled_submit(self, claim: LedgerClaim, submitting: asyncio.Task[VendorJob]) -> None:
        """Stop a submit whose caller is cancelled; of one that the vendor may have taken the ledger is told."""
        submitting.cancel()
        # The transport carries to its end what is on the wire.
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
            except Exception as error:  # noqa: BLE001 - told to the ledger; the caller is cancelled, whatever came of it
                await self._record_failure(claim.id, error)

    async def _record_submit(self, claim: LedgerClaim, job: VendorJob) -> None:
        """Tell the ledger what the vendor calls a query."""
        if job.answer is not None:
            return
        handle = JobHandle(job.id, job.oauth_client)
        self._claims[claim.id] = replace(claim, handle=handle)
        try:
            await run_in_thread(lambda: self.ledger.mark_submitted(claim, handle), self.ledger.threads)
        except (LeaseLost, HistoryUnavailable):
            # Whoever takes over submits its own, and never hears of this one.
            await self._cancel(handle)
            raise

    def _job(self, handle: JobHandle) -> VendorJob:
        return VendorJob(handle.id, handle.oauth_client, self.lane)

    async def _poll(self, job: VendorJob, claim: LedgerClaim) -> int:
        polls = 0

        async def check() -> VendorJobStatus:
            nonlocal polls
            polls += 1
            return await self.platform.status(job)

        resumed = claim.handle is not None
        age = max(0.0, (self.clock() - claim.requested_at).total_seconds()) if resumed else 0.0
        with span("poll", platform=self.platform.name, resumed=resumed):
            await self.poller.wait_until_done(
                _duration_kind(self.report, claim.interval),
                check,
                # From its submit, whoever polls: or each process that takes up a job that hangs would begin to wait anew.
                deadline_seconds=max(0.0, self.poller.deadline_seconds - age),
                age_seconds=age,
                on_progress=lambda percent: self.on_percent(claim.interval, percent),
            )
        return polls

    async def _record_failure(self, claim_id: int, error: BaseException) -> None:
        """Say in the ledger, once, what a query that ended badly was left as."""
        claim = self._claims.pop(claim_id, None)
        if claim is None:
            return
        if isinstance(error, AmbiguousSubmit):
            await self._record(lambda: self.ledger.ambiguous(claim, str(error)))
        elif isinstance(error, UpstreamJobGone | ClientUnknown):
            await self._record(lambda: self.ledger.end(claim, LedgerState.expired, str(error)))
        elif isinstance(error, asyncio.CancelledError):
            await self._abandon(claim)
        elif isinstance(error, LeaseLost):
            return
        elif isinstance(error, AlreadyStored):
            await self._record(lambda: self.ledger.end(claim, LedgerState.abandoned, str(error)))
        elif isinstance(error, UpstreamJobOverdue):
            # Left open it would be taken up again, and a job that hangs would keep its interval from everybody for ever.
            await self._record(lambda: self.ledger.end(claim, LedgerState.failed, str(error)))
            if claim.handle is not None:
                await self._cancel(claim.handle)
        elif claim.handle is not None and isinstance(error, UpstreamError) and not isinstance(error, UpstreamJobFailed):
            # The vendor cannot be reached: the job may still finish.
            await self._release([claim])
        else:
            await self._record(lambda: self.ledger.end(claim, LedgerState.failed, str(error)))

    async def _abandon(self, claim: LedgerClaim) -> None:
        if claim.handle is not None and (self.has_other_requesters() or not self.platform.capabilities.has_cancel):
            # Where it cannot be stopped it runs on whatever we do; should somebody ask after all, there it is.
            await self._release([claim])
            return
        await self._record(lambda: self.ledger.end(claim, LedgerState.abandoned))
        if claim.handle is not None:
            await self._cancel(claim.handle)

    async def _cancel(self, handle: JobHandle) -> None:
        """Free the vendor's job; what went wrong before matters more than a cancel that fails."""
        if self.platform.capabilities.has_cancel:
            with suppress(UpstreamError, TimeoutError):
                async with asyncio.timeout(_CANCEL_TIMEOUT_SECONDS):
                    await self.platform.cancel(self._job(handle))

    async def _release(self, claims: Iterable[LedgerClaim]) -> None:
        claims = list(claims)
        await self._record(lambda: self.ledger.release(claim for claim in claims if claim.handle is not None))
        for claim in claims:
            if claim.handle is None:
                await self._record(lambda claim=claim: self.ledger.end(claim, LedgerState.abandoned))

    async def _record(self, note: Callable[[], None]) -> None:
        try:
            await run_in_thread(note, self.ledger.threads)
        except HistoryUnavailable as error:
            # The entry's lease ends by itself, and whoever comes next finds it open.
            logger.warning("%s: the job ledger could not be told: %s", self.report.name, error)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self.ledger.lease.total_seconds() / 3)
            held = list(self._claims.values())
            if held:
                await self._record(lambda held=held: self.ledger.renew(held))
