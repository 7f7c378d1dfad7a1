"""The job rows in PostgreSQL: what is true of a job, whatever became of its message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from cache_pipeline.api.jobs import job_statements as job_sql
from cache_pipeline.api.jobs.job import KEPT_FOR, ApiJob, JobState, NewJob
from cache_pipeline.query.lane import Lane

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

_CONNECT_SECONDS = 5.0


def connection_pool(postgres_url: str, size: int, patience_seconds: float = _CONNECT_SECONDS) -> Pool:
    """Connections on which each statement is a transaction; to be entered before use. They come when they are needed.

    Args:
        postgres_url: of the server.
        size: the most there are.
        patience_seconds: after which one that cannot be had is an error.
    """
    return AsyncConnectionPool(
        postgres_url,
        connection_class=AsyncConnection[DictRow],
        kwargs={"autocommit": True, "row_factory": dict_row},
        min_size=0,
        max_size=size,
        timeout=patience_seconds,
        open=False,
    )


@dataclass(frozen=True)
class Throughput:
    """What recent jobs say of the next one.

    Attributes:
        seconds: that the median of a report's recent jobs took, or None where there was none.
        a_second: jobs of all reports that ended in a second, over the last minute.
    """

    seconds: float | None
    a_second: float


@dataclass(frozen=True)
class FinishedTiming:
    """How a job ended: done, or failed for a reason."""

    state: JobState
    problem: dict[str, Any] | None


@dataclass(frozen=True)
class JobTiming:
    """How long a job took, in seconds by PostgreSQL's clock.

    Attributes:
        waited: from being queued until a worker first began with it.
        worked: from then to its end.
    """

    waited: float
    worked: float


def _job(row: Mapping[str, Any]) -> ApiJob:
    values: dict[str, Any] = dict(row)
    values["lane"], values["state"] = Lane(row["lane"]), JobState(row["state"])
    values["requested_by"] = tuple(row["requested_by"])
    return ApiJob(**values)


def _fence(job: ApiJob) -> dict[str, Any]:
    return {"id": job.id, "owner": job.owner, "attempt": job.attempts}


class JobStore:
    """Jobs of all tenants; each method is one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _all(self, query: str, values: Mapping[str, Any]) -> list[DictRow]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query.encode(), values)
            return await cursor.fetchall()

    async def _one(self, query: str, values: Mapping[str, Any]) -> DictRow | None:
        return next(iter(await self._all(query, values)), None)

    async def put(self, new: NewJob) -> tuple[ApiJob, bool]:
        """The open job of a meaning, made where there is none; and whether it was made."""
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
        }
        (row,) = await self._all(job_sql.PUT, values)
        return _job(row), row["id"] == values["id"]

    async def get(self, job_id: UUID, tenant: str) -> ApiJob | None:
        """A tenant's job; another's is not there."""
        row = await self._one(job_sql.GET, {"id": job_id, "tenant": tenant})
        return _job(row) if row else None

    async def just_ended(self, key: str, within: timedelta) -> FinishedTiming | None:
        """How the last job of this meaning ended, where that was so short a time ago."""
        row = await self._one(job_sql.JUST_ENDED, {"key": key, "within": within})
        return FinishedTiming(JobState(row["state"]), row["problem"]) if row else None

    async def claim(
        self, owner: str, lease: timedelta, attempts: int, lost_after: timedelta | None = None
    ) -> ApiJob | None:
        """Take the job whose turn it is, a dead worker's too; None where there is none.

        Args:
            owner: the worker.
            lease: how long the job is its own, until it says so again.
            attempts: jobs that were begun so often are left alone.
            lost_after: only dead workers' jobs, and those whose message must have been lost, being older than this.
        """
        values = {
            "owner": owner,
            "lease": lease,
            "attempts": attempts,
            "lost_after": lost_after,
            "lanes": list(Lane),
        }
        row = await self._one(job_sql.CLAIM, values)
        return _job(row) if row else None

    async def hold(self, owner: str, jobs: Iterable[UUID], lease: timedelta) -> set[UUID]:
        """Extend the leases of a worker's jobs; those not returned are no longer its own, and must be stopped."""
        rows = await self._all(job_sql.HOLD, {"ids": list(jobs), "owner": owner, "lease": lease})
        return {row["id"] for row in rows}

    async def cancelled(self, jobs: Iterable[UUID]) -> set[UUID]:
        """Those of them that nobody waits for any more."""
        return {row["id"] for row in await self._all(job_sql.CANCELLED, {"ids": list(jobs)})}

    async def progress(self, job: ApiJob, percent: float, chunks_done: int, chunks_total: int | None) -> None:
        """Note how far a job has come, where it is still the worker's that says so."""
        values = {"percent": percent, "done": chunks_done, "total": chunks_total}
        await self._all(job_sql.PROGRESS, {**_fence(job), **values})

    async def finish(self, job: ApiJob, problem: dict[str, Any] | None = None) -> JobTiming | None:
        """End a job as done, or as failed for a reason; None where it is no longer the worker's that says so."""
        values = {**_fence(job), "problem": Jsonb(problem) if problem else None}
        row = await self._one(job_sql.FINISH, values)
        return JobTiming(row["waited"], row["worked"]) if row else None

    async def give_back(self, job: ApiJob, *, after: timedelta, uncounted: bool = False) -> None:
        """Queue a job again; ``uncounted`` where its attempt was none, for the worker was asked to end."""
        await self._all(job_sql.GIVE_BACK, {**_fence(job), "after": after, "uncounted": int(uncounted)})

    async def cancel(self, job_id: UUID, tenant: str, requested_by: str) -> ApiJob | None:
        """Take one asker off a job; the job itself is cancelled when nobody else asks for it."""
        row = await self._one(job_sql.CANCEL, {"id": job_id, "tenant": tenant, "by": requested_by})
        return _job(row) if row else await self.get(job_id, tenant)

    async def ahead(self, job: ApiJob) -> int:
        """Jobs waiting that will be taken before this one, going by lane and age."""
        values = {"id": job.id, "lanes": list(Lane), "lane": job.lane, "created_at": job.created_at}
        row = await self._one(job_sql.AHEAD, values)
        return row["ahead"] if row else 0

    async def pace(self, report: str) -> Throughput:
        """How long jobs of a report take, and how fast jobs end."""
        row = await self._one(job_sql.PACE, {"report": report})
        return Throughput(row["seconds"], row["a_second"]) if row else Throughput(None, 0.0)

    async def sweep(self, attempts: int, problem: dict[str, Any], silence: timedelta) -> list[UUID]:
        """Park the jobs that workers died of too often, and forget those that ended long ago; returns the parked.

        Args:
            attempts: that a job has.
            problem: what it is parked with.
            silence: how long its last worker must not have been heard of after its lease: one that is merely slow, on
                a machine that is too busy, holds it again meanwhile.
        """
        values = {"attempts": attempts, "problem": Jsonb(problem), "silence": silence}
        parked = await self._all(job_sql.PARK, values)
        await self._all(job_sql.FORGET, {"kept": KEPT_FOR})
        return [row["id"] for row in parked]

    async def park_message(self, body: bytes, reason: str) -> None:
        """Keep a message that no job can be made of, for a person to look at."""
        await self._all(job_sql.PARK_MESSAGE, {"body": body, "reason": reason})

    async def ping(self) -> None:
        """Return when the server answers."""
        await self._all("SELECT 1 AS one", {})

    async def counts(self) -> dict[JobState, int]:
        """Jobs by state: the open ones, and those that ended within a day."""
        rows = await self._all(job_sql.COUNTS, {})
        return dict.fromkeys(JobState, 0) | {JobState(row["state"]): row["jobs"] for row in rows}
