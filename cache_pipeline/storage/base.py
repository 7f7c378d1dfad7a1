"""What the rest of the package needs of its stores: the ports, and the values that cross them.

PostgreSQL implements `History`, `Ledger`, `NameStore`, `JobStore`, `ApiKeyStore` and `StatusQueries`, Redis the others. The
tests have `History`, `Ledger` and `SingleFlight` in memory too; those of history and ledger pass the same tests as PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import pyarrow as pa

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.query.completeness import ChunkResult, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.names import ListedName, NameChanges, NamePage, NameSelection, NameVersion
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.answer import Answer
from cache_pipeline.storage.api_key import ApiKeyInfo, Principal
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.job import Admission, ApiJob, JobOutlook, JobState, JobTiming, NewJob
from cache_pipeline.storage.submitted_query import SubmittedQuery

# --- The ledger of upstream queries ------------------------------------------------------------------------------------------


class LedgerState(StrEnum):
    """State of an entry. The first four are open, the others have ended.

    Attributes:
        intent: About to be sent.
        ambiguous: It is unknown whether the vendor accepted it.
        submitted: The vendor has a job for it.
        ready: The answer is verified and can be read at the vendor.
        stored: Its rows are in history.
        answered: It was answered without a job, and the answer is not in history.
        superseded: Its answer would be too old.
        lost: Its owner ended before it recorded a handle.
        expired: The vendor no longer has the job.
        failed: The vendor refused it, or its answer is unusable.
        abandoned: Its caller no longer needs it.
    """

    intent = "intent"
    ambiguous = "ambiguous"
    submitted = "submitted"
    ready = "ready"
    stored = "stored"
    answered = "answered"
    superseded = "superseded"
    lost = "lost"
    expired = "expired"
    failed = "failed"
    abandoned = "abandoned"


class QueryInFlight(CachePipelineError):
    """Another process is working on the same query; retry when its lease has lapsed."""

    retryable = True


class LeaseLost(CachePipelineError):
    """Another process has taken an entry over, because its owner did not renew the lease."""


@dataclass(frozen=True)
class JobHandle:
    """The vendor's id of a job, and the OAuth client that may read it."""

    id: str
    oauth_client: str


@dataclass(frozen=True)
class LedgerRequest:
    """A query that is to be sent to a vendor.

    Attributes:
        series: The series of its rows.
        interval: The interval of the upstream query.
        lane: The request's priority lane.
        requested_at: The current time.
        min_requested_at: An open entry that was requested earlier would give an answer that is too old.
    """

    series: Series
    interval: Interval
    lane: str
    requested_at: datetime
    min_requested_at: datetime


@dataclass(frozen=True)
class LedgerClaim:
    """An entry that this process holds.

    Attributes:
        id: The entry's id.
        fence: The fencing token, which increases with every owner; a change with an older one is refused.
        interval: The interval of the query.
        requested_at: The time that the rows reflect.
        handle: The vendor's job, to be resumed. None if it must still be submitted.
        superseded_job: An earlier job that may still run and whose answer would be too old.
    """

    id: int
    fence: int
    interval: Interval
    requested_at: datetime
    handle: JobHandle | None = None
    superseded_job: JobHandle | None = None


@dataclass(frozen=True)
class OpenJob:
    """An open entry as other processes see it.

    Attributes:
        interval: The interval of the query.
        requested_at: The time that the rows reflect.
        is_alive: Whether a process is working on it.
    """

    interval: Interval
    requested_at: datetime
    is_alive: bool


