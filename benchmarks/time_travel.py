"""`time-travel`: storage of a month with restatements that keeps superseded figures, against one that keeps none.

A report by queue and medium, by hour, is stored day by day. On each of the three following days the day is stored again, with
other figures in a share of its rows, and a few rows more or less, as vendors correct them. The peer is the same report
without `time_travel`. Sizes are those of all tables and indexes of each report, after VACUUM FULL, so that dead rows count for neither.
"""

import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg.sql import SQL, Identifier

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate

_DAYS, _REFETCHES, _GROUPS = 30, 3, 120
_RESTATED_SHARE, _RESTATED_ROWS = 0.03, 5
_START = datetime(2026, 1, 1, tzinfo=UTC)
_METRICS = ("nOffered", "tAnswered", "tHandle", "tTalk", "tAcw", "nTransferred")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_TARGET = 1.15


def _report(name: str, time_travel: str | None) -> Report:
    return Report.model_validate(
        {
            "name": name,
            "description": "Figures by queue and medium, by hour",
            "platform": "genesys",
            "query_type": "conversations",
            "granularity": "PT1H",
            "group_by": ["queueId", "mediaType"],
            "metrics": _METRICS,
            "partition": "day",
            "start": _START.date(),
            "time_travel": time_travel,
        }
    )


def _columns(report: Report) -> tuple[Column, ...]:
    return (
        *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in report.group_by),
        *(Column(to_snake_case(name), ColumnKind.integer) for name in report.metrics),
    )


def _month(report: Report, history: PostgresHistory) -> datetime:
    """Store a month with its restatements, the same of every report; return an instant before the first of them."""
    choose = random.Random(7)  # noqa: S311 - figures, not secrets
    figures, before = list[dict[tuple[int, int], int]](), datetime.now(UTC)
    for number in range(_DAYS + _REFETCHES):
        if number < _DAYS:
            figures.append({(hour, group): 1 for hour in range(24) for group in range(_GROUPS)})
        for day in range(max(0, number - _REFETCHES), min(number + 1, _DAYS)):
            if day < number:
                _restate(figures[day], choose)
            _store(report, history, day, figures[day], _START + (number + 1) * _DAY)
        if number == 0:
            before = datetime.now(UTC)
    return before


def _restate(rows: dict[tuple[int, int], int], choose: random.Random) -> None:
    for key in choose.sample(sorted(rows), int(len(rows) * _RESTATED_SHARE)):
        rows[key] += 1
    for key in choose.sample(sorted(rows), _RESTATED_ROWS):
        del rows[key]
    for _ in range(_RESTATED_ROWS):
        rows[choose.randrange(24), choose.randrange(_GROUPS)] = 1


def _store(
    report: Report, history: PostgresHistory, day: int, rows: dict[tuple[int, int], int], fetched_at: datetime
) -> None:
    start = _START + day * _DAY
    known, keys = IntervalSet([Interval(start, start + _DAY)]), sorted(rows)
    columns = {
        "interval_start": [start + hour * _HOUR for hour, _ in keys],
        "interval_end": [start + (hour + 1) * _HOUR for hour, _ in keys],
        "queue_id": [f"3f2a1c5e-5c52-4d7b-9d4b-{group // 3:012d}" for _, group in keys],
        "media_type": [("voice", "chat", "email")[group % 3] for _, group in keys],
        **{to_snake_case(name): [rows[key] for key in keys] for name in report.metrics},
    }
    table = pa.table(columns, schema=to_arrow_schema(_columns(report)))
    history.replace(
        Replacement(
            Series(report), known, IntervalSet(), Rows.from_table(table), start + _DAY, (FetchTime(known, fetched_at),)
        )
    )


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: The first day cannot be read as it was stored first.
    """
    plain, kept = _report("plain", None), _report("kept", "P90D")
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name)) as stores:
        migrate(stores.postgres_url, [(report, _columns(report)) for report in (plain, kept)])
        with open_history(stores.postgres_url) as history:
            progress("a month without time travel")
            _month(plain, history)
            progress("the same month with it")
            first = _month(kept, history)
            day = Interval(_START, _START + _DAY)
            then = history.read(Series(kept), day, _columns(kept), first)
            if set(then["n_offered"].to_pylist()) != {1} or then.num_rows != 24 * _GROUPS:
                raise BenchmarkError("the first day is not read as it was before its restatements")
        with psycopg.connect(stores.postgres_url, autocommit=True) as connection:
            without = _size(connection, "history.plain")
            held = _size(connection, "history.kept") + _size(connection, "history_versions.kept")
            held += _size(connection, "cache_pipeline_state.finality_change")
    what = f"{_DAYS} days, each restated {_REFETCHES} times in {_RESTATED_SHARE:.0%} of its rows: storage"
    peers = {"without time travel": float(without)}
    return Result("time-travel", (Row(what, held, "bytes", peers=peers, target=Target("ratio", "<=", _TARGET)),))


def _size(connection: psycopg.Connection, table: str) -> int:
    connection.execute(SQL("VACUUM FULL {}").format(Identifier(*table.split("."))))
    row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchone()
    if row is None:
        raise BenchmarkError(f"{table} has no size")
    return row[0]
