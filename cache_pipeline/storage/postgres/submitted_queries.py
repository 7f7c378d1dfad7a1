"""Queries that clients of a vendor submitted at the vendor's own paths, in PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from cache_pipeline.storage.ports.submitted_queries import SubmittedQuery
from cache_pipeline.storage.postgres.async_pool import Pool, connect

#: A program that never deletes what it submitted must not fill the table: only the newest of a key are kept.
_MAX_PER_CALLER = 1000
_COLUMNS = "id, tenant, caller, path, body, job_id, submitted_at, expires_at"
_PRUNE = """
    DELETE FROM cache_pipeline_state.submitted_query
    WHERE expires_at <= now() OR caller = %(caller)s AND submitted_at <= (
        SELECT submitted_at FROM cache_pipeline_state.submitted_query WHERE caller = %(caller)s
        ORDER BY submitted_at DESC OFFSET %(kept)s LIMIT 1)
"""
_INSERT = f"""
    INSERT INTO cache_pipeline_state.submitted_query (id, tenant, caller, path, body, job_id, expires_at)
    VALUES (%(id)s, %(tenant)s, %(caller)s, %(path)s, %(body)s, %(job_id)s, now() + %(lifetime)s)
    RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant of this module
_FIND = f"""
    SELECT {_COLUMNS}, answer FROM cache_pipeline_state.submitted_query
    WHERE id = %(id)s AND tenant = %(tenant)s AND caller = %(caller)s AND path = %(path)s AND expires_at > now()
"""  # noqa: S608 - a constant of this module
_KEEP_ANSWER = """
    UPDATE cache_pipeline_state.submitted_query SET answer = %(answer)s WHERE id = %(id)s AND answer IS NULL
"""
_DELETE = "DELETE FROM cache_pipeline_state.submitted_query WHERE id = %(id)s"


class PostgresSubmittedQueries:
    """Submitted queries in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(
        self, tenant: str, caller: str, path: str, body: object, job_id: UUID | None, lifetime: timedelta
    ) -> SubmittedQuery:
        """Store a query and return it; forget expired ones, and the oldest of very many."""
        values = {
            "id": uuid4(),
            "tenant": tenant,
            "caller": caller,
            "path": path,
            "body": Jsonb(body),
            "job_id": job_id,
            "lifetime": lifetime,
        }
        async with connect(self._pool) as connection, connection.transaction():
            await connection.execute(_PRUNE.encode(), {"caller": caller, "kept": _MAX_PER_CALLER - 1})
            row = await (await connection.execute(_INSERT.encode(), values)).fetchone()
        if row is None:
            raise RuntimeError("INSERT … RETURNING returned no row")
        return SubmittedQuery(**row)

    async def find(self, query_id: UUID, tenant: str, caller: str, path: str) -> SubmittedQuery | None:
        """Return a query that a key submitted at a path, or None if there is none or it has expired."""
        values = {"id": query_id, "tenant": tenant, "caller": caller, "path": path}
        async with connect(self._pool) as connection:
            row = await (await connection.execute(_FIND.encode(), values)).fetchone()
        return SubmittedQuery(**row) if row else None

    async def keep_answer(self, query_id: UUID, answer: bytes) -> None:
        """Store the answer whose pages are read, unless one is stored already."""
        async with connect(self._pool) as connection:
            await connection.execute(_KEEP_ANSWER.encode(), {"id": query_id, "answer": answer})

    async def remove(self, query_id: UUID) -> None:
        """Forget a query."""
        async with connect(self._pool) as connection:
            await connection.execute(_DELETE.encode(), {"id": query_id})
