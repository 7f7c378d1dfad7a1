"""Deletes what history holds from before an instant, for reports that declare a retention: rows and coverage together."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.storage.postgres.schemas import OWN_SCHEMA
from cache_pipeline.storage.postgres.series_lock import series_lock
from cache_pipeline.storage.postgres.stored_series import find_row_tables
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool

_SERIES = """
    SELECT DISTINCT series FROM cache_pipeline_state.coverage
    WHERE report = %s AND tenant = %s AND (final + provisional) && tstzmultirange(tstzrange(NULL, %s))
"""
#: What is known of intervals, by table; a row is deleted once nothing is left of all its intervals.
_INTERVALS = {
    "coverage": ("final", "provisional", "unverified", "unexpected"),
    "fetch_time": ("intervals",),
    "finality_change": ("gained", "lost"),
}


class ExpiryStore:
    """Everything that history holds of intervals."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        with lend_connection(self._pool, "the tables of history") as connection:
            yield connection

    def delete_before(self, report: str, tenant: str, instant: datetime) -> int:
        """Delete a report's rows and what is known of them before an instant, in every series; return the number of rows.

        Each series is one transaction, under the lock of its writers, so that no reader sees coverage without its rows.
        """
        with self._connection() as connection:
            found = connection.execute(_SERIES, [report, tenant, instant]).fetchall()
        deleted = 0
        for (series,) in found:
            with self._connection() as connection:
                connection.execute(series_lock(series))
                deleted += _delete_rows(connection, report, series, instant)
                _delete_knowledge(connection, series, instant)
        return deleted


def _delete_rows(connection: Connection[Any], report: str, series: str, instant: datetime) -> int:
    delete = SQL("DELETE FROM {} WHERE series = %s AND interval_start < %s")
    counts = [
        connection.execute(delete.format(table), [series, instant]).rowcount
        for table in find_row_tables(connection, report)
    ]
    return counts[0] if counts else 0


def _delete_knowledge(connection: Connection[Any], series: str, instant: datetime) -> None:
    before = SQL("tstzmultirange(tstzrange(NULL, {}::timestamptz))").format(Literal(instant))
    for name, columns in _INTERVALS.items():
        values: dict[str, Composable] = {
            "table": Identifier(OWN_SCHEMA, name),
            "cut": SQL(", ").join(SQL("{0} = {0} - {1}").format(Identifier(column), before) for column in columns),
            "touched": SQL(" OR ").join(SQL("{} && {}").format(Identifier(column), before) for column in columns),
            "empty": SQL(" AND ").join(SQL("isempty({})").format(Identifier(column)) for column in columns),
            "series": Literal(series),
        }
        connection.execute(SQL("UPDATE {table} SET {cut} WHERE series = {series} AND ({touched})").format(**values))
        connection.execute(SQL("DELETE FROM {table} WHERE series = {series} AND {empty}").format(**values))
    connection.execute(
        SQL("DELETE FROM {} WHERE series = %s AND upper(interval) <= %s").format(
            Identifier(OWN_SCHEMA, "chunk_result")
        ),
        [series, instant],
    )


@contextmanager
def open_expiry(postgres_url: str) -> Generator[ExpiryStore]:
    """Open what deletes old history of a server; connect on first use, and close the connection at the end."""
    with sync_connection_pool(postgres_url, "expiry", 1, autocommit=False) as pool:
        yield ExpiryStore(pool)
