"""The job ledger: every query sent to a vendor, so that a crash ends in reading its answer and never in asking again.

An entry begins as an *intent*, before the query is sent; the vendor's handle is added as soon as it is answered; it stays
open until the rows are durably kept, and is closed in the very transaction that keeps them. Whoever works on an entry
holds a lease with a fencing number; when the lease lapses another may take the entry over, with a higher number, and the
one before can then neither change it nor keep rows by it.

What it cannot do: vendors take no idempotency key. Between the vendor's taking a query and its handle being written lies
one answer on the wire; a process killed there leaves an intent of which nobody can say whether it was sent. Such an intent is
submitted once more when its lease has lapsed, which costs one query and loses nothing. A caller who is only cancelled leaves no
such intent: the answer on the wire is waited for, and where it does not come the entry says so (`ambiguous`).

Leases go by PostgreSQL's clock, so that machines need not agree on the time. Every method blocks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import psycopg
from psycopg import Connection
from psycopg.errors import UndefinedTable
from psycopg.rows import TupleRow
from psycopg.types.range import TimestamptzRange
from psycopg_pool import ConnectionPool, PoolTimeout

from cache_pipeline.errors import CachePipelineError, HistoryUnavailable
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.schemas import UNREACHABLE

#: How long the entries of a dead or frozen process stay its own.
LEASE = timedelta(seconds=15)
#: What has ended, or what nobody took up again, is forgotten after this long.
_REMEMBERED = timedelta(days=30)
_CONNECTIONS = 2
_TABLE = "cache_pipeline_state.upstream_query"


class LedgerState(StrEnum):
    """Where an entry stands: the first four are open, the others have ended."""

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
    """Somebody else is working on the same query just now; look again when its lease has ended."""

    retryable = True


class LeaseLost(CachePipelineError):
    """Another has taken an entry over, since its owner was not heard of for the length of a lease."""


@dataclass(frozen=True)
class JobHandle:
    """The vendor's own name of a job, and the OAuth client that may ask for it."""

    id: str
    oauth_client: str


@dataclass(frozen=True)
class LedgerClaim:
    """One entry, held by whoever knows its fencing number.

    Attributes:
        id: of the entry.
        fence: grows with every owner; what comes with an older one is refused.
        interval: what is asked for.
        asked_at: as of when the figures are.
        handle: the vendor's job, to be resumed; None where it is still to be submitted.
        given_up: a job of before that may still run and whose answer would be too old.
    """

    id: int
    fence: int
    interval: Interval
    asked_at: datetime
    handle: JobHandle | None = None
    given_up: JobHandle | None = None


@dataclass(frozen=True)
class OpenJob:
    """An open entry, seen from outside.

    Attributes:
        interval: what is asked for.
        asked_at: as of when the figures are.
        alive: whether somebody works on it just now.
    """

    interval: Interval
    asked_at: datetime
    alive: bool


@dataclass(frozen=True)
class LedgerRequest:
    """What is to be asked of a vendor.

    Attributes:
        series: whose rows.
        interval: of one upstream query.
        lane: who asks.
        asked_at: the time.
        not_before: an open entry that was asked earlier would give an answer that is too old.
    """

    series: Series
    interval: Interval
    lane: str
    asked_at: datetime
    not_before: datetime


_CLAIM = f"""
    INSERT INTO {_TABLE} (series, report, interval, platform, lane, state, requested_at, owner, lease_until, fence)
    VALUES (%(series)s, %(report)s, %(interval)s, %(platform)s, %(lane)s, 'intent', %(requested_at)s, %(owner)s,
            clock_timestamp() + %(lease)s, 1)
    ON CONFLICT (series, interval) WHERE ended_at IS NULL DO NOTHING
    RETURNING id, fence
"""  # noqa: S608 - a constant table
_FIND = f"""
    SELECT id, requested_at, state, handle, oauth_client, lease_until > clock_timestamp() FROM {_TABLE}
    WHERE series = %(series)s AND interval = %(interval)s AND ended_at IS NULL FOR UPDATE
"""  # noqa: S608
_TAKE_OVER = f"""
    UPDATE {_TABLE} SET fence = fence + 1, owner = %(owner)s, lease_until = clock_timestamp() + %(lease)s
    WHERE id = %(id)s RETURNING fence
"""  # noqa: S608
_SUBMITTED = f"""
    UPDATE {_TABLE} SET state = 'submitted', handle = %(handle)s, oauth_client = %(client)s,
        submitted_at = clock_timestamp(), lease_until = clock_timestamp() + %(lease)s
    WHERE id = %(id)s AND fence = %(fence)s AND ended_at IS NULL
"""  # noqa: S608
_MARK = f"""
    UPDATE {_TABLE} SET state = %(state)s, detail = coalesce(%(detail)s, detail), lease_until = clock_timestamp(),
        ended_at = CASE WHEN %(ends)s THEN clock_timestamp() END
    WHERE id = %(id)s AND fence = %(fence)s AND ended_at IS NULL
"""  # noqa: S608
_RENEW = f"""
    UPDATE {_TABLE} AS q SET lease_until = clock_timestamp() + %(lease)s
    FROM unnest(%(ids)s::bigint[], %(fences)s::bigint[]) AS held (id, fence)
    WHERE q.id = held.id AND q.fence = held.fence AND q.ended_at IS NULL
"""  # noqa: S608
_RELEASE = f"""
    UPDATE {_TABLE} AS q SET lease_until = clock_timestamp()
    FROM unnest(%(ids)s::bigint[], %(fences)s::bigint[]) AS held (id, fence)
    WHERE q.id = held.id AND q.fence = held.fence AND q.ended_at IS NULL
"""  # noqa: S608
_OPEN = f"""
    SELECT lower(interval), upper(interval), requested_at, lease_until > clock_timestamp() FROM {_TABLE}
    WHERE series = %(series)s AND interval && %(interval)s AND ended_at IS NULL
      AND (handle IS NOT NULL OR lease_until > clock_timestamp())
    ORDER BY upper(interval) - lower(interval) DESC, lower(interval)
"""  # noqa: S608
_FORGET = f"""
    DELETE FROM {_TABLE} WHERE lease_until < clock_timestamp() - %(age)s
"""  # noqa: S608

