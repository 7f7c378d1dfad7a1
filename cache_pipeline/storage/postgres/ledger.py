"""The job ledger: every query sent to a vendor, so that after a crash its answer is read and the query is not repeated.

An entry starts as an *intent*, before the query is sent. The vendor's job handle is added as soon as the vendor answers.
The entry stays open until the rows are stored, and is closed in the transaction that stores them. The process that works
on an entry holds a lease with a fencing token. When the lease lapses, another process may take the entry over with a higher
token; the former owner can then neither change the entry nor store rows for it.

One case cannot be prevented, because vendors accept no idempotency key. Between the vendor's acceptance of a query and the
record of its handle lies one response on the wire. A process killed there leaves an intent of which it is unknown whether it
was sent. Such an intent is submitted again when its lease has lapsed, which costs one query and loses nothing. A caller that
is only cancelled leaves no such intent: it waits for the response, and if none arrives it marks the entry `ambiguous`.

Leases use PostgreSQL's clock, so that machines need not agree on the time. Every method blocks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.range import TimestamptzRange

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.series import Series
from cache_pipeline.storage.ports.ledger import (
    JobHandle,
    LeaseLost,
    LedgerClaim,
    LedgerRequest,
    LedgerState,
    OpenJob,
    QueryInFlight,
)
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool

#: How long a dead or frozen process keeps its entries.
LEASE = timedelta(seconds=15)
#: Entries that ended, or that were left open, are deleted after this long.
_RETENTION = timedelta(days=30)
_CONNECTIONS = 2
_TABLE = "cache_pipeline_state.upstream_query"


_OPEN_STATES = (LedgerState.intent, LedgerState.ambiguous, LedgerState.submitted, LedgerState.ready)


_CLAIM = f"""
    INSERT INTO {_TABLE} (series, report, interval, platform, lane, state, requested_at, owner, lease_until, fence)
    VALUES (%(series)s, %(report)s, %(interval)s, %(platform)s, %(lane)s, 'intent', %(requested_at)s, %(owner)s,
            clock_timestamp() + %(lease)s, 1)
    ON CONFLICT (series, interval) WHERE ended_at IS NULL DO NOTHING
    RETURNING id, fence
"""  # noqa: S608 - a constant table
_SELECT_OPEN_ENTRY = f"""
    SELECT id, requested_at, state, handle, oauth_client, lease_until > clock_timestamp() FROM {_TABLE}
    WHERE series = %(series)s AND interval = %(interval)s AND ended_at IS NULL FOR UPDATE
"""  # noqa: S608
_TAKE_OVER = f"""
    UPDATE {_TABLE} SET fence = fence + 1, owner = %(owner)s, lease_until = clock_timestamp() + %(lease)s
    WHERE id = %(id)s RETURNING fence
"""  # noqa: S608
_MARK_SUBMITTED = f"""
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
_SELECT_OPEN_JOBS = f"""
    SELECT lower(interval), upper(interval), requested_at, lease_until > clock_timestamp() FROM {_TABLE}
    WHERE series = %(series)s AND interval && %(interval)s AND ended_at IS NULL
      AND (handle IS NOT NULL OR lease_until > clock_timestamp())
    ORDER BY upper(interval) - lower(interval) DESC, lower(interval)
"""  # noqa: S608
_DELETE_OLD = f"""
    DELETE FROM {_TABLE} WHERE lease_until < clock_timestamp() - %(retention)s
"""  # noqa: S608
_COUNT_OPEN_BY_STATE = f"""
    SELECT state, count(*) FROM {_TABLE} WHERE ended_at IS NULL GROUP BY state
"""  # noqa: S608

