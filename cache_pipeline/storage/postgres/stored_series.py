"""What history holds under each series, those of earlier declarations included, and how it is dropped."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, OWN_SCHEMA, VERSIONS_SCHEMA
from cache_pipeline.storage.postgres.series_lock import series_lock
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool

_LIST = """
    SELECT c.series, c.report, c.tenant, c.definition,
           (SELECT array_agg(DISTINCT name ORDER BY name) FROM cache_pipeline_state.coverage AS o, unnest(o.metrics) AS name
            WHERE o.series = c.series),
           min(lower(c.final + c.provisional)), max(upper(c.final + c.provisional)),
           (SELECT max(f.fetched_at) FROM cache_pipeline_state.fetch_time AS f WHERE f.series = c.series)
    FROM cache_pipeline_state.coverage AS c GROUP BY c.series, c.report, c.tenant, c.definition
    ORDER BY c.report, c.tenant, max(upper(c.final + c.provisional)) DESC, c.series
"""
#: The tables with what is known of a series. The ledger keeps its entries until they are too old.
SERIES_TABLES = ("coverage", "fetch_time", "chunk_result", "truncation_stats", "time_travel", "finality_change")


@dataclass(frozen=True)
class HeldSeries:
    """One series of history.

    Attributes:
        id: Its id, as in the column ``series`` of its table.
        report: The name of its report.
        tenant: Its tenant.
        definition: The canonical query without interval and metrics.
        metrics: The metrics of which it holds something.
        start: Start of what it holds; None if it holds nothing.
        end: End of what it holds.
        fetched_at: When it was last fetched.
    """

    id: str
    report: str
    tenant: str
    definition: dict[str, Any]
    metrics: tuple[str, ...]
    start: datetime | None
    end: datetime | None
    fetched_at: datetime | None


def find_row_tables(connection: Connection[TupleRow], report: str) -> list[Identifier]:
    """Return the tables with rows of a report that exist: those that count now, and those that were replaced."""
    tables = [Identifier(schema, report) for schema in (HISTORY_SCHEMA, VERSIONS_SCHEMA)]
    rows = connection.execute(
        "SELECT to_regclass(name) IS NOT NULL FROM unnest(%s::text[]) WITH ORDINALITY AS t (name, position) ORDER BY position",
        [[table.as_string() for table in tables]],
    ).fetchall()
    return [table for table, (exists,) in zip(tables, rows, strict=True) if exists]


def delete_series(connection: Connection[TupleRow], series: str, report: str) -> int:
    """Delete the rows of a series and everything known of it in the connection's transaction; return the number of rows."""
    connection.execute(series_lock(series))
    delete = SQL("DELETE FROM {} WHERE series = %s")
    counts = [
        connection.execute(delete.format(table), [series]).rowcount for table in find_row_tables(connection, report)
    ]
    for name in SERIES_TABLES:
        connection.execute(delete.format(Identifier(OWN_SCHEMA, name)), [series])
    return counts[0] if counts else 0


class SeriesStore:
    """The series of all tenants."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        with lend_connection(self._pool, "the series of history") as connection:
            yield connection

    def all(self) -> list[HeldSeries]:
        """Return every series, those of one report together, the latest first."""
        with self._connection() as connection:
            rows = connection.execute(_LIST).fetchall()
        return [
            HeldSeries(series, report, tenant, definition, tuple(metrics), start, end, fetched_at)
            for series, report, tenant, definition, metrics, start, end, fetched_at in rows
        ]

    def drop(self, series: HeldSeries) -> int:
        """Delete the rows of a series and everything known of it, in one transaction; return the number of rows."""
        with self._connection() as connection:
            return delete_series(connection, series.id, series.report)


@contextmanager
def open_series(postgres_url: str) -> Generator[SeriesStore]:
    """Open the series of a server; connect on first use, and close the connection at the end."""
    with sync_connection_pool(postgres_url, "series", 1, autocommit=False) as pool:
        yield SeriesStore(pool)