#: Within the transaction that keeps rows: which of the claims (two arrays of the same length) are no longer held.
LOST_CLAIMS = f"""
    SELECT count(*) FROM (
        SELECT held.fence AS mine, q.fence, q.ended_at
        FROM unnest({{ids}}::bigint[], {{fences}}::bigint[]) AS held (id, fence)
        JOIN {_TABLE} AS q ON q.id = held.id FOR UPDATE OF q
    ) AS claimed WHERE mine <> fence OR ended_at IS NOT NULL
"""  # noqa: S608
#: Within the same: what those rows answer is answered, but for what somebody else is working on.
CLOSE_KEPT = f"""
    UPDATE {_TABLE} SET state = 'stored', ended_at = clock_timestamp(), lease_until = clock_timestamp()
    WHERE series = {{series}} AND ended_at IS NULL AND interval <@ {{covered}}
      AND (lease_until <= clock_timestamp() OR id = ANY ({{ids}}::bigint[]))
"""  # noqa: S608


_OPEN_BY_STATE = f"""
    SELECT state, count(*) FROM {_TABLE} WHERE ended_at IS NULL GROUP BY state
"""  # noqa: S608


def _range(interval: Interval) -> TimestamptzRange:
    return TimestamptzRange(interval.start, interval.end, "[)")


@contextmanager
def open_ledger(postgres_url: str, lease: timedelta = LEASE) -> Generator[Ledger]:
    """The ledger on a server; connections are made when they are first needed, and closed at the end."""
    pool: ConnectionPool[Connection[TupleRow]] = ConnectionPool(
        postgres_url,
        kwargs={"autocommit": True},
        min_size=0,
        max_size=_CONNECTIONS,
        num_workers=1,
        timeout=20,
        check=ConnectionPool.check_connection,
        name="ledger",
        open=False,
    )
    with pool, ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="ledger") as threads:
        yield Ledger(pool, threads, lease)