#: Within the transaction that stores rows: how many of the claims (two arrays of the same length) are no longer held.
LOST_CLAIMS = f"""
    SELECT count(*) FROM (
        SELECT held.fence AS held_fence, q.fence, q.ended_at
        FROM unnest({{ids}}::bigint[], {{fences}}::bigint[]) AS held (id, fence)
        JOIN {_TABLE} AS q ON q.id = held.id FOR UPDATE OF q
    ) AS claimed WHERE held_fence <> fence OR ended_at IS NOT NULL
"""  # noqa: S608
#: Within the same transaction: close the entries that those rows answer, alone or with others that were requested no
#: earlier than the entry, except those another process is working on.
CLOSE_STORED = f"""
    UPDATE {_TABLE} AS q SET state = 'stored', ended_at = clock_timestamp(), lease_until = clock_timestamp()
    WHERE series = {{query}} AND ended_at IS NULL AND interval && {{covered}}
      AND (interval <@ {{covered}} OR interval <@ (
        SELECT coalesce(range_agg(part), '{{{{}}}}')
        FROM cache_pipeline_state.fetch_time AS f, unnest(f.intervals) AS part
        WHERE f.series = {{stored_series}} AND f.metrics @> {{metrics}} AND f.fetched_at >= q.requested_at
          AND f.intervals && q.interval))
      AND (lease_until <= clock_timestamp() OR id = ANY ({{ids}}::bigint[]))
"""  # noqa: S608


@contextmanager
def open_ledger(postgres_url: str, lease: timedelta = LEASE) -> Generator[PostgresLedger]:
    """Open the ledger of a server; connect on first use, and close the connections at the end."""
    pool = sync_connection_pool(postgres_url, "ledger", _CONNECTIONS, autocommit=True)
    with pool, ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="ledger") as threads:
        yield PostgresLedger(pool, threads, lease)


