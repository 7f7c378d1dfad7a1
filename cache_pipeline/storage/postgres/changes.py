"""Which final rows were replaced, with their figures before and after, and what replaced them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier, Literal

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import dimension_names
from cache_pipeline.query.series import Series
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, VERSIONS_SCHEMA
from cache_pipeline.storage.postgres.sync_pool import SyncPool, lend_connection, sync_connection_pool

_SELECT = SQL(
    """
    WITH image AS (
        SELECT {key}, jsonb_build_object({figures}) AS figures, known_until, is_absence, fetched_at, refetched_at
        FROM {versions} WHERE {rows}
        UNION ALL
        SELECT {key}, jsonb_build_object({figures}), 'infinity', false, NULL, NULL FROM {table} WHERE {rows}
    ), change AS (
        SELECT *, lead(figures) OVER following AS later, lead(is_absence) OVER following AS is_gone
        FROM image WINDOW following AS (PARTITION BY {key} ORDER BY known_until)
    )
    SELECT interval_start, jsonb_build_object({dimensions}), known_until, fetched_at, refetched_at,
           CASE WHEN NOT is_absence THEN figures END, CASE WHEN NOT coalesce(is_gone, true) THEN later END,
           (SELECT max(q.lane) FROM cache_pipeline_state.upstream_query AS q
            WHERE q.report = {report} AND q.requested_at = change.refetched_at)
    FROM change WHERE known_until >= {since} AND known_until < 'infinity'
    ORDER BY known_until, interval_start, {key} LIMIT {limit}
    """
)


@dataclass(frozen=True)
class RowChange:
    """One replacement of one row.

    Attributes:
        bucket: Start of the bucket.
        group: The dimensions.
        known_until: When the row was replaced.
        fetched_at: When it had been fetched last.
        refetched_at: When what replaced it was fetched.
        before: Its figures; None if there was no such row.
        after: Those that replaced them; None if the row was deleted.
        lane: The lane of the fetch that replaced it; None if the ledger does not have it any more.
    """

    bucket: datetime
    group: Mapping[str, Any]
    known_until: datetime
    fetched_at: datetime | None
    refetched_at: datetime | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    lane: str | None


class ChangeLog:
    """The replaced rows of the reports that keep them."""

    def __init__(self, pool: SyncPool) -> None:
        self._pool = pool

    @contextmanager
    def _connection(self) -> Generator[Connection[TupleRow]]:
        with lend_connection(self._pool, "a table of versions") as connection:
            yield connection

    def changes(
        self, series: Series, interval: Interval, figures: Sequence[str], since: datetime, limit: int
    ) -> list[RowChange]:
        """Return the changes of an interval's rows since an instant, the oldest first.

        Args:
            series: The series.
            interval: The interval.
            figures: The columns to compare.
            since: The instant.
            limit: The most changes.
        """
        report = series.report
        dimensions = dimension_names(report)
        query = _SELECT.format(
            key=SQL(", ").join(map(Identifier, ("interval_start", *dimensions))),
            figures=_pairs(figures),
            dimensions=_pairs(dimensions),
            versions=Identifier(VERSIONS_SCHEMA, report.name),
            table=Identifier(HISTORY_SCHEMA, report.name),
            rows=SQL("series = {} AND interval_start >= {} AND interval_start < {}").format(
                Literal(series.id), Literal(interval.start), Literal(interval.end)
            ),
            report=Literal(report.name),
            since=Literal(since),
            limit=Literal(limit),
        )
        with self._connection() as connection:
            rows = connection.execute(query).fetchall()
        return [
            RowChange(bucket, group, until, fetched, refetched, before, after, lane)
            for bucket, group, until, fetched, refetched, before, after, lane in rows
            if before != after
        ]


def _pairs(names: Sequence[str]) -> Composed:
    return SQL(", ").join(SQL("{}, {}").format(Literal(name), Identifier(name)) for name in names)


@contextmanager
def open_changes(postgres_url: str) -> Generator[ChangeLog]:
    """Open the replaced rows of a server; connect on first use, and close the connection at the end."""
    with sync_connection_pool(postgres_url, "changes", 1, autocommit=True) as pool:
        yield ChangeLog(pool)
