"""`history`: loading a day of a million rows into PostgreSQL, compared with raw COPY of the same rows into the same table.

Ours does what the pipeline does: under the series' lock and in one transaction it deletes the stored rows of the day, streams the
new rows from the temporary file that holds anything larger than a few megabytes, and extends coverage. The peer is COPY in
PostgreSQL's binary format, in one transaction, of bytes prepared beforehand; it deletes nothing, keeps no coverage and checks no types.

The table has its usual index and a million rows of an earlier day. Before each load the day is emptied and the table vacuumed.
Each contender loads the day, then loads it again in place of the million rows now stored. COPY cannot replace rows, so the peer
deletes them first. Rows per second are those of the median of several runs, ours and the peer's in turns, on a server with default settings.

Not measured: a server across a network, and several writers.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg.sql import SQL, Composed, Identifier

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate

_ROWS, _RUNS = 1_000_000, 3
_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
_DAY = timedelta(days=1)
_PEER = "raw COPY"
_REPORT = Report.model_validate(
    {
        "name": "conversation_details",
        "description": "Each conversation with its waiting and handling",
        "platform": "reportdata",
        "query_type": "conversation-details",
        "granularity": "PT1H",
        "group_by": ["conversationId", "queueId"],
        "metrics": ["offered", "answered", "waitMs", "handleMs"],
        "partition": "day",
        "start": _MONDAY.date(),
        "publish": {"tiers": ["history", "hot"]},
    }
)
_COLUMNS = (
    *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in _REPORT.group_by),
    *(Column(to_snake_case(name), ColumnKind.integer) for name in _REPORT.metrics),
)
_NAMES = SQL(", ").join(Identifier(name) for name in ("series", *to_arrow_schema(_COLUMNS).names))
_TABLE = SQL("history.conversation_details")
_SECOND_DAY = SQL("series = {} AND interval_start >= {}")


@dataclass(frozen=True)
class _Server:
    """A database with the table, and the rows to load."""

    url: str
    history: PostgresHistory
    rows: Rows
    body: bytes

    def ours(self) -> None:
        self.history.replace(_replacement(self.rows, _day(1)))

    def copy(self) -> None:
        self._copy(delete=False)

    def delete_and_copy(self) -> None:
        self._copy(delete=True)

    def _copy(self, *, delete: bool) -> None:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            if delete:
                cursor.execute(_delete_second_day())
            with cursor.copy(SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(_TABLE, _NAMES)) as copy:
                for start in range(0, len(self.body), 2**20):
                    copy.write(self.body[start : start + 2**20])

    def empty_day(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(_delete_second_day())
            connection.execute(SQL("VACUUM ANALYZE {}").format(_TABLE))
            connection.execute("CHECKPOINT")

    def seconds(self, load: Callable[[], None]) -> float:
        started = time.perf_counter()
        load()
        seconds = time.perf_counter() - started
        groups = self.history.groups_by_bucket(Series(_REPORT), _day(1))
        if sum(groups.values()) != _ROWS:
            raise BenchmarkError(f"the table has {sum(groups.values()):,} rows of {_ROWS:,}")
        return seconds


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: The table does not have the rows that were loaded.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # Redis is not needed; with a URL given, none is started.
            embedded_servers(Path(folder) / "servers", redis_url="redis://none") as servers,
        ):
            migrate(servers.postgres_url, [(_REPORT, _COLUMNS)])
            with open_history(servers.postgres_url) as history:
                progress("making rows")
                history.replace(_replacement(_make_rows(_day(0)), _day(0)))
                history.replace(_replacement(_make_rows(_day(1)), _day(1)))
                server = _Server(servers.postgres_url, history, _make_rows(_day(1)), _copy_out(servers.postgres_url))
                return Result("history", _measure_loads(server, progress))
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error


def _measure_loads(server: _Server, progress: ProgressCallback) -> tuple[Row, ...]:
    loads: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "ours": (server.ours, server.ours),
        _PEER: (server.copy, server.delete_and_copy),
    }
    into_empty: dict[str, list[float]] = {name: [] for name in loads}
    replacing: dict[str, list[float]] = {name: [] for name in loads}
    for run in range(_RUNS):
        for name, (load, reload) in loads.items():
            progress(f"run {run + 1} of {_RUNS}, {name}")
            server.empty_day()
            into_empty[name].append(server.seconds(load))
            replacing[name].append(server.seconds(reload))

    def row(what: str, seconds: dict[str, list[float]], target: Target | None) -> Row:
        rates = {name: _ROWS / statistics.median(taken) for name, taken in seconds.items()}
        return Row(what, rates.pop("ours"), "rows/s", rates, target=target)

    target = Target("ratio", ">=", 0.8)
    return (
        row(f"a new day of {_ROWS:,} rows", into_empty, target),
        row("the same day again, replacing its rows (peer: DELETE, then COPY)", replacing, target),
    )


def _delete_second_day() -> Composed:
    condition = _SECOND_DAY.format(Series(_REPORT).id, _day(1).start)
    return SQL("DELETE FROM {} WHERE {}").format(_TABLE, condition)


def _copy_out(url: str) -> bytes:
    condition = _SECOND_DAY.format(Series(_REPORT).id, _day(1).start)
    query = SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT binary)").format(_NAMES, _TABLE, condition)
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(bytes(block) for block in copy)


def _replacement(rows: Rows, day: Interval) -> Replacement:
    intervals = IntervalSet([day])
    return Replacement(
        Series(_REPORT), intervals, IntervalSet(), rows, day.end, (FetchTime(intervals, datetime.now(UTC)),)
    )


def _day(number: int) -> Interval:
    return Interval(_MONDAY + number * _DAY, _MONDAY + (number + 1) * _DAY)


def _make_rows(day: Interval) -> Rows:
    """Return rows with one conversation each, in order of hours."""
    spool = Spool(to_arrow_schema(_COLUMNS))
    rows_per_hour = _ROWS // 24 + 1
    random = np.random.default_rng(day.start.day)
    for number in range(24):
        count = min(rows_per_hour, _ROWS - number * rows_per_hour)
        start = day.start + number * timedelta(hours=1)
        columns: dict[str, Any] = {
            "interval_start": [start] * count,
            "interval_end": [start + timedelta(hours=1)] * count,
            "conversation_id": [f"{number:02x}{row:06x}-7c2e-4b5f-8a91-{row * 7_919:012x}" for row in range(count)],
            "queue_id": [f"{row % 40:08x}-5d1c-4a3e-9f60-2b7c8d9e0f1a" for row in range(count)],
            "offered": np.ones(count, np.int64),
            "answered": random.binomial(1, 0.93, count),
            "wait_ms": random.integers(0, 180_000, count),
            "handle_ms": random.integers(0, 900_000, count),
        }
        schema = to_arrow_schema(_COLUMNS)
        spool.append(pa.Table.from_arrays([pa.array(columns[each.name], each.type) for each in schema], schema=schema))
    return spool.rows()
