"""The history tier: rows and their coverage in PostgreSQL, changed together or not at all.

Every method is one short transaction and blocks the calling thread; the report service calls them in threads.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from typing import Any, TypeVar

from adbc_driver_manager import Error, ProgrammingError
from psycopg.sql import SQL, Composable, Identifier, Literal

from cache_pipeline.errors import DeclarationConflict, HistoryUnavailable, ReplicaUnavailable
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.completeness import ChunkResult, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import Column, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import KnownThen, Replacement
from cache_pipeline.storage.ports.ledger import LeaseLost, LedgerClaim
from cache_pipeline.storage.postgres.chunk_results import read_sent_rows, read_truncation_stats, record_chunks
from cache_pipeline.storage.postgres.connections import ConnectionPool
from cache_pipeline.storage.postgres.coverage_queries import read_coverages, read_coverages_with_cost
from cache_pipeline.storage.postgres.fetch_times import record_fetch_times, refuse_older
from cache_pipeline.storage.postgres.groups import same_group
from cache_pipeline.storage.postgres.ledger import CLOSE_STORED, LOST_CLAIMS
from cache_pipeline.storage.postgres.metric_coverage import take_over_metrics
from cache_pipeline.storage.postgres.ranges import multirange, text_array
from cache_pipeline.storage.postgres.replica import ReadReplica
from cache_pipeline.storage.postgres.schemas import HISTORY_SCHEMA
from cache_pipeline.storage.postgres.series_lock import series_lock
from cache_pipeline.storage.postgres.versions import (
    keep_lost_finality,
    keep_superseded,
    read_before_image,
    read_known,
    rows_as_of,
    stop_time_travel,
)

logger = logging.getLogger(__name__)
_Read = TypeVar("_Read")

#: Counting this many rows takes a tenth of a second; counting all rows of a large series would take many.
_MAX_EXACT_ROWS = 1_000_000
_UNDEFINED_TABLE = "42P01"
#: As many rows as a socket takes at once, so that the server stores some while the driver serialises the next.
_ROWS_PER_BATCH = 1024
#: Read a megabyte at a time; the driver's default is sixteen.
_BATCH_BYTES = 2**20

_EXTEND_COVERAGE = SQL(
    """
    {first}INSERT INTO cache_pipeline_state.coverage AS c
        (series, metrics, report, tenant, definition, final, provisional, unverified, unexpected, watermark)
    VALUES ({series}, {metrics}, {report}, {tenant}, {definition}::jsonb,
            {final}, {provisional}, {unverified}, {unexpected}, {watermark})
    ON CONFLICT (series, metrics) DO UPDATE SET
        report = excluded.report,
        final = c.final - excluded.provisional + excluded.final,
        provisional = c.provisional - excluded.final + excluded.provisional,
        unverified = c.unverified - excluded.final - excluded.provisional + excluded.unverified,
        unexpected = c.unexpected - excluded.final - excluded.provisional + excluded.unexpected,
        watermark = greatest(c.watermark, excluded.watermark)
    """
)


@contextmanager
def open_history(postgres_url: str, read_url: str | None = None) -> Generator[PostgresHistory]:
    """Yield the history of a server, which is connected to when it is first used; close the connections at the end.

    Args:
        postgres_url: The primary.
        read_url: A replica of it, from which rows are read while it is not behind.
    """
    with closing(ConnectionPool(postgres_url)) as connections, ExitStack() as stack:
        replica = stack.enter_context(closing(ReadReplica(read_url))) if read_url else None
        yield PostgresHistory(connections, replica)


class PostgresHistory:
    """Rows of every report in ``history.<report>``, and the coverage of each series.

    Only the rows themselves are read from a replica, and only once it has replayed what the primary had committed when the read
    began. So they are as new as the coverage that was read before them. Coverage and everything else is read from the primary.
    """

    def __init__(self, connections: ConnectionPool, replica: ReadReplica | None = None) -> None:
        self._connections = connections
        self._replica = replica

    @contextmanager
    def _transaction(self) -> Generator[Any]:
        try:
            with self._connections.transaction() as cursor:
                yield cursor
        except ProgrammingError as error:
            if error.sqlstate != _UNDEFINED_TABLE:
                raise
            raise HistoryUnavailable(
                "PostgreSQL lacks a table of history: run `cache-pipeline migrate` with the current reports"
            ) from error

    @contextmanager
    def _reading_rows(self) -> Generator[Any]:
        """Yield a cursor of the replica if it can be used, else of the primary."""
        if self._replica is not None:
            with self._replica.transaction(self._read_log_position) as cursor:
                if cursor is not None:
                    yield cursor
                    return
        with self._transaction() as cursor:
            yield cursor

    def _read_log_position(self) -> str:
        with self._transaction() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            (position,) = cursor.fetchone()
        return position

    def coverage(self, series: Series, interval: Interval | None = None) -> Coverage:
        """Read the coverage of a series, including the fetch times of the final parts of `interval`."""
        return self.coverages([series], interval)[series.id]

    def coverages(self, series: Sequence[Series], interval: Interval | None = None) -> dict[str, Coverage]:
        """Read the same for several series in one query; return it by the series' ids."""
        with self._transaction() as cursor:
            return read_coverages(cursor, series, interval)

    def coverages_with_cost(
        self, series: Sequence[Series], interval: Interval | None = None, *, cost_of: Series
    ) -> tuple[dict[str, Coverage], tuple[float, float] | None]:
        """Read the same for several series, and what the latest upstream queries of one series cost, in one query."""
        with self._transaction() as cursor:
            return read_coverages_with_cost(cursor, series, interval, cost_of)

    def known_as_of(self, series: Series, interval: Interval, as_of: datetime) -> KnownThen:
        """Read which part of an interval was final at an instant, for all metrics of the series."""
        with self._transaction() as cursor:
            return read_known(cursor, series, interval, as_of)

    def read(
        self,
        series: Series,
        interval: Interval,
        columns: Sequence[Column],
        as_of: datetime | None = None,
        max_rows: int | None = None,
    ) -> pa.Table:
        """Read the rows of an interval into memory, in the report's schema, ordered by bucket and group.

        With `as_of`, read them as they were known at that instant; all of the interval must have been final then. With
        `max_rows`, stop once there are more than that.
        """

        def read() -> pa.Table:
            with self._stream(series, interval, columns, as_of) as rows:
                if max_rows is None:
                    return rows.read_all()
                return pa.Table.from_batches(_take_beyond(rows, max_rows), rows.schema)

        return _read_again_from_primary(read)

    def rows(self, series: Series, intervals: Iterable[Interval], columns: Sequence[Column]) -> Rows:
        """Copy the rows of some intervals out of the database. However many there are, few of them are in memory."""
        wanted = tuple(intervals)

        def copy() -> Rows:
            spool = Spool(to_arrow_schema(columns))
            for interval in wanted:
                with self._stream(series, interval, columns) as rows:
                    for batch in rows:
                        spool.append(batch)
            return spool.rows()

        return _read_again_from_primary(copy)

    @contextmanager
    def _stream(
        self, series: Series, interval: Interval, columns: Sequence[Column], as_of: datetime | None = None
    ) -> Generator[pa.RecordBatchReader]:
        """Stream the rows of an interval, as `read`."""
        schema = to_arrow_schema(columns)
        dimensions = [field.name for field in schema if pa.types.is_string(field.type)]
        # A group that the vendor left out of an answer of some metrics has no figures of them; if it was left out of all, it is
        # not a row of this series. Figures that may be null in any answer say nothing of that.
        figures = [
            field
            for field in schema
            if not series.report.rows and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
        ]
        is_sent = SQL("")
        if any(not field.nullable for field in figures):
            is_any = SQL(" OR ").join(SQL("{} IS NOT NULL").format(Identifier(field.name)) for field in figures)
            is_sent = SQL(" AND ({})").format(is_any)
        rows, source = _rows_of(series, interval), _table(series)
        if as_of is not None:
            names = SQL(", ").join(map(Identifier, schema.names))
            source = SQL("({}) AS known").format(rows_as_of(series.report, names, rows, Literal(as_of)))
            rows = SQL("true")
        query = SQL("SELECT {columns} FROM {table} WHERE {rows}{is_sent} ORDER BY {order}").format(
            is_sent=is_sent,
            columns=SQL(", ").join(
                Identifier(field.name)
                if field.nullable or pa.types.is_timestamp(field.type)
                else SQL("coalesce({0}, 0) AS {0}").format(Identifier(field.name))
                for field in schema
            ),
            table=source,
            rows=rows,
            order=SQL(", ").join(
                [Identifier("interval_start"), *(SQL('{} COLLATE "C"').format(Identifier(name)) for name in dimensions)]
            ),
        )
        with self._reading_rows() as cursor:
            cursor.execute(query.as_string(), batch_bytes=_BATCH_BYTES)
            batches = (batch.cast(schema) for batch in cursor.batches())
            yield pa.RecordBatchReader.from_batches(schema, batches)

    def replace(self, replacement: Replacement) -> None:
        """Replace the figures stored for some intervals and extend coverage, in one transaction.

        Only the series' own metrics are replaced. Where history holds other metrics of the same rows, these keep their figures:
        the rows are merged by bucket and group, and a row without any figure is deleted.

        Writers of one series wait for each other; readers see either all of the old rows or all of the new. The ledger
        entries that the rows answer are closed in the same transaction.

        Raises:
            NewerDataPresent: Part of what is stored was requested later than these rows, or has been doubted since.
            LeaseLost: Another process has taken over an entry that the rows come from.
            DeclarationConflict: A column of the table has another type than the rows.
        """
        series, keep = replacement.series, replacement.series.report.time_travel
        covered = replacement.covered
        with self._transaction() as cursor:
            cursor.execute(series_lock(series.id).as_string())
            _refuse_lost_claims(cursor, replacement.claims)
            refuse_older(cursor, replacement)
            before = read_before_image(cursor, series, covered) if keep and covered else None
            others = take_over_metrics(cursor, series, covered)
            record_fetch_times(cursor, series, replacement.fetch_times)
            if replacement.rows.num_rows:
                _refuse_other_types(cursor, series, replacement.rows.schema)
            beside = covered & others
            for part in covered - beside:
                cursor.execute(
                    SQL("DELETE FROM {} WHERE {}").format(_table(series), _rows_of(series, part)).as_string()
                )
            for part in beside:
                _merge(cursor, replacement.rows.within(part), series, part)
            alone = [replacement.rows.within(part) for part in covered - beside] if beside else [replacement.rows]
            for rows in alone:
                if rows.num_rows:
                    ingest(cursor, rows, series)
            extend = _EXTEND_COVERAGE.format(
                first=SQL("") if keep else SQL("WITH stopped AS ({}) ").format(stop_time_travel(series)),
                series=Literal(series.id),
                metrics=text_array(series.report.metrics),
                report=Literal(series.report.name),
                tenant=Literal(series.tenant),
                definition=Literal(json.dumps(series.stored_form)),
                final=multirange(replacement.final),
                provisional=multirange(replacement.provisional),
                unverified=multirange(replacement.second_looks.get(SecondLook.unverified, IntervalSet())),
                unexpected=multirange(replacement.second_looks.get(SecondLook.unexpected, IntervalSet())),
                watermark=SQL("{}::timestamptz").format(Literal(replacement.watermark)),
            )
            cursor.execute(extend.as_string())
            if keep and before:
                keep_superseded(cursor, series, before, replacement, keep)
            close = SQL(CLOSE_STORED).format(
                query=Literal(series.query_id),
                stored_series=Literal(series.id),
                metrics=text_array(series.report.metrics),
                covered=multirange(covered),
                ids=Literal([claim.id for claim in replacement.claims]),
            )
            cursor.execute(close.as_string())

    def record_chunks(self, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
        """Store the results of some chunks, and what their lengths say about the vendor's row limit."""
        if chunks:
            with self._transaction() as cursor:
                record_chunks(cursor, series, chunks, now)

    def truncation_stats(self, series: Series, now: datetime) -> TruncationStats:
        """Read what is known about the lengths of a series' answers."""
        with self._transaction() as cursor:
            return read_truncation_stats(cursor, series, now)

    def reopen(self, series: Series, ended: Sequence[tuple[Interval, str]], end_column: str) -> IntervalSet:
        """Make the final buckets provisional that hold a row without an end, of those rows that have ended since.

        See the port for the arguments.
        """
        key = to_snake_case(series.report.group_by[0])
        find = SQL(
            "SELECT DISTINCT interval_start, interval_end FROM {table} WHERE series = {series} AND {end} IS NULL"
            " AND interval_start = ANY ({starts}::timestamptz[]) AND {key} = ANY ({keys}::text[])"
        ).format(
            table=_table(series),
            series=Literal(series.id),
            end=Identifier(end_column),
            starts=Literal([bucket.start for bucket, _ in ended]),
            key=Identifier(key),
            keys=Literal([name for _, name in ended]),
        )
        with self._transaction() as cursor:
            cursor.execute(series_lock(series.id).as_string())
            cursor.execute(find.as_string())
            buckets = IntervalSet(Interval(start, end) for start, end in cursor.fetchall())
            if buckets:
                if series.report.time_travel:
                    keep_lost_finality(cursor, series, buckets)
                update = SQL(
                    "UPDATE cache_pipeline_state.coverage SET provisional = provisional + final * {buckets},"
                    " final = final - {buckets} WHERE series = {series}"
                ).format(buckets=multirange(buckets), series=Literal(series.id))
                cursor.execute(update.as_string())
        if buckets:
            logger.info("%s: rows of %s have ended since; they are fetched again", series.report.name, buckets)
        return buckets

    def groups_by_bucket(self, series: Series, interval: Interval, columns: Sequence[str] = ()) -> dict[datetime, int]:
        """Count the groups in each bucket of an interval, as the vendor sent them; buckets without rows are omitted.

        With `columns`, count only the groups that have a figure other than zero in one of them.
        """
        count = SQL("count(*)")
        if columns:
            figures = SQL(" OR ").join(SQL("{} <> 0").format(Identifier(name)) for name in columns)
            count = SQL("count(*) FILTER (WHERE {})").format(figures)
        groups = self._by_bucket(count, series, interval)
        with self._transaction() as cursor:
            return groups | read_sent_rows(cursor, series, interval)

    def count_rows(self, series: Series) -> int:
        """Count the rows of a series: up to a million exactly, beyond that as the planner estimates them."""
        select = SQL("SELECT FROM {table} WHERE series = {series}").format(
            table=_table(series), series=Literal(series.id)
        )
        with self._transaction() as cursor:
            count = SQL("SELECT count(*) FROM ({select} LIMIT {limit}) AS counted")
            cursor.execute(count.format(select=select, limit=Literal(_MAX_EXACT_ROWS)).as_string())
            (exact,) = cursor.fetchone()
            if exact < _MAX_EXACT_ROWS:
                return exact
            cursor.execute(SQL("EXPLAIN (FORMAT JSON) {select}").format(select=select).as_string())
            (explained,) = cursor.fetchone()
        return max(exact, json.loads(explained)[0]["Plan"]["Plan Rows"])

    def totals_by_bucket(self, series: Series, interval: Interval, column: str | None) -> dict[datetime, float]:
        """Sum a column in each bucket of an interval, or count rows without one; buckets without rows are omitted."""
        total = SQL("sum({})").format(Identifier(column)) if column else SQL("count(*)")
        return self._by_bucket(SQL("coalesce({}, 0)::float8").format(total), series, interval)

    def _by_bucket(self, aggregate: Composable, series: Series, interval: Interval) -> dict[datetime, Any]:
        query = SQL("SELECT interval_start, {aggregate} FROM {table} WHERE {rows} GROUP BY 1").format(
            aggregate=aggregate, table=_table(series), rows=_rows_of(series, interval)
        )
        with self._transaction() as cursor:
            cursor.execute(query.as_string())
            return dict(cursor.fetchall())


def _read_again_from_primary(read: Callable[[], _Read]) -> _Read:
    """Read, and once more if the replica fails meanwhile: it is then not used for some time, so that the primary is read."""
    try:
        return read()
    except ReplicaUnavailable:
        return read()


def _take_beyond(rows: Iterable[pa.RecordBatch], max_rows: int) -> list[pa.RecordBatch]:
    """Return the first batches, up to the one with which there are more rows than a number."""
    batches: list[pa.RecordBatch] = []
    count = 0
    for batch in rows:
        batches.append(batch)
        count += batch.num_rows
        if count > max_rows:
            break
    return batches


def _table(series: Series) -> Composable:
    return Identifier(HISTORY_SCHEMA, series.report.name)


def _refuse_lost_claims(cursor: Any, claims: Sequence[LedgerClaim]) -> None:
    if not claims:
        return
    query = SQL(LOST_CLAIMS).format(
        ids=Literal([claim.id for claim in claims]), fences=Literal([claim.fence for claim in claims])
    )
    cursor.execute(query.as_string())
    if cursor.fetchone()[0]:
        raise LeaseLost("another process has taken over the query that these rows answer")


def _rows_of(series: Series, interval: Interval) -> Composable:
    """Return the condition for the rows of a series whose bucket starts inside an interval."""
    return SQL("series = {} AND interval_start >= {} AND interval_start < {}").format(
        Literal(series.id), Literal(interval.start), Literal(interval.end)
    )


def _merge(cursor: Any, rows: Rows, series: Series, part: Interval) -> None:
    """Replace the figures of the series' metrics in the rows of an interval, and keep those of other metrics."""
    schema, table, new = rows.schema, _table(series), Identifier("incoming")
    keys = [field.name for field in schema if pa.types.is_timestamp(field.type) or pa.types.is_string(field.type)]
    figures = [name for name in schema.names if name not in keys]
    cursor.execute(SQL("SELECT * FROM {} LIMIT 0").format(table).as_string())
    all_figures = [
        field.name
        for field in cursor.batches().schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    assign = SQL(", ").join
    values: dict[str, Composable] = {
        "table": table,
        "new": new,
        "rows": _rows_of(series, part),
        "same": same_group(series.report, "t", "i"),
        "cleared": assign(SQL("{} = NULL").format(Identifier(name)) for name in figures),
        "figures": assign(SQL("{0} = i.{0}").format(Identifier(name)) for name in figures),
        "columns": SQL(", ").join(map(Identifier, schema.names)),
        "series": Literal(series.id),
        "any": SQL(" OR ").join(SQL("{} IS NOT NULL").format(Identifier(name)) for name in figures),
        "none": SQL(" AND ").join(SQL("{} IS NULL").format(Identifier(name)) for name in all_figures),
    }
    ingest(cursor, rows, series, into="incoming")
    for statement in (
        "UPDATE {table} SET {cleared} WHERE {rows} AND ({any})",
        "UPDATE {table} AS t SET {figures} FROM {new} AS i WHERE t.series = {series} AND {same}",
        "INSERT INTO {table} (series, {columns}) SELECT {series}, {columns} FROM {new} AS i"
        " WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.series = {series} AND {same})",
        "DELETE FROM {table} WHERE {rows} AND {none}",
        "DROP TABLE {new}",
    ):
        cursor.execute(SQL(statement).format(**values).as_string())


def ingest(cursor: Any, rows: Rows, series: Series, into: str | None = None) -> None:
    """Stream rows into the series' table, or into a new temporary one without the series' id."""
    schema = rows.schema if into else rows.schema.append(pa.field("series", pa.string(), nullable=False))
    stream_errors: list[Exception] = []

    def batches() -> Generator[pa.RecordBatch]:
        try:
            for batch in rows.batches():
                for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                    part = batch.slice(start, _ROWS_PER_BATCH)
                    ids = [] if into else [pa.repeat(series.id, part.num_rows)]
                    yield pa.RecordBatch.from_arrays([*part.columns, *ids], schema=schema)
        except Exception as error:
            stream_errors.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    try:
        if into:
            cursor.ingest(into, reader)
        else:
            cursor.ingest(series.report.name, reader, schema=HISTORY_SCHEMA)
    except Error as error:
        # The driver wraps an error of the stream in a message of its own, so raise the original.
        raise stream_errors[0] if stream_errors else error from None


def _refuse_other_types(cursor: Any, series: Series, schema: pa.Schema) -> None:
    """Refuse rows whose types differ from the table's.

    The driver loads bytes as they are: integers loaded into a column of floats would silently become other numbers.
    """
    columns = SQL(", ").join(map(Identifier, schema.names))
    cursor.execute(SQL("SELECT {} FROM {} LIMIT 0").format(columns, _table(series)).as_string())
    for column, stored in zip(schema, cursor.batches().schema, strict=True):
        if column.type != stored.type:
            raise DeclarationConflict(
                f"column {column.name} of history.{series.report.name} has type {stored.type}, and the report's rows "
                f"have {column.type}: give the report another name, or change the column's type"
            )
