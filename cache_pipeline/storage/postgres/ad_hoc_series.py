"""The register of ad hoc series in PostgreSQL, and their tables in history."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import Jsonb

from cache_pipeline.errors import TooManyAdHocSeries
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesInfo
from cache_pipeline.storage.postgres.async_pool import Pool, connect
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, OWN_SCHEMA

_FIND = """
    SELECT metrics FROM cache_pipeline_state.ad_hoc_series WHERE name = %(name)s AND tenant = %(tenant)s
"""
_COUNT = "SELECT count(*) AS count FROM cache_pipeline_state.ad_hoc_series WHERE tenant = %(tenant)s"
_UPSERT = """
    INSERT INTO cache_pipeline_state.ad_hoc_series AS a (name, tenant, declaration, metrics)
    VALUES (%(name)s, %(tenant)s, %(declaration)s, %(metrics)s)
    ON CONFLICT (name, tenant) DO UPDATE SET metrics = ARRAY(SELECT DISTINCT unnest(a.metrics || excluded.metrics))
"""
_COUNT_REQUESTS = """
    UPDATE cache_pipeline_state.ad_hoc_series SET requests = requests + %(requests)s, last_requested_at = now()
    WHERE name = %(name)s AND tenant = %(tenant)s
"""
_LIST = """
    SELECT name, tenant, declaration, metrics, requests, created_at, last_requested_at
    FROM cache_pipeline_state.ad_hoc_series WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s ORDER BY requests DESC, name
"""
#: A series is dropped once no tenant has asked for it for a while.
_EXPIRED = """
    SELECT name FROM cache_pipeline_state.ad_hoc_series
    GROUP BY name HAVING max(last_requested_at) < now() - %(keep)s
"""
_DELETE_KNOWN = SQL(
    "DELETE FROM {} WHERE series IN (SELECT series FROM cache_pipeline_state.coverage WHERE report = %(name)s)"
)


def deletion_statements(name: str) -> list[SQL | Composed]:
    """Return the statements that delete a series and its table; their parameter `name` is its name."""
    known = ("fetch_time", "chunk_result", "truncation_stats")
    return [
        *(_DELETE_KNOWN.format(Identifier(OWN_SCHEMA, table)) for table in known),
        SQL("DELETE FROM cache_pipeline_state.coverage WHERE report = %(name)s"),
        SQL("DELETE FROM cache_pipeline_state.ad_hoc_series WHERE name = %(name)s"),
        SQL("DROP TABLE IF EXISTS {}").format(Identifier(HISTORY_SCHEMA, name)),
    ]


class PostgresAdHocSeries:
    """The register of ad hoc series in PostgreSQL."""

    def __init__(self, pool: Pool, postgres_url: str) -> None:
        self._pool = pool
        self._postgres_url = postgres_url

    async def prepare(
        self, declaration: Mapping[str, Any], report: Report, columns: tuple[Column, ...], tenant: str, most: int
    ) -> None:
        """Register a series and create its table, unless both are done.

        Raises:
            TooManyAdHocSeries: The tenant has as many already.
        """
        values = {"name": report.name, "tenant": tenant, "metrics": list(report.metrics)}
        async with connect(self._pool) as connection:
            row = await (await connection.execute(_FIND.encode(), values)).fetchone()
            if row is not None and set(report.metrics) <= set(row["metrics"]):
                return
            if row is None:
                counted = await (await connection.execute(_COUNT.encode(), values)).fetchone()
                if counted is not None and counted["count"] >= most:
                    raise TooManyAdHocSeries(most)
        # Imported here, because Alembic and SQLAlchemy take a third of a second to import.
        from cache_pipeline.storage.postgres.migrate import add_tables

        await asyncio.to_thread(add_tables, self._postgres_url, [(report, columns)])
        async with connect(self._pool) as connection:
            await connection.execute(_UPSERT.encode(), values | {"declaration": Jsonb(dict(declaration))})

    async def count_requests(self, requests: Mapping[tuple[str, str], int]) -> None:
        """Add to the requests of series, by name and tenant."""
        async with connect(self._pool) as connection:
            for (name, tenant), count in requests.items():
                await connection.execute(_COUNT_REQUESTS.encode(), {"name": name, "tenant": tenant, "requests": count})

    async def drop_expired(self, keep: timedelta) -> list[str]:
        """Drop the series that were not asked for within a time, with their rows, and return their names."""
        async with connect(self._pool) as connection:
            rows = await (await connection.execute(_EXPIRED.encode(), {"keep": keep})).fetchall()
            names = [row["name"] for row in rows]
            for name in names:
                async with connection.transaction():
                    for statement in deletion_statements(name):
                        await connection.execute(statement, {"name": name})
        return names

    async def all(self, tenant: str | None = None) -> list[AdHocSeriesInfo]:
        """Return every series, or those of a tenant, the most requested first."""
        async with connect(self._pool) as connection:
            rows = await (await connection.execute(_LIST.encode(), {"tenant": tenant})).fetchall()
        return [AdHocSeriesInfo(**row) for row in rows]
