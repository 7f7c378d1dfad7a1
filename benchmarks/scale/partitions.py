"""Cost of many partitions of one report: coverage, planning, and a sensor's decision.

Coverage is as fragmented as possible: every second partition is stored, so it holds half as many intervals as there are partitions.
"""

import timeit
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

from cache_pipeline.orchestration.decisions import PartitionRange, find_stale_ranges, find_stale_time
from cache_pipeline.orchestration.partitions import keys_within, partition_intervals, report_partitions
from cache_pipeline.orchestration.sensors import MAX_STALE_PARTITIONS
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, to_arrow_schema
from cache_pipeline.query.series import CanonicalQuery, Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.service.plan import StoredSeries, make_plan
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline.storage.postgres.history import PostgresHistory

COLUMNS = (Column("queue_id", ColumnKind.dimension, nullable=True), Column("offered", ColumnKind.integer))
READ, READ_DAY, PLAN, EXTEND, STALE, KEYS = (
    "read all coverage",
    "read coverage of one day",
    "plan a backfill of all partitions",
    "extend coverage by one partition",
    "a sensor's decision about two days",
    "all partition keys",
)
_START = date(2014, 1, 1)
_HOUR = timedelta(hours=1)
_PARTITIONS_PER_RUN = 500


def make_report(number: int) -> Report:
    """Return an hourly report named after its number of partitions."""
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


def measure(history: PostgresHistory, report: Report, number: int) -> dict[str, float]:
    """Return seconds by name of the measurement for a number of partitions."""
    series, start = Series(report), datetime(_START.year, _START.month, _START.day, tzinfo=UTC)
    hours = [Interval(start + index * _HOUR, start + (index + 1) * _HOUR) for index in range(number)]
    every_second, end = hours[::2], hours[-1].end
    # Store a few hundred partitions at a time, as runs do.
    for first in range(0, len(every_second), _PARTITIONS_PER_RUN):
        _store(history, series, IntervalSet(every_second[first : first + _PARTITIONS_PER_RUN]))
    interval = Interval(start, end)
    last_day = Interval(max(start, end - timedelta(days=1)), end)
    coverage = history.coverage(series, interval)
    partitions, rule = report_partitions(report), FreshnessRule.of(report)
    recent = Interval(max(start, end - MAX_STALE_PARTITIONS * _HOUR), end)
    recent_hours = partition_intervals(partitions, keys_within(partitions, recent))
    now = end + timedelta(days=1)
    one_hour = IntervalSet([hours[1]])
    return {
        READ: _seconds(lambda: history.coverage(series, interval)),
        READ_DAY: _seconds(lambda: history.coverage(series, last_day)),
        PLAN: _seconds(
            lambda: make_plan(CanonicalQuery(series, interval), StoredSeries(report, COLUMNS, coverage), (), now)
        ),
        EXTEND: _seconds(lambda: _store(history, series, one_hour), once=True),
        STALE: _seconds(lambda: _decide(coverage, interval, recent, recent_hours, now, rule)),
        # Measured once, because Dagster caches the keys.
        KEYS: _seconds(lambda: keys_within(report_partitions(report), interval), once=True),
    }


def _decide(
    coverage: Coverage,
    whole: Interval,
    recent: Interval,
    recent_hours: Mapping[str, Interval],
    now: datetime,
    rule: FreshnessRule,
) -> list[PartitionRange]:
    """Decide as the stale sensor of the report does."""
    stale_time = find_stale_time(coverage, whole, recent, now, rule)
    stale = {key: hour for key, hour in recent_hours.items() if stale_time & IntervalSet([hour])}
    return find_stale_ranges(coverage, stale, now, at_most=3)


def _store(history: PostgresHistory, series: Series, stored: IntervalSet) -> None:
    now = datetime.now(UTC)
    rows = Rows.from_table(to_arrow_schema(COLUMNS).empty_table())
    history.replace(Replacement(series, stored, IntervalSet(), rows, now, (FetchTime(stored, now),)))


def _seconds(function: Callable[[], object], *, once: bool = False) -> float:
    """Return the shortest of a few runs. `timeit` disables garbage collection meanwhile.

    A collection would also traverse the benchmark's own objects.
    """
    return min(timeit.repeat(function, number=1, repeat=1 if once else 3))