class Ledger(Protocol):
    """The record of every upstream query, shared by all processes and machines. Every method blocks."""

    @property
    def threads(self) -> Executor | None:
        """The threads to call it in; None if it does not block."""
        ...

    @property
    def lease(self) -> timedelta:
        """How long an entry is held unless it is renewed."""
        ...

    def claim(self, request: LedgerRequest) -> LedgerClaim:
        """Record the intent to send a query, or take over the entry that a dead process has left.

        Raises:
            QueryInFlight: A live process holds the entry.
            HistoryUnavailable: The store cannot be reached.
        """
        ...

    def mark_submitted(self, claim: LedgerClaim, handle: JobHandle) -> None:
        """Record the vendor's handle.

        Raises:
            LeaseLost: Another process has taken the entry over.
        """
        ...

    def mark_ready(self, claim: LedgerClaim) -> None:
        """Record that the answer is verified and ready at the vendor, and release the entry, so that any process may read it.

        An answer that came with the response to the submit cannot be read again, so its entry ends.
        """
        ...

    def mark_ambiguous(self, claim: LedgerClaim, detail: str) -> None:
        """Record that it is unknown whether the vendor accepted the query; the entry stays open until it is sent again."""
        ...

    def end(self, claim: LedgerClaim, state: LedgerState, detail: str | None = None) -> None:
        """End an entry, unless another process has taken it over."""
        ...

    def renew(self, claims: Iterable[LedgerClaim]) -> None:
        """Hold entries for another lease, except those that another process has taken over."""
        ...

    def release(self, claims: Iterable[LedgerClaim]) -> None:
        """Release entries but leave them open, so that the next process that needs them resumes them."""
        ...

    def open_jobs(self, series: Series, interval: Interval) -> list[OpenJob]:
        """Return the jobs on an interval that the vendor has, or that are being submitted now, longest first."""
        ...

    def open_by_state(self) -> dict[LedgerState, int]:
        """Count the open queries of all series by state."""
        ...


# --- History: rows and coverage ----------------------------------------------------------------------------------------------


class NewerDataPresent(CachePipelineError):
    """History holds rows that were requested later than those that were to replace them; nothing was written."""

    def __init__(self, intervals: IntervalSet) -> None:
        self.intervals = intervals
        super().__init__(f"history holds newer rows of {', '.join(map(str, intervals))}")


@dataclass(frozen=True)
class Replacement:
    """New figures for some intervals of a series; they replace whatever is stored of the same metrics for these intervals.

    Attributes:
        series: The series of the rows, with the metrics that were fetched.
        final: Intervals whose buckets lie before the watermark.
        provisional: Intervals that are stored but not final.
        rows: Exactly the rows of both, in the report's schema.
        watermark: The vendor's watermark, or that of the report's finality delay; None if there are no intervals.
        fetch_times: When they were fetched; together exactly the intervals.
        claims: The ledger entries that the rows come from, while this process holds them.
        second_looks: The provisional intervals that wait for a second look, by reason.
    """

    series: Series
    final: IntervalSet
    provisional: IntervalSet
    rows: Rows
    watermark: datetime | None
    fetch_times: tuple[FetchTime, ...]
    claims: tuple[LedgerClaim, ...] = ()
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])

    @property
    def covered(self) -> IntervalSet:
        """All intervals that the rows replace."""
        return self.final | self.provisional


@dataclass(frozen=True)
class KnownThen:
    """What history knew of a series at an instant.

    Attributes:
        final: What was final then; it means nothing if the instant is before `since` or after `now`.
        since: From when on superseded figures are kept; None if they are not.
        now: The store's clock. Nothing that it has not stored by now is stamped with an earlier instant.
    """

    final: IntervalSet
    since: datetime | None
    now: datetime


class CoverageReader(Protocol):
    """The coverage of each metric of each series. Every method is one transaction, and blocks."""

    def coverage(self, series: Series, interval: Interval | None = None) -> Coverage:
        """Read the coverage of a series, including the fetch times of the final parts of `interval`."""
        ...

    def coverages(self, series: Sequence[Series], interval: Interval | None = None) -> dict[str, Coverage]:
        """Read the same for several series; return it by the series' ids."""
        ...


