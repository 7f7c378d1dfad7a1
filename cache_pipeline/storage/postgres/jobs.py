"""The job rows in PostgreSQL, which alone decide what a job's state is, whatever became of its message."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.storage.ports.jobs import (
    JOB_RETENTION,
    Admission,
    ApiJob,
    JobOutcome,
    JobOutlook,
    JobState,
    JobTiming,
    NewJob,
)
from cache_pipeline.storage.postgres import job_statements as job_sql
from cache_pipeline.storage.postgres.async_pool import Pool, connect


class PostgresJobStore:
    """The jobs of all tenants. Each method runs one statement, unless it says otherwise."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def admit(self, new: NewJob, within: timedelta = timedelta(0)) -> Admission:
        """Queue a job, or join the open job with the same key, unless a job with this key ended within a given time."""
        values = {
            "id": uuid4(),
            "key": new.key,
            "tenant": new.tenant,
            "report": new.report,
            "request": Jsonb(new.request),
            "lane": new.lane,
            "lanes": list(Lane),
            "requested_by": new.requested_by,
            "context": Jsonb(new.context),
            "within": within,
        }
        (row,) = await self._fetch_all(job_sql.ADMIT, values)
        recent_state, recent_problem = row.pop("recent_state"), row.pop("recent_problem")
        outlook = _take_outlook(row)
        return Admission(
            job=_job(row) if row["id"] else None,
            is_created=row["id"] == values["id"],
            recent=JobOutcome(JobState(recent_state), recent_problem) if recent_state else None,
            outlook=outlook,
        )

    async def get(self, job_id: UUID, tenant: str) -> ApiJob | None:
        """Return a tenant's job, or None if there is none or it belongs to another tenant."""
        row = await self._fetch_one(job_sql.GET, {"id": job_id, "tenant": tenant})
        return _job(row) if row else None

    async def claim(
        self,
        owner: str,
        lease: timedelta,
        max_attempts: int,
        lost_after: timedelta | None = None,
        busy_keys: Collection[str] = (),
    ) -> ApiJob | None:
        """Claim the next job to run; see the port for the arguments."""
        values = {
            "owner": owner,
            "lease": lease,
            "max_attempts": max_attempts,
            "lost_after": lost_after,
            "busy_keys": list(busy_keys),
            "lanes": list(Lane),
        }
        row = await self._fetch_one(job_sql.CLAIM, values)
        return _job(row) if row else None

    async def renew_leases(self, owner: str, jobs: Iterable[UUID], lease: timedelta) -> dict[UUID, Priority]:
        """Extend the leases of a worker's jobs and return the priorities of those renewed: others may wait for them meanwhile.

        The worker no longer owns the others and must stop them.
        """
        rows = await self._fetch_all(job_sql.RENEW_LEASES, {"ids": list(jobs), "owner": owner, "lease": lease})
        return {row["id"]: Priority(Lane(row["lane"]), frozenset(row["requested_by"])) for row in rows}

    async def cancelled(self, jobs: Iterable[UUID]) -> set[UUID]:
        """Return those of the jobs that were cancelled, because no caller waits for them any more."""
        return {row["id"] for row in await self._fetch_all(job_sql.CANCELLED, {"ids": list(jobs)})}

    async def update_progress(self, job: ApiJob, percent: float, chunks_done: int, chunks_total: int | None) -> None:
        """Store the progress of a job, unless its worker has lost the lease."""
        values = {"percent": percent, "done": chunks_done, "total": chunks_total}
        await self._fetch_all(job_sql.PROGRESS, {**_fence(job), **values})

    async def finish(self, job: ApiJob, problem: dict[str, Any] | None = None) -> JobTiming | None:
        """Mark a job done, or failed with a problem. Return its timing, or None if its worker lost the lease."""
        values = {**_fence(job), "problem": Jsonb(problem) if problem else None}
        row = await self._fetch_one(job_sql.FINISH, values)
        return JobTiming(row["waited"], row["worked"]) if row else None

    async def requeue(self, job: ApiJob, *, after: timedelta, uncounted: bool = False) -> None:
        """Put a running job back on the queue.

        Args:
            job: The job.
            after: How long no worker may begin it.
            uncounted: Whether to take the attempt off its count, because the worker was asked to shut down.
        """
        await self._fetch_all(job_sql.REQUEUE, {**_fence(job), "after": after, "uncounted": int(uncounted)})

    async def cancel(self, job_id: UUID, tenant: str, requested_by: str) -> ApiJob | None:
        """Take one API key off a job. The job itself is cancelled once no other key waits for it.

        A job that has already finished is returned as it is, with a second statement.
        """
        row = await self._fetch_one(job_sql.CANCEL, {"id": job_id, "tenant": tenant, "by": requested_by})
        return _job(row) if row else await self.get(job_id, tenant)

    async def outlook(self, job: ApiJob) -> JobOutlook:
        """Return what the job table suggests about when a job will be done."""
        row = await self._fetch_one(job_sql.OUTLOOK, {"id": job.id, "lanes": list(Lane), "report": job.report})
        return _take_outlook(row) if row else JobOutlook(0, None, 0.0)

    async def dead_letter_stale(self, max_attempts: int, problem: dict[str, Any], grace: timedelta) -> list[UUID]:
        """Fail the jobs whose workers died too often, and return their ids. Delete expired jobs as well.

        This takes two statements.

        Args:
            max_attempts: The number of attempts after which a job is dead-lettered.
            problem: The problem that the job fails with.
            grace: How long its last worker must have been silent after its lease. A worker that is merely slow, on an
                overloaded machine, renews the lease within this time.
        """
        values = {"max_attempts": max_attempts, "problem": Jsonb(problem), "grace": grace}
        dead_lettered = await self._fetch_all(job_sql.DEAD_LETTER, values)
        await self._fetch_all(job_sql.DELETE_EXPIRED, {"retention": JOB_RETENTION})
        return [row["id"] for row in dead_lettered]

    async def dead_letter_message(self, body: bytes, reason: str) -> None:
        """Store a message that names no job, for an operator to look at."""
        await self._fetch_all(job_sql.DEAD_LETTER_MESSAGE, {"body": body, "reason": reason})

    async def ping(self) -> None:
        """Check that the server answers, and accepts writes.

        Raises:
            HistoryUnavailable: It is a standby.
        """
        row = await self._fetch_one("SELECT pg_is_in_recovery() AS is_standby", {})
        if row and row["is_standby"]:
            raise HistoryUnavailable(
                "PostgreSQL is a read-only standby: let CACHE_PIPELINE_POSTGRES_URL name the primary"
            )

    async def counts(self) -> dict[JobState, int]:
        """Count the jobs by state: open jobs, and those that finished within a day."""
        rows = await self._fetch_all(job_sql.COUNTS, {})
        return dict.fromkeys(JobState, 0) | {JobState(row["state"]): row["jobs"] for row in rows}

    async def _fetch_all(self, query: str, values: Mapping[str, Any]) -> list[DictRow]:
        async with connect(self._pool) as connection:
            cursor = await connection.execute(query.encode(), values)
            return await cursor.fetchall()

    async def _fetch_one(self, query: str, values: Mapping[str, Any]) -> DictRow | None:
        return next(iter(await self._fetch_all(query, values)), None)


def _take_outlook(row: DictRow) -> JobOutlook:
    return JobOutlook(row.pop("jobs_before"), row.pop("seconds"), row.pop("jobs_per_second"))


def _job(row: Mapping[str, Any]) -> ApiJob:
    values: dict[str, Any] = dict(row)
    values["lane"], values["state"] = Lane(row["lane"]), JobState(row["state"])
    values["requested_by"] = tuple(row["requested_by"])
    return ApiJob(**values)


def _fence(job: ApiJob) -> dict[str, Any]:
    return {"id": job.id, "owner": job.owner, "attempt": job.attempts}