class Ledger:
    """Entries of all series, shared by all processes and machines.

    Attributes:
        threads: to call it in. Work that takes long keeps nobody waiting there, and the shorter the time between the vendor's
            answer and its being noted, the fewer queries a kill sends twice.
        lease: how long an entry is held unless it is renewed.
        owner: this process, as others see it.
    """

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]], threads: Executor, lease: timedelta = LEASE) -> None:
        self._pool = pool
        self.threads = threads
        self._tidied = False
        self.lease = lease
        self.owner = f"{socket.gethostname()}:{os.getpid()}"

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except UndefinedTable as error:
            raise HistoryUnavailable("PostgreSQL lacks the job ledger: run `cache-pipeline migrate`") from error
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise HistoryUnavailable(f"PostgreSQL {UNREACHABLE}") from error

    def claim(self, wanted: LedgerRequest) -> LedgerClaim:
        """Note the intent to ask, or take over what a process that is gone has left.

        Raises:
            QueryInFlight: a live owner holds the entry.
            HistoryUnavailable: PostgreSQL cannot be reached.
        """
        series = wanted.series
        values: dict[str, object] = {
            "series": series.id,
            "report": series.report.name,
            "platform": series.report.platform,
            "interval": _range(wanted.interval),
            "lane": wanted.lane,
            "requested_at": wanted.asked_at,
            "owner": self.owner,
            "lease": self.lease,
        }
        given_up: JobHandle | None = None
        with self._connection() as connection:
            self._tidy(connection)
            while True:
                row = connection.execute(_CLAIM, values).fetchone()
                if row is not None:
                    return LedgerClaim(row[0], row[1], wanted.interval, wanted.asked_at, given_up=given_up)
                with connection.transaction():
                    taken, given_up = self._taken_over(connection, wanted, values)
                if taken is not None:
                    return taken

    def _taken_over(
        self, connection: Connection[TupleRow], wanted: LedgerRequest, values: dict[str, object]
    ) -> tuple[LedgerClaim | None, JobHandle | None]:
        """The open entry where it can be resumed; else it has ended, and the job it leaves running, if any."""
        found = connection.execute(_FIND, values).fetchone()
        if found is None:
            return None, None
        entry, asked_at, state, handle_id, oauth_client, alive = found
        if alive:
            raise QueryInFlight(f"{wanted.series.report.name} {wanted.interval} is being asked by another process")
        row = connection.execute(_TAKE_OVER, {**values, "id": entry}).fetchone()
        fence = row[0] if row else 0
        handle = JobHandle(handle_id, oauth_client) if handle_id else None
        if handle is not None and asked_at >= wanted.not_before:
            return LedgerClaim(entry, fence, wanted.interval, asked_at, handle), None
        ended = LedgerState.superseded if handle is not None else LedgerState.lost
        self._mark(connection, LedgerClaim(entry, fence, wanted.interval, asked_at), ended, None)
        return None, handle if state == LedgerState.submitted else None

    def submitted(self, claim: LedgerClaim, handle: JobHandle) -> None:
        """Note the vendor's handle.

        Raises:
            LeaseLost: another has taken the entry over.
        """
        values = {
            "id": claim.id,
            "fence": claim.fence,
            "handle": handle.id,
            "client": handle.oauth_client,
            "lease": self.lease,
        }
        with self._connection() as connection:
            if connection.execute(_SUBMITTED, values).rowcount == 0:
                raise LeaseLost(f"{claim.interval} was taken over before its handle was noted")

    def done(self, claim: LedgerClaim) -> None:
        """Note that the answer is proven and ready at the vendor, and let go of the entry: whoever needs it may read it.

        An answer that came with the submit can only be asked for again, so its entry ends.
        """
        with self._connection() as connection:
            self._mark(connection, claim, LedgerState.ready if claim.handle else LedgerState.answered, None)

    def ambiguous(self, claim: LedgerClaim, note: str) -> None:
        """Note that nobody can say whether the vendor took the query; the entry stays to be seen until it is asked again."""
        with self._connection() as connection:
            self._mark(connection, claim, LedgerState.ambiguous, note)

    def end(self, claim: LedgerClaim, state: LedgerState, note: str | None = None) -> None:
        """End an entry, unless another has taken it over."""
        with self._connection() as connection:
            self._mark(connection, claim, state, note)

    def _mark(self, connection: Connection[TupleRow], claim: LedgerClaim, state: LedgerState, note: str | None) -> None:
        ends = state not in (LedgerState.intent, LedgerState.ambiguous, LedgerState.submitted, LedgerState.ready)
        values = {"id": claim.id, "fence": claim.fence, "state": state, "detail": note, "ends": ends}
        connection.execute(_MARK, values)

    def renew(self, claims: Iterable[LedgerClaim]) -> None:
        """Hold entries for another lease, but for those that another has taken over."""
        fences = {claim.id: claim.fence for claim in claims}
        values = {"ids": list(fences), "fences": list(fences.values()), "lease": self.lease}
        with self._connection() as connection:
            connection.execute(_RENEW, values)

    def release(self, claims: Iterable[LedgerClaim]) -> None:
        """Let go of entries, which stay open: the next who wants them resumes them."""
        fences = {claim.id: claim.fence for claim in claims}
        if not fences:
            return
        with self._connection() as connection:
            connection.execute(_RELEASE, {"ids": list(fences), "fences": list(fences.values())})

    def open_jobs(self, series: Series, interval: Interval) -> list[OpenJob]:
        """Jobs on an interval that the vendor holds, or is just being given, the longest first."""
        values = {"series": series.id, "interval": _range(interval)}
        with self._connection() as connection:
            rows = connection.execute(_OPEN, values).fetchall()
        return [OpenJob(Interval(start, end), asked_at, alive) for start, end, asked_at, alive in rows]

    def open_by_state(self) -> dict[LedgerState, int]:
        """How many queries of all series are open, by where they stand."""
        with self._connection() as connection:
            return {LedgerState(state): count for state, count in connection.execute(_OPEN_BY_STATE).fetchall()}

    def _tidy(self, connection: Connection[TupleRow]) -> None:
        """Forget what is long over, once in the life of a process."""
        if not self._tidied:
            self._tidied = True
            connection.execute(_FORGET, {"age": _REMEMBERED})
