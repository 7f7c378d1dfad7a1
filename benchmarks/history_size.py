"""`history-size`: what a stored history of ten million rows costs, against one of a million rows.

Both reports have the same day: 104 queues by quarter hour, 9,984 rows. One has a hundred days, the other a thousand (or ten thousand, with
`history-size-full`), in two tables of one PostgreSQL with default settings. The same work is done on random days of both, in turns: finding
what a quarter of a year lacks, reading a day, rolling a week up to queue and day, counting a day's groups for the completeness rules, and replacing
a day after a refetch. Times are medians.

Not measured: more rows than memory holds, and readers beside each other. A read of the hot tier does not reach PostgreSQL, whatever history's size.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.embedded import EmbeddedServerError, embedded_servers
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.rollup import roll_up
from cache_pipeline.query.schema import Column, ColumnKind, Fold, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import PostgresHistory, open_history
from cache_pipeline.storage.postgres.migrate import migrate

_QUEUES = 104
_ROWS_A_DAY = _QUEUES * 96
_SMALL_DAYS, _LARGE_DAYS, _FULL_DAYS = 100, 1_000, 10_000
_RUNS = 21
_DAY = timedelta(days=1)
_END = datetime(2026, 11, 1, tzinfo=UTC)
_SEED = 4711
_INSERT = SQL(
    "INSERT INTO history.{table} (series, interval_start, interval_end, queue_id, offered, answered)"
    " SELECT {series}, at, at + interval '15 minutes', 'queue-' || queue, 1 + queue %% 9, queue %% 9"
    " FROM generate_series({start}::timestamptz, {last}::timestamptz, interval '15 minutes') AS at,"
    " generate_series(1, {queues}) AS queue"
)


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark with ten million rows.

    Raises:
        BenchmarkError: A table does not have the rows that it should have.
    """
    return _measure("history-size", _LARGE_DAYS, progress)


def measure_full(progress: ProgressCallback) -> Result:
    """Run the benchmark with a hundred million rows, which takes 40 GB of disk.

    Raises:
        BenchmarkError: A table does not have the rows that it should have.
    """
    return _measure("history-size-full", _FULL_DAYS, progress)


@dataclass(frozen=True)
class _Stored:
    """One report with its history."""

    report: Report
    days: int
    history: PostgresHistory

    @property
    def series(self) -> Series:
        return Series(self.report)

    def random_days(self, generator: random.Random, count: int) -> Interval:
        """Return some whole days of the history."""
        start = _END - self.days * _DAY + generator.randrange(self.days - count + 1) * _DAY
        return Interval(start, start + count * _DAY)

    def fill(self, url: str, progress: ProgressCallback) -> None:
        """Store all days, and let the server know their statistics."""
        whole = Interval(_END - self.days * _DAY, _END)
        empty = Rows.from_table(rows_to_table([], to_arrow_schema(columns_of(self.report))))
        self.history.replace(_replacement(self.series, empty, whole))
        table = Identifier(self.report.name)
        with psycopg.connect(url, autocommit=True) as connection:
            for first in range(0, self.days, 100):
                progress(f"storing {self.days * _ROWS_A_DAY:,} rows: {first / self.days:.0%}")
                start = whole.start + first * _DAY
                last = min(start + 100 * _DAY, whole.end) - timedelta(minutes=15)
                values = {"start": Literal(start), "last": Literal(last), "queues": Literal(_QUEUES)}
                connection.execute(_INSERT.format(table=table, series=Literal(self.series.id), **values), ())
            connection.execute(SQL("VACUUM ANALYZE history.{}").format(table))

    def find_gaps(self, generator: random.Random) -> None:
        days = self.random_days(generator, 90)
        if not self.history.coverage(self.series, days).final.covers(days):
            raise BenchmarkError(f"history lacks a part of {days}")

    def read_day(self, generator: random.Random) -> None:
        rows = self.history.read(self.series, self.random_days(generator, 1), columns_of(self.report))
        _check_count(rows.num_rows, _ROWS_A_DAY)

    def roll_up_week(self, generator: random.Random) -> None:
        days = self.random_days(generator, 7)
        rows = self.history.read(self.series, days, columns_of(self.report))
        daily = self.report.model_copy(update={"granularity": "P1D"})
        _check_count(roll_up(rows, self.report, daily, columns_of(daily), days).num_rows, 7 * _QUEUES)

    def count_groups(self, generator: random.Random) -> None:
        groups = self.history.groups_by_bucket(self.series, self.random_days(generator, 1))
        _check_count(sum(groups.values()), _ROWS_A_DAY)

    def refetch_day(self, generator: random.Random) -> float:
        """Replace a day by the same rows, and return the seconds that it took without reading them."""
        day = self.random_days(generator, 1)
        rows = Rows.from_table(self.history.read(self.series, day, columns_of(self.report)))
        started = time.perf_counter()
        self.history.replace(_replacement(self.series, rows, day))
        return time.perf_counter() - started