class History(CoverageReader, Protocol):
    """Rows of every report, and their coverage. Every method is one transaction, and blocks."""

    def coverages_with_cost(
        self, series: Sequence[Series], interval: Interval | None = None, *, cost_of: Series
    ) -> tuple[dict[str, Coverage], tuple[float, float] | None]:
        """Read the same for several series, and what the latest upstream queries of one series cost.

        Returns:
            The coverages by the series' ids, and the mean requests and seconds of an upstream query, or None if there was none.
        """
        ...

    def known_as_of(self, series: Series, interval: Interval, as_of: datetime) -> KnownThen:
        """Read which part of an interval was final at an instant, for all metrics of the series."""
        ...

    def read(
        self, series: Series, interval: Interval, columns: Sequence[Column], as_of: datetime | None = None
    ) -> pa.Table:
        """Read the rows of an interval into memory, in the report's schema, ordered by bucket and group.

        With `as_of`, read them as they were known at that instant; all of the interval must have been final then.
        """
        ...

    def rows(self, series: Series, intervals: Iterable[Interval], columns: Sequence[Column]) -> Rows:
        """Copy the rows of some intervals out of the store. However many there are, few of them are in memory."""
        ...

    def stream(
        self, series: Series, interval: Interval, columns: Sequence[Column], as_of: datetime | None = None
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Stream the rows of an interval in the report's schema, ordered by bucket and group; as known at an instant, as `read`."""
        ...

    def replace(self, replacement: Replacement) -> None:
        """Replace rows, extend coverage and close the ledger entries they answer: one unit of work, all of it or nothing.

        Raises:
            NewerDataPresent: Part of what is stored was requested later than these rows, or has been doubted since: it was
                requested at the same time, and is provisional although these rows would make it final.
            LeaseLost: Another process has taken over an entry that the rows come from.
            DeclarationConflict: A column of the table has another type than the rows.
        """
        ...

    def record_chunks(self, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
        """Store the results of some chunks, and what their lengths say about the vendor's row limit."""
        ...

    def truncation_stats(self, series: Series, now: datetime) -> TruncationStats:
        """Read what is known about the lengths of a series' answers."""
        ...

    def reopen(self, series: Series, ended: Sequence[tuple[Interval, str]], end_column: str) -> IntervalSet:
        """Make the final buckets provisional that hold a row without an end, of those rows that have ended since.

        The vendor sends the end in the answer to a later interval. The bucket is then fetched again like any other
        provisional one, and so gets the row with its end.

        Args:
            series: The series.
            ended: The bucket and the first dimension of each row that has ended.
            end_column: The column with the end of a row.

        Returns:
            The buckets.
        """
        ...

    def groups_by_bucket(self, series: Series, interval: Interval, columns: Sequence[str] = ()) -> dict[datetime, int]:
        """Count the groups in each bucket of an interval, as the vendor sent them; buckets without rows are omitted.

        With `columns`, count only the groups that have a figure other than zero in one of them.
        """
        ...

    def count_rows(self, series: Series) -> int:
        """Count the rows of a series, of which there may be so many that the answer is an estimate."""
        ...

    def totals_by_bucket(self, series: Series, interval: Interval, column: str | None) -> dict[datetime, float]:
        """Sum a column in each bucket of an interval, or count rows without one; buckets without rows are omitted."""
        ...


# --- Names of ids ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NameScope:
    """Whose names they are.

    Attributes:
        tenant: The tenant.
        account: The vendor's account, such as ``vendor/main``.
    """

    tenant: str
    account: str


@dataclass(frozen=True)
class LookupState:
    """What is known of one listing of names.

    Attributes:
        listed_at: When it was last read completely; None if it never was.
        names: The ids with a name that is still valid.
        problem: Why it cannot be read; None if the last attempt succeeded.
    """

    listed_at: datetime | None
    names: int
    problem: str | None


class NameStore(Protocol):
    """The names of ids, with the time for which each was valid. Every method is one transaction, and blocks."""

    def update(self, scope: NameScope, lookup: str, listed: Mapping[str, ListedName], at: datetime) -> NameChanges:
        """Store what a complete listing changes, unless a later one was stored.

        Args:
            scope: Whose names they are.
            lookup: The listing.
            listed: All its entries by id.
            at: When it was read.

        Returns:
            What was changed.
        """
        ...

    def record_problem(self, scope: NameScope, lookup: str, problem: str) -> bool:
        """Record why a listing cannot be read. Return False if the same was recorded before."""
        ...

    def versions(self, scope: NameScope, ids: Mapping[str, Collection[str]]) -> dict[str, dict[str, list[NameVersion]]]:
        """Return the names of ids by lookup and id, oldest first; ids without a name are absent.

        Args:
            scope: Whose names they are.
            ids: The ids of each lookup.
        """
        ...

    def valid_ids(self, scope: NameScope, lookup: str) -> list[str]:
        """Return the ids of a listing whose names are still valid, sorted."""
        ...

    def page(self, scope: NameScope, lookup: str, selection: NameSelection) -> NamePage:
        """Return some entries of a listing; those that are no longer listed are deleted."""
        ...

    def state(self, scope: NameScope) -> dict[str, LookupState]:
        """Return what is known of each listing."""
        ...


# --- The hot tier and single flight ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HotEntry:
    """A stored answer.

    Attributes:
        answer: The answer as it is sent out.
        is_refresh_due: Whether this reader should have it recomputed, so that it never expires under load.
    """

    answer: Answer
    is_refresh_due: bool = False


#: Larger answers are not kept hot: history renders each of them again, rather than that a few of them fill the store's memory.
MAX_HOT_BYTES = 1_000_000


class HotTier(Protocol):
    """Finished answers of at most a megabyte, for a few seconds.

    While its store is unavailable it holds nothing, and history answers.
    """

    async def get(self, query: CanonicalQuery) -> Answer | None:
        """Return a query's answer, or None if none is stored."""
        ...

    async def get_entry(self, key: str) -> HotEntry | None:
        """Return the answer with a key and whether to refresh it, or None if none is stored."""
        ...

    async def put(self, answers: Iterable[tuple[CanonicalQuery, Answer]], as_of: datetime, cost: float = 0.0) -> None:
        """Store answers for less than five seconds each (G8, G21) and not beyond their freshness (G11).

        Args:
            answers: Pairs of a query and its answer.
            as_of: The time from which the age of their rows is counted.
            cost: Seconds that computing one of them takes.
        """
        ...

    async def put_for(self, key: str, answer: Answer, life: timedelta, cost: float = 0.0) -> None:
        """Store an answer of any size for a time of its own.

        Args:
            key: Its key.
            answer: The answer.
            life: The longest time.
            cost: Seconds that computing it takes.
        """
        ...


@dataclass(frozen=True)
class Flight:
    """A lock that a caller holds.

    Attributes:
        lane: Returns the most urgent lane in which the holder or a waiter wants the result. Read it before each request.
    """

    lane: Callable[[], Awaitable[Lane]]


class OnWait(Protocol):
    """A callback that receives every wait."""

    def __call__(self, seconds: float, *, is_whole: bool) -> None:
        """Record one wait."""
        ...


class SingleFlight(Protocol):
    """Lets one caller at a time fetch a name or an interval of it, over all processes.

    Attributes:
        on_wait: Called after every wait for another caller: with its seconds, and whether the whole name was waited for.
    """

    on_wait: OnWait

    def acquire(
        self,
        name: str,
        is_done: Callable[[], Awaitable[bool]],
        interval: Interval | None = None,
        *,
        lane: Lane = Lane.interactive,
    ) -> AbstractAsyncContextManager[Flight | None]:
        """Acquire the lock of a name, or wait until another caller has done the work.

        Args:
            name: What is fetched: a short text without secrets.
            is_done: Checks whether the result is available. Called after each release, and every few seconds.
            interval: The part of the name that is fetched. Without it the whole name is locked, which excludes every part.
            lane: The caller's lane; if the caller has to wait, the lock's holder continues in it or in a more urgent one.

        Returns:
            A context manager that yields the lock if this caller holds it; it should check for the result once more before it
            fetches. It yields None if `is_done` returned True, so that there is nothing to wait for.
        """
        ...

    async def wait_for_release(self, name: str, interval: Interval | None = None) -> None:
        """Wait until a lock of any part of it is released, but only for a few seconds."""
        ...


# --- Counts and signals that the processes of the HTTP API share --------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """How often one interval of one series was requested.

    Attributes:
        series: The series' id.
        report: The report's name.
        interval: The interval as requested.
        requests: Number of requests.
        misses: How many of them could not be answered from the stores.
    """

    series: str
    report: str
    interval: Interval
    requests: int
    misses: int


class DemandCounter(Protocol):
    """Counts which queries a tenant's callers send, for a day."""

    async def add(self, counts: Iterable[tuple[CanonicalQuery, int, int]]) -> None:
        """Add each query's number of requests, and of those that missed.

        Raises:
            RedisUnavailable: The counts are lost.
        """
        ...

    async def recent(self, hours: int = 1) -> list[Demand]:
        """Return the demand of this hour and of the `hours` before it, most missed first.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...


class MetricCounts(Protocol):
    """The counts of the metrics, by names that the caller chooses."""

    async def add(self, counts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """Add to counts and to sums of seconds, all or none of them.

        Raises:
            RedisUnavailable: Nothing was added.
        """
        ...

    async def read(self) -> dict[str, float]:
        """Return the counts and sums by name.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...

    async def read_today(self) -> dict[str, float]:
        """Return the counts of the present day in UTC by name.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...


class RequestCounts(Protocol):
    """The requests of each API key by minute."""

    async def add(self, minute: int, requests: Mapping[str, int]) -> dict[str, int]:
        """Add the requests of some keys in a minute since the epoch, and return the totals of these keys.

        Raises:
            RedisUnavailable: Nothing is known of other processes.
        """
        ...


@dataclass(frozen=True)
class WorkerCounts:
    """Workers at one moment.

    Attributes:
        alive: Workers that sent a heartbeat within the lease.
        lost: Workers that fell silent lately without deregistering.
    """

    alive: int
    lost: int


class WorkerHeartbeats(Protocol):
    """Which workers are alive, and which were lost without deregistering."""

    async def heartbeat(self, name: str) -> None:
        """Send a worker's heartbeat at regular intervals until cancelled."""
        ...

    async def deregister(self, name: str) -> None:
        """Remove a worker that shuts down in order, so that it does not count as lost."""
        ...

    async def count(self) -> WorkerCounts:
        """Count the workers that are alive and those that were lost.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...


class JobEvents(Protocol):
    """Announces changes of jobs. An event only says that a job's row may have changed, and may be lost: read the row too."""

    async def publish(self, job_id: UUID) -> None:
        """Announce that a job's row has changed."""
        ...

    def subscribe(self, job_id: UUID) -> AbstractAsyncContextManager[asyncio.Event]:
        """Yield an event that is set whenever the job changes while the block lasts."""
        ...

    async def listen(self) -> None:
        """Pass events on to the subscribers of this process until cancelled."""
        ...


class IdempotencyKeyReused(CachePipelineError):
    """An idempotency key was sent with another query before."""

    http_status = 422
    problem_type = "idempotency-key"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was sent with another query", remedy="use a new key for each query")


class IdempotencyKeys(Protocol):
    """Remembers which job an idempotency key led to, for as long as a finished job is kept. Each caller has its own keys."""

    async def find_job(self, caller_id: str, key: str, query_key: str) -> UUID | None:
        """Return the job that a key led to before, or None if the key is new or led to an immediate answer.

        Args:
            caller_id: The id of the API key that sent the request.
            key: The idempotency key as sent.
            query_key: The key of the query's meaning.

        Raises:
            IdempotencyKeyReused: The key was sent with another query before.
            RedisUnavailable: Nothing can be read.
        """
        ...

    async def store_job(self, caller_id: str, key: str, query_key: str, job_id: UUID) -> None:
        """Remember the job that a key led to.

        Raises:
            RedisUnavailable: It was not stored.
        """
        ...


# --- Jobs and keys of the HTTP API -------------------------------------------------------------------------------------------


class JobStore(Protocol):
    """The jobs of all tenants. Each method is one complete change, so a job is never half changed."""

    async def admit(self, new: NewJob, within: timedelta = timedelta(0)) -> Admission:
        """Queue a job, or join the open job with the same key, unless a job with this key ended within a given time."""
        ...

    async def get(self, job_id: UUID, tenant: str) -> ApiJob | None:
        """Return a tenant's job, or None if there is none or it belongs to another tenant."""
        ...

    async def claim(
        self, owner: str, lease: timedelta, max_attempts: int, lost_after: timedelta | None = None
    ) -> ApiJob | None:
        """Claim the next job to run, including one whose worker died. Return None if there is none.

        Args:
            owner: The worker.
            lease: How long the job belongs to the worker before it must renew the lease.
            max_attempts: Leave alone jobs that were begun this often.
            lost_after: Claim only jobs of dead workers, and queued jobs older than this: their message must have been
                lost.
        """
        ...

    async def renew_leases(self, owner: str, jobs: Iterable[UUID], lease: timedelta) -> set[UUID]:
        """Extend the leases of a worker's jobs and return the ids that were renewed; it no longer owns the others."""
        ...

    async def cancelled(self, jobs: Iterable[UUID]) -> set[UUID]:
        """Return those of the jobs that were cancelled, because no caller waits for them any more."""
        ...

    async def update_progress(self, job: ApiJob, percent: float, chunks_done: int, chunks_total: int | None) -> None:
        """Store the progress of a job, unless its worker has lost the lease."""
        ...

    async def finish(self, job: ApiJob, problem: dict[str, Any] | None = None) -> JobTiming | None:
        """Mark a job done, or failed with a problem. Return its timing, or None if its worker lost the lease."""
        ...

    async def requeue(self, job: ApiJob, *, after: timedelta, uncounted: bool = False) -> None:
        """Put a running job back on the queue.

        Args:
            job: The job.
            after: How long no worker may begin it.
            uncounted: Whether to take the attempt off its count, because the worker was asked to shut down.
        """
        ...

    async def cancel(self, job_id: UUID, tenant: str, requested_by: str) -> ApiJob | None:
        """Take one API key off a job. The job itself is cancelled once no other key waits for it."""
        ...

    async def outlook(self, job: ApiJob) -> JobOutlook:
        """Return what the job table suggests about when a job will be done."""
        ...

    async def dead_letter_stale(self, max_attempts: int, problem: dict[str, Any], grace: timedelta) -> list[UUID]:
        """Fail the jobs whose workers died too often, and return their ids. Delete expired jobs as well.

        Args:
            max_attempts: The number of attempts after which a job is dead-lettered.
            problem: The problem that the job fails with.
            grace: How long its last worker must have been silent after its lease.
        """
        ...

    async def dead_letter_message(self, body: bytes, reason: str) -> None:
        """Store a message that names no job, for an operator to look at."""
        ...

    async def ping(self) -> None:
        """Check that the server answers."""
        ...

    async def counts(self) -> dict[JobState, int]:
        """Count the jobs by state: open jobs, and those that finished within a day."""
        ...


@dataclass(frozen=True)
class AdHocSeriesInfo:
    """A series of queries that no declared report holds.

    Attributes:
        name: Its name, and that of its table.
        tenant: The tenant whose rows it holds.
        declaration: The declaration of a report that would hold them.
        metrics: All metrics that were asked for.
        requests: How often it was asked for.
        created_at: When it was first asked for.
        last_requested_at: When it was last asked for.
    """

    name: str
    tenant: str
    declaration: Mapping[str, Any]
    metrics: Sequence[str]
    requests: int
    created_at: datetime
    last_requested_at: datetime


class AdHocSeriesRegister(Protocol):
    """The ad hoc series of all tenants, and their tables."""

    async def prepare(
        self, declaration: Mapping[str, Any], report: Report, columns: tuple[Column, ...], tenant: str, most: int
    ) -> None:
        """Register a series and create its table, unless both are done.

        Raises:
            TooManyAdHocSeries: The tenant has as many already.
        """
        ...

    async def count_requests(self, requests: Mapping[tuple[str, str], int]) -> None:
        """Add to the requests of series, by name and tenant."""
        ...

    async def drop_expired(self, keep: timedelta) -> list[str]:
        """Drop the series that were not asked for within a time, with their rows, and return their names."""
        ...

    async def all(self, tenant: str | None = None) -> list[AdHocSeriesInfo]:
        """Return every series, or those of a tenant, the most requested first."""
        ...


class SubmittedQueries(Protocol):
    """Queries that clients of a vendor submitted at the vendor's own paths, to fetch the answers later."""

    async def add(
        self, tenant: str, caller: str, path: str, body: object, job_id: UUID | None, lifetime: timedelta
    ) -> SubmittedQuery:
        """Store a query and return it; forget expired ones, and the oldest of very many."""
        ...

    async def find(self, query_id: UUID, tenant: str, caller: str, path: str) -> SubmittedQuery | None:
        """Return a query that a key submitted at a path, or None if there is none or it has expired."""
        ...

    async def keep_answer(self, query_id: UUID, answer: bytes) -> None:
        """Store the answer whose pages are read, unless one is stored already."""
        ...

    async def remove(self, query_id: UUID) -> None:
        """Forget a query."""
        ...


class ApiKeyStore(Protocol):
    """The keys of the HTTP API. Only a hash of a key is stored, so a key cannot be read back."""

    async def create(self, name: str, principal: Principal, expires_at: datetime | None = None) -> str:
        """Create a key for a principal and return it. The principal's id is replaced, and the key cannot be shown again."""
        ...

    async def issue_token(self, key_id: str, lifetime: timedelta) -> str:
        """Create an access token of a key and return it; it cannot be shown again."""
        ...

    async def find(self, key: str) -> Principal | None:
        """Return the principal of a key or access token, or None if it is unknown, revoked or expired."""
        ...

    async def all(self) -> list[ApiKeyInfo]:
        """Return every key, including revoked and expired ones, in order of creation."""
        ...

    async def rotate(self, key_id: str, overlap: timedelta, expires_at: datetime | None = None) -> str | None:
        """Create a key that permits what another one does, which expires soon.

        Args:
            key_id: The id of the key to replace.
            overlap: How long both work, unless the old one expires sooner.
            expires_at: When the new key expires; by default it works for as long as the old one was to, if that has an end.

        Returns:
            The new key, or None if no working key has this id.
        """
        ...

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key. Return False if no working key has this id."""
        ...


@dataclass(frozen=True)
class ReportFreshness:
    """How fresh the stored data of one series is.

    Attributes:
        watermark: The latest watermark seen, or None.
        complete_from: Start of the final data, or None if there is none.
        complete_through: End of the final data, or None if there is none.
        provisional_fetched_at: When the oldest provisional figures were fetched, or None if there are none.
    """

    watermark: datetime | None
    complete_from: datetime | None
    complete_through: datetime | None
    provisional_fetched_at: datetime | None


@dataclass(frozen=True)
class JobBacklog:
    """Jobs that need an operator's attention.

    Attributes:
        oldest_seconds: How long the oldest job that could run has waited; 0 if none waits.
        dead_letters: Dead-lettered jobs and messages of the last day, by `job` and `message`.
        failed: Jobs that failed within the last hour, by the kind of problem.
    """

    oldest_seconds: float
    dead_letters: Mapping[str, int]
    failed: Mapping[str, int]


@dataclass(frozen=True)
class FailedJob:
    """A job that failed.

    Attributes:
        report: The report that it was to answer from.
        finished_at: When it failed.
        problem: Why, as problem details (RFC 9457).
    """

    report: str
    finished_at: datetime
    problem: Mapping[str, Any]


class StatusQueries(Protocol):
    """The status of reports and jobs, for the metrics and the operations page."""

    async def freshness(self, series: Iterable[Series]) -> dict[str, ReportFreshness]:
        """Return the freshness of stored data by series id; series that were never fetched are left out."""
        ...

    async def verdict_counts(self, series: Iterable[Series], now: datetime) -> dict[tuple[str, str], int]:
        """Count the vendor's answers of the last hour by series id and verdict."""
        ...

    async def vendor_requests(self, series: Iterable[Series], since: datetime) -> dict[str, int]:
        """Count the requests to the vendor behind the answers stored since an instant, by series id."""
        ...

    async def failed_jobs(self, tenant: str, limit: int) -> list[FailedJob]:
        """Return the last jobs of a tenant that failed, the latest first."""
        ...

    async def job_backlog(self) -> JobBacklog:
        """Return how long jobs wait, and which were dead-lettered or failed."""
        ...
