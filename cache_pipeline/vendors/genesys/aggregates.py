"""Aggregates: the body of a query, and its answer as rows; the same for every family.

Empty groups, buckets and metrics are left out by the vendor. A figure belongs to the bucket in which it is emitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, arrow_schema, rows_to_table, snake_case
from cache_pipeline.vendors.genesys.metrics import BY_STATE, MetricReader, Stats, Told, metric_columns, review_metrics
from cache_pipeline.vendors.genesys.permissions import AGGREGATE_PERMISSIONS
from cache_pipeline.vendors.genesys.vendor_filter import all_predicates, vendor_filter
from cache_pipeline.vendors.json_body import read_interval, read_mapping, read_mappings, read_optional_text, read_text

PAGE_SIZE = 1000
_MOST_USER_PREDICATES = 100

#: A conversation event has one value of these at most; of the others (skills, divisions, groups) it may have several.
_SINGLE_VALUED = frozenset(
    {
        *("direction", "flowId", "flowType", "mediaType", "messageType", "originatingDirection", "provider", "purpose"),
        *("queueId", "userId"),
    }
)


def aggregates_path(report: Report) -> str:
    """The family's path."""
    return f"/api/v2/analytics/{report.query_type}/aggregates"


def review_aggregates(report: Report) -> Iterable[tuple[str, str]]:
    """Families that are not known, and metrics whose figures are not."""
    if report.query_type not in AGGREGATE_PERMISSIONS:
        yield "query_type", f"{report.query_type!r} is not an aggregates family: use {', '.join(AGGREGATE_PERMISSIONS)}"
        return
    if report.query_type == "users":
        yield from _review_users(report)
    yield from review_metrics(report)


def _review_users(report: Report) -> Iterable[tuple[str, str]]:
    if unknown := [name for name in report.metrics if name not in BY_STATE and name[:1] in ("n", "t")]:
        yield "metrics", f"{', '.join(unknown)}: of users there are {', '.join(BY_STATE)}"
    if set(report.group_by) - {"userId"}:
        yield "group_by", "users are grouped by userId alone"
    if any(predicate.dimension != "userId" for predicate in all_predicates(report.filters)):
        yield "filters", "users are filtered by userId alone"
    if sum(len(predicate.values) for predicate in all_predicates(report.filters)) > _MOST_USER_PREDICATES:
        yield "filters", f"at most {_MOST_USER_PREDICATES} users can be named: leave the filter out for all"


def aggregate_columns(report: Report) -> tuple[Column, ...]:
    """Dimensions, then each metric's statistics; durations are in milliseconds."""
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
    """The body of a query; a job's has its page size besides."""
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


def aggregate_table(answer: Mapping[str, object], report: Report) -> pa.Table:
    """The rows of a page.

    Raises:
        SchemaMismatch: it is not what was asked for.
    """
    metrics = MetricReader(report.metrics)
    rows = [row for result in read_mappings(answer, "results") for row in _rows(result, report, metrics)]
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
            **metrics.values(_told(bucket)),
        }


def _told(bucket: Mapping[str, object]) -> Stats:
    told: dict[Told, Mapping[str, object]] = {}
    for entry in read_mappings(bucket, "metrics"):
        key = read_text(entry, "metric"), read_optional_text(entry, "qualifier")
        if key in told:
            raise SchemaMismatch(f"{key[0]} is told twice for one bucket")
        told[key] = read_mapping(entry, "stats")
    return told