class PostgresLedger:
    """Entries of all series, shared by all processes and machines.

    Attributes:
        threads: The threads to call it in. Long work elsewhere does not delay them, and the sooner a handle is recorded after
            the vendor's response, the fewer queries are sent twice after a kill.
        lease: How long an entry is held unless it is renewed.
        owner: This process as other processes see it.
    """

    def __init__(self, pool: SyncPool, threads: Executor, lease: timedelta = LEASE) -> None:
        self._pool = pool
        self.threads = threads
        self._has_deleted_old = False
        self.lease = lease
        self.owner = f"{socket.gethostname()}:{os.getpid()}"

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        with lend_connection(self._pool, "the job ledger") as connection:
            yield connection

    def claim(self, request: LedgerRequest) -> LedgerClaim:
        """Record the intent to send a query, or take over the entry that a dead process has left.

        Raises:
            QueryInFlight: A live process holds the entry.
            HistoryUnavailable: PostgreSQL cannot be reached.
        """
        series = request.series
        values: dict[str, object] = {
            "series": series.query_id,
            "report": series.report.name,
            "platform": series.report.platform,
            "interval": _range(request.interval),
            "lane": request.lane,
            "requested_at": request.requested_at,
            "owner": self.owner,
            "lease": self.lease,
        }
        superseded_job: JobHandle | None = None
        with self._connection() as connection:
            self._delete_old(connection)
            while True:
                row = connection.execute(_CLAIM, values).fetchone()
                if row is not None:
                    return LedgerClaim(
                        row[0], row[1], request.interval, request.requested_at, superseded_job=superseded_job
                    )
                with connection.transaction():
                    claim, superseded_job = self._take_over(connection, request, values)
                if claim is not None:
                    return claim

    def _take_over(
        self, connection: Connection[TupleRow], request: LedgerRequest, values: dict[str, object]
    ) -> tuple[LedgerClaim | None, JobHandle | None]:
        """Take over the open entry if it can be resumed; else end it, and return the job that it leaves running, if any."""
        found = connection.execute(_SELECT_OPEN_ENTRY, values).fetchone()
        if found is None:
            return None, None
        entry, requested_at, state, handle_id, oauth_client, is_alive = found
        if is_alive:
            raise QueryInFlight(f"{request.series.report.name} {request.interval} is being queried by another process")
        row = connection.execute(_TAKE_OVER, {**values, "id": entry}).fetchone()
        fence = row[0] if row else 0
        handle = JobHandle(handle_id, oauth_client) if handle_id else None
        if handle is not None and requested_at >= request.min_requested_at:
            return LedgerClaim(entry, fence, request.interval, requested_at, handle), None
        end_state = LedgerState.superseded if handle is not None else LedgerState.lost
        self._mark(connection, LedgerClaim(entry, fence, request.interval, requested_at), end_state, None)
        return None, handle if state == LedgerState.submitted else None

    def mark_submitted(self, claim: LedgerClaim, handle: JobHandle) -> None:
        """Record the vendor's handle.

        Raises:
            LeaseLost: Another process has taken the entry over.
        """
        values = {
            "id": claim.id,
            "fence": claim.fence,
            "handle": handle.id,
            "client": handle.oauth_client,
            "lease": self.lease,
        }
        with self._connection() as connection:
            if connection.execute(_MARK_SUBMITTED, values).rowcount == 0:
                raise LeaseLost(f"another process took over {claim.interval} before its handle was recorded")

    def mark_ready(self, claim: LedgerClaim) -> None:
        """Record that the answer is verified and ready at the vendor, and release the entry, so that any process may read it.

        An answer that came with the response to the submit cannot be read again, so its entry ends.
        """
        with self._connection() as connection:
            self._mark(connection, claim, LedgerState.ready if claim.handle else LedgerState.answered, None)

    def mark_ambiguous(self, claim: LedgerClaim, detail: str) -> None:
        """Record that it is unknown whether the vendor accepted the query; the entry stays open until it is sent again."""
        with self._connection() as connection:
            self._mark(connection, claim, LedgerState.ambiguous, detail)

    def end(self, claim: LedgerClaim, state: LedgerState, detail: str | None = None) -> None:
        """End an entry, unless another process has taken it over."""
        with self._connection() as connection:
            self._mark(connection, claim, state, detail)

    def _mark(
        self, connection: Connection[TupleRow], claim: LedgerClaim, state: LedgerState, detail: str | None
    ) -> None:
        ends = state not in _OPEN_STATES
        values = {"id": claim.id, "fence": claim.fence, "state": state, "detail": detail, "ends": ends}
        connection.execute(_MARK, values)

    def renew(self, claims: Iterable[LedgerClaim]) -> None:
        """Hold entries for another lease, except those that another process has taken over."""
        fences = {claim.id: claim.fence for claim in claims}
        values = {"ids": list(fences), "fences": list(fences.values()), "lease": self.lease}
        with self._connection() as connection:
            connection.execute(_RENEW, values)

    def release(self, claims: Iterable[LedgerClaim]) -> None:
        """Release entries but leave them open, so that the next process that needs them resumes them."""
        fences = {claim.id: claim.fence for claim in claims}
        if not fences:
            return
        with self._connection() as connection:
            connection.execute(_RELEASE, {"ids": list(fences), "fences": list(fences.values())})

    def open_jobs(self, series: Series, interval: Interval) -> list[OpenJob]:
        """Return the jobs on an interval that the vendor has, or that are being submitted now, longest first."""
        values = {"series": series.query_id, "interval": _range(interval)}
        with self._connection() as connection:
            rows = connection.execute(_SELECT_OPEN_JOBS, values).fetchall()
        return [OpenJob(Interval(start, end), requested_at, is_alive) for start, end, requested_at, is_alive in rows]

    def open_by_state(self) -> dict[LedgerState, int]:
        """Count the open queries of all series by state."""
        with self._connection() as connection:
            return {LedgerState(state): count for state, count in connection.execute(_COUNT_OPEN_BY_STATE).fetchall()}

    def _delete_old(self, connection: Connection[TupleRow]) -> None:
        """Delete entries past their retention, once per process."""
        if not self._has_deleted_old:
            self._has_deleted_old = True
            connection.execute(_DELETE_OLD, {"retention": _RETENTION})


def _range(interval: Interval) -> TimestamptzRange:
    return TimestamptzRange(interval.start, interval.end, "[)")
