"""Sample rows of an hourly report, to store and to publish."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, rows_to_table, to_arrow_schema, to_snake_case
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime
from cache_pipeline.storage.ports.history import Replacement
from cache_pipeline_tests.query.declared import declared

DAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
REPORT = declared(time_zone="UTC", group_by=["queueId"])
SERIES = Series(REPORT)
#: A report that keeps superseded figures.
KEPT_REPORT = declared(name="kept", time_zone="UTC", group_by=["queueId"], time_travel="P90D")
KEPT = Series(KEPT_REPORT)


def columns_of(report: Report) -> tuple[Column, ...]:
    """Return dimensions, integer metrics, and one number that may be null."""
    return (
        *(Column(to_snake_case(name), ColumnKind.dimension, nullable=True) for name in report.group_by),
        *(Column(to_snake_case(name), ColumnKind.integer) for name in report.metrics),
        Column("longest", ColumnKind.number, nullable=True),
    )


def hours(first: float, last: float) -> Interval:
    """Return an interval of the sample day, from one hour to another."""
    return Interval(DAY + first * HOUR, DAY + last * HOUR)


def table(
    interval: Interval, offered: int = 1, queues: Iterable[Any] = ("q1", "q2"), report: Report = REPORT
) -> pa.Table:
    """Return one row for each queue and hour of the interval."""
    schema = to_arrow_schema(columns_of(report))
    count = int(interval.length / HOUR)
    rows = [
        {
            "interval_start": interval.start + number * HOUR,
            "interval_end": interval.start + (number + 1) * HOUR,
            **{to_snake_case(name): queue for name in report.group_by},
            **dict.fromkeys((to_snake_case(name) for name in report.metrics), offered),
            "longest": None if number % 2 else 0.1 * number,
        }
        for number in range(count)
        for queue in queues
    ]
    return rows_to_table(rows, schema)


def replacement(
    final: Interval | None,
    provisional: Interval | None = None,
    *,
    offered: int = 1,
    series: Series = SERIES,
    fetched_at: datetime = NOW,
    **changes: Any,
) -> Replacement:
    """Return a replacement with rows of a final and a provisional interval."""
    parts = [part for part in (final, provisional) if part]
    fields: dict[str, Any] = {
        "series": series,
        "final": IntervalSet([final] if final else []),
        "provisional": IntervalSet([provisional] if provisional else []),
        "rows": pa.concat_tables([table(part, offered, report=series.report) for part in parts]),
        "watermark": final.end if final else DAY,
        "fetch_times": (FetchTime(IntervalSet(parts), fetched_at),),
    }
    fields |= changes
    return Replacement(**{**fields, "rows": Rows.from_table(fields["rows"])})
