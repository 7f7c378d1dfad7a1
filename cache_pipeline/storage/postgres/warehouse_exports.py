"""The record of what was exported to warehouses."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool
from cache_pipeline.storage.warehouse.base import ExportedPartition, ExportRunning, ExportTarget

_SELECT = """
    SELECT partition_start, partition_end, version FROM cache_pipeline_state.warehouse_export
    WHERE warehouse = %s AND tenant = %s AND report = %s
"""
_DELETE_OVERLAPPED = """
    DELETE FROM cache_pipeline_state.warehouse_export
    WHERE warehouse = %s AND tenant = %s AND report = %s AND partition_start < %s AND partition_end > %s
"""
_INSERT = """
    INSERT INTO cache_pipeline_state.warehouse_export
        (warehouse, tenant, report, partition_start, partition_end, version, is_final, rows, exported_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


class PostgresExportRecords:
    """What was exported, in the table ``warehouse_export``."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        with lend_connection(self._pool, "the table of exports") as connection:
            yield connection

    @contextmanager
    def lock(self, target: ExportTarget) -> Generator[None]:
        """Keep other processes from the same export for the duration of the block.

        The lock belongs to a transaction that does nothing else, so it works behind a pooler too, and ends with the process.

        Raises:
            ExportRunning: Another process has it.
        """
        with self._connection() as connection:
            name = f"{target.warehouse} {target.tenant} {target.report}"
            locked = connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 1))", [name]).fetchone()
            if locked != (True,):
                raise ExportRunning(
                    f"another process exports {target.report} to {target.warehouse}", remedy="wait until it has ended"
                )
            yield

    def versions(self, target: ExportTarget) -> Mapping[Interval, str]:
        """Return the version of each exported partition."""
        with self._connection() as connection:
            rows = connection.execute(_SELECT, [target.warehouse, target.tenant, target.report]).fetchall()
        return {Interval(start, end): version for start, end, version in rows}

    def record(self, target: ExportTarget, partitions: Iterable[ExportedPartition], at: datetime) -> None:
        """Record partitions as exported, instead of those that they overlap."""
        key = [target.warehouse, target.tenant, target.report]
        with self._connection() as connection:
            for each in partitions:
                start, end = each.interval.start, each.interval.end
                connection.execute(_DELETE_OVERLAPPED, [*key, end, start])
                connection.execute(_INSERT, [*key, start, end, each.version, each.is_final, each.rows, at])


@contextmanager
def open_export_records(postgres_url: str) -> Generator[PostgresExportRecords]:
    """Open the record of exports; connect on first use, and close the connections at the end."""
    # One connection holds the lock, the other one reads and writes.
    with sync_connection_pool(postgres_url, "exports", 2, autocommit=False) as pool:
        yield PostgresExportRecords(pool)