def columns_of(report: Report) -> tuple[Column, ...]:
    """Return the columns of the rows."""
    return (
        *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in report.group_by),
        *(Column(to_snake_case(name), ColumnKind.integer, fold=Fold.sum) for name in report.metrics),
    )


def _report(name: str, days: int) -> Report:
    return Report.model_validate(
        {
            "name": name,
            "description": "Offered and answered by queue",
            "platform": "reportdata",
            "query_type": "queue-performance",
            "granularity": "PT15M",
            "group_by": ["queueId"],
            "metrics": ["offered", "answered"],
            "time_zone": "UTC",
            "partition": "day",
            "start": (_END - days * _DAY).date(),
            "publish": {"tiers": ["history", "hot"]},
        }
    )


def _replacement(series: Series, rows: Rows, interval: Interval) -> Replacement:
    intervals = IntervalSet([interval])
    fetched = FetchTime(intervals, datetime.now(UTC))
    return Replacement(series, intervals, IntervalSet(), rows, interval.end, (fetched,))


def _check_count(found: int, expected: int) -> None:
    if found != expected:
        raise BenchmarkError(f"{found:,} rows were found instead of {expected:,}")


def _measure(name: str, large_days: int, progress: ProgressCallback) -> Result:
    reports = {days: _report(f"days_{days}", days) for days in (_SMALL_DAYS, large_days)}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            # Redis is not needed; with a URL given, none is started.
            embedded_servers(Path(folder) / "servers", redis_url="redis://none") as servers,
        ):
            migrate(servers.postgres_url, [(report, columns_of(report)) for report in reports.values()])
            with open_history(servers.postgres_url) as history:
                stored = [_Stored(report, days, history) for days, report in reports.items()]
                for each in stored:
                    each.fill(servers.postgres_url, progress)
                small, large = stored
                return Result(name, tuple(_compare(small, large, progress)))
    except EmbeddedServerError as error:
        raise BenchmarkError(str(error)) from error


def _compare(small: _Stored, large: _Stored, progress: ProgressCallback) -> list[Row]:
    work: Mapping[str, Callable[[_Stored, random.Random], float | None]] = {
        "finding what a quarter of a year lacks": _Stored.find_gaps,
        "reading a day of 9,984 rows": _Stored.read_day,
        "rolling a week up to queue and day": _Stored.roll_up_week,
        "counting the groups of a day": _Stored.count_groups,
        "replacing a day": _Stored.refetch_day,
    }
    peer = f"{small.days * _ROWS_A_DAY:,} rows"
    rows: list[Row] = []
    for what, do in work.items():
        seconds: dict[int, list[float]] = {small.days: [], large.days: []}
        generator = random.Random(_SEED)  # noqa: S311 - which days are read is no secret
        for run in range(_RUNS):
            progress(f"{what}: {run + 1} of {_RUNS}")
            for each in (small, large):
                started = time.perf_counter()
                measured = do(each, generator)
                seconds[each.days].append(time.perf_counter() - started if measured is None else measured)
        of_small, of_large = (round(statistics.median(taken) * 1000, 2) for taken in seconds.values())
        rows.append(Row(what, of_large, "ms", {peer: of_small}, target=Target("ratio", "<=", 1.5)))
    return rows
