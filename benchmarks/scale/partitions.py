"""What many partitions of one report cost: its coverage, the plan over them, and what a sensor decides about them.

Coverage is as torn as it can be: every second partition is held, so that as many intervals are kept as half of them.
"""

import timeit
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from cache_pipeline.orchestration.decisions import find_stale_ranges
from cache_pipeline.orchestration.partitions import keys_within, partition_intervals, report_partitions
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, arrow_schema
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.planner import StoredSeries, make_plan
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.postgres.history import History, Replacement

COLUMNS = (Column("queue_id", ColumnKind.dimension, nullable=True), Column("offered", ColumnKind.integer))
READ, READ_DAY, PLAN, EXTEND, STALE, KEYS = (
    "read coverage, all of it",
    "read coverage around one day",
    "plan a backfill of all of it",
    "extend coverage by one partition",
    "what a sensor decides of two days",
    "partition keys of all of it",
)
_START = date(2014, 1, 1)
_HOUR = timedelta(hours=1)
_A_RUN = 500


def report(number: int) -> Report:
    """Return a report by hour, named after its number of partitions."""
    return Report.model_validate(
        {
            "name": f"hours_{number}",
            "description": "Offered calls by queue",
            "platform": "reportdata",
            "query_type": "queue-performance",
            "granularity": "PT1H",
            "group_by": ["queueId"],
            "metrics": ["offered"],
            "partition": "hour",
            "start": _START,
            "fetch": {"expected_groups": 8},
            "publish": {"tiers": ["history"]},
        }
    )


def measured(history: History, of: Report, number: int) -> dict[str, float]:
    """Seconds by name for so many partitions."""
    series, start = Series(of), datetime(_START.year, _START.month, _START.day, tzinfo=UTC)
    hours = [Interval(start + index * _HOUR, start + (index + 1) * _HOUR) for index in range(number)]
    every_second, end = hours[::2], hours[-1].end
    # As runs bring it about: a few hundred partitions at a time.
    for first in range(0, len(every_second), _A_RUN):
        _hold(history, series, IntervalSet(every_second[first : first + _A_RUN]))
    span = Interval(start, end)
    last_day = Interval(max(start, end - timedelta(days=1)), end)
    coverage = history.coverage(series, span)
    partitions = report_partitions(of)
    recent = partition_intervals(
        partitions, keys_within(partitions, Interval(max(start, end - timedelta(days=2)), end))
    )
    now = end + timedelta(days=1)
    one = IntervalSet([hours[1]])
    return {
        READ: _seconds(lambda: history.coverage(series, span)),
        READ_DAY: _seconds(lambda: history.coverage(series, last_day)),
        PLAN: _seconds(lambda: make_plan(CanonicalQuery(series, span), StoredSeries(of, COLUMNS, coverage), (), now)),
        EXTEND: _seconds(lambda: _hold(history, series, one), once=True),
        STALE: _seconds(lambda: find_stale_ranges(coverage, recent, now, _HOUR, at_most=3)),
        # Dagster keeps what it has counted out once.
        KEYS: _seconds(lambda: keys_within(report_partitions(of), span), once=True),
    }


def _hold(history: History, series: Series, held: IntervalSet) -> None:
    now = datetime.now(UTC)
    rows = Rows.from_table(arrow_schema(COLUMNS).empty_table())
    history.replace(Replacement(series, held, IntervalSet(), rows, now, (FetchTime(held, now),)))


def _seconds(done: Callable[[], object], *, once: bool = False) -> float:
    """Return the shortest of a few runs, since repeating changes nothing; timeit suspends garbage collection meanwhile.

    A collection looks through all that the process holds, here what the benchmark has made as well.
    """
    return min(timeit.repeat(done, number=1, repeat=1 if once else 3))
