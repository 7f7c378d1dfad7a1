"""Aggregates: the body of a query, and its answer as rows; the same for every family.

Empty groups, buckets and metrics are left out by the vendor. A figure belongs to the bucket in which it is emitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, Fold, Kind, SchemaMismatch, arrow_schema, rows_to_table, snake_case
from cache_pipeline.upstream.platforms.genesys_filters import all_predicates, vendor_filter
from cache_pipeline.upstream.platforms.payload import interval_of, mapping_of, mappings_of, optional_text, text_of
from cache_pipeline.upstream.platforms.permissions import AGGREGATE_PERMISSIONS

PAGE_SIZE = 1000
_MOST_USER_PREDICATES = 100

#: Statistics kept for each kind of metric, by the prefix of its name: t* are durations in milliseconds, n* counts,
#: o* ratios, whose parts add where the ratio itself does not. (statistic, kind, may be null, fold)
_STATISTICS: Mapping[str, tuple[tuple[str, Kind, bool, Fold], ...]] = {
    "n": (("count", Kind.integer, False, Fold.sum),),
    "t": (
        ("count", Kind.integer, False, Fold.sum),
        ("sum", Kind.number, False, Fold.sum),
        ("min", Kind.number, True, Fold.min),
        ("max", Kind.number, True, Fold.max),
    ),
    "o": (("numerator", Kind.number, False, Fold.sum), ("denominator", Kind.number, False, Fold.sum)),
}
#: nConversations counts distinct ones, of which one is in several buckets; of the ratios, service levels are known to be
#: made of counts.
_NOT_ADDITIVE = frozenset({"nConversations"})
_ADDITIVE_RATIOS = frozenset({"oServiceLevel", "oCallbackServiceLevel"})
#: A conversation event has one value of these at most; of the others (skills, divisions, groups) it may have several.
_SINGLE_VALUED = frozenset(
    {
        *("direction", "flowId", "flowType", "mediaType", "messageType", "originatingDirection", "provider", "purpose"),
        *("queueId", "userId"),
    }
)

#: Metrics that are told once for each state, with the state as their qualifier: time in milliseconds.
_BY_STATE: Mapping[str, tuple[str, ...]] = {
    "tSystemPresence": (
        *("AVAILABLE", "AWAY", "BUSY", "OFFLINE", "IDLE", "ON_QUEUE", "MEAL", "TRAINING", "MEETING", "BREAK"),
    ),
    "tAgentRoutingStatus": ("OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING"),
}


def aggregates_path(report: Report) -> str:
    """The family's path."""
    return f"/api/v2/analytics/{report.query_type}/aggregates"


def review_aggregates(report: Report) -> Iterable[tuple[str, str]]:
    """Families that are not known, and metrics whose kind the name does not tell."""
    if report.query_type not in AGGREGATE_PERMISSIONS:
        yield "query_type", f"{report.query_type!r} is not an aggregates family: use {', '.join(AGGREGATE_PERMISSIONS)}"
    odd = [name for name in report.metrics if name[:1] not in _STATISTICS]
    if odd:
        yield "metrics", f"{', '.join(odd)}: Genesys metrics start with n (count), t (duration) or o (ratio)"
    if report.query_type == "users":
        yield from _review_users(report)


def _review_users(report: Report) -> Iterable[tuple[str, str]]:
    if unknown := [name for name in report.metrics if name not in _BY_STATE]:
        yield "metrics", f"{', '.join(unknown)}: of users there are {', '.join(_BY_STATE)}"
    if set(report.group_by) - {"userId"}:
        yield "group_by", "users are grouped by userId alone"
    if any(predicate.dimension != "userId" for predicate in all_predicates(report.filters)):
        yield "filters", "users are filtered by userId alone"
    if sum(len(predicate.values) for predicate in all_predicates(report.filters)) > _MOST_USER_PREDICATES:
        yield "filters", f"at most {_MOST_USER_PREDICATES} users can be named: leave the filter out for all"


@dataclass(frozen=True)
class _Figure:
    """One column of a metric: which statistic of it, and in which state where there are several."""

    column: Column
    statistic: str
    state: str | None = None


def _figures(metric: str) -> Iterator[_Figure]:
    if metric in _BY_STATE:
        for state in _BY_STATE[metric]:
            name = f"{snake_case(metric)}_{state.lower()}"
            told = f"sum of {metric} in {state}"
            yield _Figure(Column(name, Kind.number, description=told, source=metric, fold=Fold.sum), "sum", state)
        return
    for statistic, kind, nullable, fold in _STATISTICS[metric[0]]:
        name = snake_case(metric) if metric.startswith("n") else f"{snake_case(metric)}_{statistic}"
        told = f"{statistic} of {metric}"
        yield _Figure(Column(name, kind, nullable, told, metric, _fold(metric, fold)), statistic)


def _fold(metric: str, fold: Fold) -> Fold:
    additive = metric in _ADDITIVE_RATIOS if metric.startswith("o") else metric not in _NOT_ADDITIVE
    return fold if additive else Fold.none


def aggregate_columns(report: Report) -> tuple[Column, ...]:
    """Dimensions, then each metric's statistics; durations are in milliseconds."""
    return (
        *(
            Column(snake_case(name), Kind.dimension, nullable=True, source=name, multivalued=name not in _SINGLE_VALUED)
            for name in report.group_by
        ),
        *(figure.column for metric in report.metrics for figure in _figures(metric)),
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
    rows = [row for result in mappings_of(answer, "results") for row in _rows(result, report)]
    return rows_to_table(rows, arrow_schema(aggregate_columns(report)))


def _rows(result: Mapping[str, object], report: Report) -> Iterable[Mapping[str, object]]:
    group = mapping_of(result, "group")
    dimensions = {snake_case(name): group.get(name) for name in report.group_by}
    for bucket in mappings_of(result, "data"):
        interval = interval_of(bucket, "interval")
        stats = {
            (text_of(entry, "metric"), optional_text(entry, "qualifier")): mapping_of(entry, "stats")
            for entry in mappings_of(bucket, "metrics")
        }
        unknown = {metric for metric, _ in stats} - set(report.metrics)
        if unknown:
            raise SchemaMismatch(f"metrics {sorted(unknown)} were not asked for")
        _refuse_unknown_states(stats)
        yield {
            "interval_start": interval.start,
            "interval_end": interval.end,
            **dimensions,
            **{
                # A metric that had no event is left out; for what adds up that means nought.
                each.column.name: stats.get((metric, each.state), {}).get(
                    each.statistic, None if each.column.nullable else 0
                )
                for metric in report.metrics
                for each in _figures(metric)
            },
        }


def _refuse_unknown_states(stats: Iterable[tuple[str, str | None]]) -> None:
    for metric, state in stats:
        if metric in _BY_STATE and state not in _BY_STATE[metric]:
            raise SchemaMismatch(f"{metric} is told for {state!r}, which is none of {', '.join(_BY_STATE[metric])}")
