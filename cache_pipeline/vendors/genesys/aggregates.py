"""Aggregate queries of Genesys Cloud: the request body, and the answer as rows; the same for every family.

The vendor omits empty groups, buckets and metrics. A figure belongs to the bucket in which it is emitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, arrow_schema, rows_to_table, snake_case
from cache_pipeline.vendors.genesys.metrics import (
    METRIC_STATES,
    BucketStats,
    MetricKey,
    MetricReader,
    check_metrics,
    metric_columns,
)
from cache_pipeline.vendors.genesys.permissions import AGGREGATE_PERMISSIONS
from cache_pipeline.vendors.genesys.vendor_filter import all_predicates, vendor_filter
from cache_pipeline.vendors.json_body import read_interval, read_mapping, read_mappings, read_optional_text, read_text

AGGREGATES_PAGE_SIZE = 1000
_MAX_USER_PREDICATES = 100

#: A conversation event has at most one value of each of these dimensions. Of the others (skills, divisions, groups) it
#: may have several.
_SINGLE_VALUED = frozenset(
    {
        *("direction", "flowId", "flowType", "mediaType", "messageType", "originatingDirection", "provider", "purpose"),
        *("queueId", "userId"),
    }
)


def aggregates_path(report: Report) -> str:
    """Return the path of the report's aggregates family."""
    return f"/api/v2/analytics/{report.query_type}/aggregates"


def check_aggregates(report: Report) -> Iterable[tuple[str, str]]:
    """Yield unknown families and metrics as (field, problem)."""
    if report.query_type not in AGGREGATE_PERMISSIONS:
        families = ", ".join(AGGREGATE_PERMISSIONS)
        yield "query_type", f"unknown aggregates family {report.query_type!r}; expected one of {families}"
        return
    if report.query_type == "users":
        yield from _check_users(report)
    yield from check_metrics(report)


def _check_users(report: Report) -> Iterable[tuple[str, str]]:
    if unknown := [name for name in report.metrics if name not in METRIC_STATES and name[:1] in ("n", "t")]:
        yield "metrics", f"unknown metrics of users {', '.join(unknown)}; expected {', '.join(METRIC_STATES)}"
    if set(report.group_by) - {"userId"}:
        yield "group_by", "users can only be grouped by userId; remove the other dimensions"
    if any(predicate.dimension != "userId" for predicate in all_predicates(report.filters)):
        yield "filters", "users can only be filtered by userId; remove the other dimensions"
    if sum(len(predicate.values) for predicate in all_predicates(report.filters)) > _MAX_USER_PREDICATES:
        yield "filters", f"more than {_MAX_USER_PREDICATES} users; remove the filter to fetch all users"


def aggregate_columns(report: Report) -> tuple[Column, ...]:
    """Return the dimensions, then the statistics of each metric; durations are in milliseconds."""
    return (
        *(
            Column(
                snake_case(name),
                ColumnKind.dimension,
                nullable=True,
                source=name,
                is_multivalued=name not in _SINGLE_VALUED,
            )
            for name in report.group_by
        ),
        *metric_columns(report.metrics),
    )


def aggregate_body(report: Report, interval: Interval) -> dict[str, object]:
    """Return the request body of a query; a job also needs its page size."""
    body: dict[str, object] = {
        "interval": str(interval),
        "granularity": report.granularity,
        "timeZone": report.time_zone,
        "groupBy": list(report.group_by),
        "metrics": list(report.metrics),
    }
    if report.filters:
        body["filter"] = vendor_filter(report.filters)
    return body


def aggregate_table(page: Mapping[str, object], report: Report) -> pa.Table:
    """Return the rows of a page.

    Raises:
        SchemaMismatch: The page does not match the query.
    """
    metrics = MetricReader(report.metrics)
    rows = [row for result in read_mappings(page, "results") for row in _rows(result, report, metrics)]
    return rows_to_table(rows, arrow_schema(aggregate_columns(report)))


def _rows(result: Mapping[str, object], report: Report, metrics: MetricReader) -> Iterable[Mapping[str, object]]:
    group = read_mapping(result, "group")
    dimensions = {snake_case(name): group.get(name) for name in report.group_by}
    for bucket in read_mappings(result, "data"):
        interval = read_interval(bucket, "interval")
        yield {
            "interval_start": interval.start,
            "interval_end": interval.end,
            **dimensions,
            **metrics.values(_bucket_stats(bucket)),
        }


def _bucket_stats(bucket: Mapping[str, object]) -> BucketStats:
    stats: dict[MetricKey, Mapping[str, object]] = {}
    for entry in read_mappings(bucket, "metrics"):
        key = read_text(entry, "metric"), read_optional_text(entry, "qualifier")
        if key in stats:
            raise SchemaMismatch(f"{key[0]} appears twice in one bucket")
        stats[key] = read_mapping(entry, "stats")
    return stats
