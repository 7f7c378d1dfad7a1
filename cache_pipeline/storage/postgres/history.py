"""The history tier: rows and their coverage in PostgreSQL, changed together or not at all.

Every method is one short transaction, and blocks; the engine calls them in threads.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.errors import DeclarationConflict, HistoryUnavailable
from cache_pipeline.query.completeness import ChunkResult, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import Column, arrow_schema
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool
from cache_pipeline.storage.coverage import Coverage, Fetched
from cache_pipeline.storage.postgres.connections import ConnectionPool
from cache_pipeline.storage.postgres.fetch_times import fetch_time_column, read_fetch_times, record_fetch_times
from cache_pipeline.storage.postgres.ledger import CLOSE_KEPT, LOST_CLAIMS, LeaseLost, LedgerClaim
from cache_pipeline.storage.postgres.ranges import bounds_as_json, intervals_of, multirange
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA, UNREACHABLE
from cache_pipeline.storage.postgres.verdicts import read_truncation_stats, record_chunks


@dataclass(frozen=True)
class Replacement:
    """New rows for some intervals of a series; whatever was held there before goes.

    Attributes:
        series: whose rows.
        final: intervals whose buckets lie before the watermark.
        provisional: intervals that are held, but not final.
        rows: exactly the rows of both, in the report's schema.
        watermark: what the vendor (or the report's settle time) said.
        fetched: as of when they are; together exactly the intervals.
        claims: the ledger's entries that the rows come from, while this process holds them.
    """

    series: Series
    final: IntervalSet
    provisional: IntervalSet
    rows: Rows
    watermark: datetime
    fetched: tuple[Fetched, ...]
    claims: tuple[LedgerClaim, ...] = ()

    @property
    def covered(self) -> IntervalSet:
        """All that the rows are the whole of."""
        return self.final | self.provisional


def _table(series: Series) -> Composable:
    return Identifier(HISTORY_SCHEMA, series.report.name)


_COVERAGE = SQL(
    """
    SELECT c.series, {complete}::text, {provisional}::text, c.watermark, {fetched}
    FROM cache_pipeline_state.coverage AS c WHERE c.series = ANY ({series})
    """
)
_COVER = SQL(
    """
    INSERT INTO cache_pipeline_state.coverage AS c
        (series, report, tenant, definition, final, provisional, watermark)
    VALUES ({series}, {report}, {tenant}, {definition}::jsonb,
            {final}, {provisional}, {watermark})
    ON CONFLICT (series) DO UPDATE SET
        report = excluded.report,
        final = c.final - excluded.provisional + excluded.final,
        provisional = c.provisional - excluded.final + excluded.provisional,
        watermark = greatest(c.watermark, excluded.watermark)
    """
)


def _server(postgres_url: str) -> str:
    try:
        return f"PostgreSQL at {conninfo_to_dict(postgres_url).get('host', 'the default address')}"
    except psycopg.Error:
        return "PostgreSQL, by a URL that does not parse,"


@contextmanager
def open_history(postgres_url: str) -> Generator[History]:
    """History on a server; its connections are closed at the end.

    Raises:
        HistoryUnavailable: the server cannot be reached.
    """
    try:
        connection = dbapi.connect(postgres_url)
    except dbapi.OperationalError:
        # The driver quotes a URL that it cannot read, password and all.
        raise HistoryUnavailable(f"{_server(postgres_url)} {UNREACHABLE}") from None
    with connection, closing(ConnectionPool(connection)) as connections:
        yield History(connections)


def _refuse_lost(cursor: Any, claims: Sequence[LedgerClaim]) -> None:
    if not claims:
        return
    lost = SQL(LOST_CLAIMS).format(
        ids=Literal([claim.id for claim in claims]), fences=Literal([claim.fence for claim in claims])
    )
    cursor.execute(lost.as_string())
    if cursor.fetchone()[0]:
        raise LeaseLost("another process has taken over what these rows answer")


_UNDEFINED_TABLE = "42P01"
#: As much as a socket takes at once, so that the server stores some rows while the driver writes out the next.
_ROWS_SENT_AT_ONCE = 1024
#: A megabyte at a time; the driver's own measure is sixteen.
_SMALL_BATCHES = {"adbc.postgresql.batch_size_hint_bytes": str(2**20)}


def _load(cursor: Any, rows: Rows, series: Series) -> None:
    """Stream rows into the series' table."""
    schema = rows.schema.append(pa.field("series", pa.string(), nullable=False))
    broken: list[Exception] = []

    def batches() -> Generator[pa.RecordBatch]:
        try:
            for batch in rows.batches():
                for start in range(0, batch.num_rows, _ROWS_SENT_AT_ONCE):
                    few = batch.slice(start, _ROWS_SENT_AT_ONCE)
                    yield pa.RecordBatch.from_arrays([*few.columns, pa.repeat(series.id, few.num_rows)], schema=schema)
        except Exception as error:
            broken.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    try:
        cursor.adbc_ingest(series.report.name, reader, mode="append", db_schema_name=HISTORY_SCHEMA)
    except dbapi.Error as error:
        # The driver buries what broke the stream in words of its own.
        raise broken[0] if broken else error from None


def _refuse_other_types(cursor: Any, series: Series, schema: pa.Schema) -> None:
    """The driver loads bytes as they are: whole numbers into a column of floats would be other numbers, silently."""
    columns = SQL(", ").join(map(Identifier, schema.names))
    cursor.execute(SQL("SELECT {} FROM {} LIMIT 0").format(columns, _table(series)).as_string())
    for field, held in zip(schema, cursor.fetch_arrow_table().schema, strict=True):
        if field.type != held.type:
            raise DeclarationConflict(
                f"column {field.name} of history.{series.report.name} holds {held.type}, and the report's rows "
                f"{field.type}: give the report another name, or mend the column's type"
            )


class History:
    """Rows of every report in ``history.<report>``, and what of each series is covered."""

    def __init__(self, connections: ConnectionPool) -> None:
        """Keep what transactions are made on."""
        self._connections = connections

    @contextmanager
    def _transaction(self) -> Generator[Any]:
        try:
            with self._connections.transaction() as cursor:
                yield cursor
        except dbapi.ProgrammingError as error:
            if error.sqlstate != _UNDEFINED_TABLE:
                raise
            raise HistoryUnavailable(
                "PostgreSQL lacks a table of history: run `cache-pipeline migrate` for the reports declared now"
            ) from error

    def coverage(self, series: Series, around: Interval | None = None) -> Coverage:
        """What is held of a series; of an interval ``around`` which somebody asks, also when its final parts were fetched."""
        return self.coverages([series], around)[series.id]

    def coverages(self, series: Sequence[Series], around: Interval | None = None) -> dict[str, Coverage]:
        """The same of several series, by their ids, in one read."""
        query = _COVERAGE.format(
            complete=bounds_as_json(Identifier("c", "final")),
            provisional=bounds_as_json(Identifier("c", "provisional")),
            fetched=fetch_time_column(around),
            series=Literal([each.id for each in series]),
        )
        with self._transaction() as cursor:
            cursor.execute(query.as_string())
            rows = cursor.fetchall()
        return {each.id: Coverage() for each in series} | {
            name: Coverage(intervals_of(complete), intervals_of(provisional), watermark, read_fetch_times(fetched))
            for name, complete, provisional, watermark, fetched in rows
        }

    def read(self, series: Series, interval: Interval, columns: Sequence[Column]) -> pa.Table:
        """Rows of an interval in the report's schema, in order of bucket and group; for few, see ``stream``."""
        with self.stream(series, interval, columns) as rows:
            return rows.read_all()

    def rows(self, series: Series, intervals: Iterable[Interval], columns: Sequence[Column]) -> Rows:
        """Rows of some intervals, copied out of the database; however many, few of them are in memory."""
        spool = Spool(arrow_schema(columns))
        for interval in intervals:
            with self.stream(series, interval, columns) as rows:
                for batch in rows:
                    spool.append(batch)
        return spool.rows()

    @contextmanager
    def stream(self, series: Series, interval: Interval, columns: Sequence[Column]) -> Generator[pa.RecordBatchReader]:
        """Rows of an interval in the report's schema, in order of bucket and group, as they come from the server."""
        schema = arrow_schema(columns)
        dimensions = [field.name for field in schema if pa.types.is_string(field.type)]
        query = SQL(
            "SELECT {columns} FROM {table} WHERE series = {series}"
            " AND interval_start >= {start} AND interval_start < {end} ORDER BY {order}"
        ).format(
            columns=SQL(", ").join(map(Identifier, schema.names)),
            table=_table(series),
            series=Literal(series.id),
            start=Literal(interval.start),
            end=Literal(interval.end),
            order=SQL(", ").join(
                [Identifier("interval_start"), *(SQL('{} COLLATE "C"').format(Identifier(name)) for name in dimensions)]
            ),
        )
        with self._transaction() as cursor:
            cursor.adbc_statement.set_options(**_SMALL_BATCHES)
            cursor.execute(query.as_string())
            batches = (batch.cast(schema) for batch in cursor.fetch_record_batch())
            yield pa.RecordBatchReader.from_batches(schema, batches)

    def replace(self, replacement: Replacement) -> None:
        """Put rows in place of those held for the same intervals, and extend coverage, in one transaction.

        Writers of one series wait for each other; readers see all of the old or all of the new. The ledger's entries
        that the rows answer are closed with them.

        Raises:
            HeldNewer: part of what is held was asked for later than these rows.
            LeaseLost: another process has taken over an entry that the rows come from.
            DeclarationConflict: a column of the table is not of the type that the rows have.
        """
        series = replacement.series
        covered = replacement.covered
        with self._transaction() as cursor:
            cursor.execute(
                SQL("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))").format(Literal(series.id)).as_string()
            )
            _refuse_lost(cursor, replacement.claims)
            record_fetch_times(cursor, series, replacement.fetched)
            for part in covered:
                delete = SQL(
                    "DELETE FROM {table} WHERE series = {series} AND interval_start >= {start} AND interval_start < {end}"
                ).format(
                    table=_table(series),
                    series=Literal(series.id),
                    start=Literal(part.start),
                    end=Literal(part.end),
                )
                cursor.execute(delete.as_string())
            if replacement.rows.num_rows:
                _refuse_other_types(cursor, series, replacement.rows.schema)
                _load(cursor, replacement.rows, series)
            cover = _COVER.format(
                series=Literal(series.id),
                report=Literal(series.report.name),
                tenant=Literal(series.tenant),
                definition=Literal(json.dumps(series.canonical_form)),
                final=multirange(replacement.final),
                provisional=multirange(replacement.provisional),
                watermark=Literal(replacement.watermark),
            )
            cursor.execute(cover.as_string())
            close = SQL(CLOSE_KEPT).format(
                series=Literal(series.id),
                covered=multirange(covered),
                ids=Literal([claim.id for claim in replacement.claims]),
            )
            cursor.execute(close.as_string())

    def record_chunks(self, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
        """Note how upstream answers were judged, and what their lengths teach."""
        if chunks:
            with self._transaction() as cursor:
                record_chunks(cursor, series, chunks, now)

    def lengths(self, series: Series, now: datetime) -> TruncationStats:
        """What is known of the lengths of a series' answers."""
        with self._transaction() as cursor:
            return read_truncation_stats(cursor, series, now)

    def chunk_cost(self, series: Series, latest: int = 50) -> tuple[float, float] | None:
        """Requests and seconds that the latest upstream queries of a series took in the mean; None where none is noted."""
        query = SQL(
            "SELECT avg(requests)::float8, avg(duration_seconds)::float8 FROM (SELECT requests, duration_seconds FROM cache_pipeline_state.chunk_result"
            " WHERE series = {series} ORDER BY fetched_at DESC, id DESC LIMIT {latest}) AS latest"
        ).format(series=Literal(series.id), latest=Literal(latest))
        with self._transaction() as cursor:
            cursor.execute(query.as_string())
            calls, seconds = cursor.fetchone()
        return None if calls is None else (calls, seconds)

    def groups_by_bucket(self, series: Series, interval: Interval) -> dict[datetime, int]:
        """How many groups each bucket of an interval has; buckets without rows are left out."""
        return self._by_bucket(SQL("count(*)"), series, interval)

    def totals_by_bucket(self, series: Series, interval: Interval, column: str | None) -> dict[datetime, float]:
        """Sum of a column in each bucket of an interval, or its rows where no column is named; buckets without rows are left out."""
        what = SQL("sum({})").format(Identifier(column)) if column else SQL("count(*)")
        return self._by_bucket(SQL("coalesce({}, 0)::float8").format(what), series, interval)

    def _by_bucket(self, what: Composable, series: Series, interval: Interval) -> dict[datetime, Any]:
        query = SQL(
            "SELECT interval_start, {what} FROM {table} WHERE series = {series}"
            " AND interval_start >= {start} AND interval_start < {end} GROUP BY 1"
        ).format(
            what=what,
            table=_table(series),
            series=Literal(series.id),
            start=Literal(interval.start),
            end=Literal(interval.end),
        )
        with self._transaction() as cursor:
            cursor.execute(query.as_string())
            return dict(cursor.fetchall())
