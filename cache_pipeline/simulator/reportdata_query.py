"""Reportdata queries: the available reports, strict parsing of the body, and the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery
from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Compound, is_one_of, negated
from cache_pipeline.simulator.organisation import Organisation


@dataclass(frozen=True)
class Figure:
    """The source of a column: a fact, and whether its milliseconds are summed or its calls counted."""

    fact: str
    is_sum: bool


@dataclass(frozen=True)
class Report:
    """The dimensions and columns of a report."""

    dimensions: tuple[str, ...]
    columns: Mapping[str, Figure]


REPORTS: Mapping[str, Report] = {
    "queue-performance": Report(
        ("queueId", "mediaType"),
        {
            "offered": Figure("offered", is_sum=False),
            "answered": Figure("answered", is_sum=False),
            "abandoned": Figure("abandoned", is_sum=False),
            "transferred": Figure("transferred", is_sum=False),
            "answeredWithinTarget": Figure("in_target", is_sum=False),
            "waitMs": Figure("answered", is_sum=True),
            "handleMs": Figure("handle", is_sum=True),
            "talkMs": Figure("talk", is_sum=True),
            "acwMs": Figure("after_call", is_sum=True),
        },
    ),
    "agent-performance": Report(
        ("userId", "queueId"),
        {
            "answered": Figure("answered", is_sum=False),
            "transferred": Figure("transferred", is_sum=False),
            "handleMs": Figure("handle", is_sum=True),
            "talkMs": Figure("talk", is_sum=True),
            "heldMs": Figure("held", is_sum=True),
            "acwMs": Figure("after_call", is_sum=True),
        },
    ),
}


class _Predicate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dimension: str
    operator: Literal["in", "notIn"]
    values: Annotated[list[str], Field(min_length=1)]


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    predicates: list[_Predicate]


class ReportBody(BaseModel):
    """The JSON body of a submit."""

    model_config = ConfigDict(extra="forbid")

    report_id: Annotated[str, Field(alias="reportId")]
    time_grouping: Annotated[str, Field(alias="timeGrouping")]
    interval: str
    time_zone: Annotated[str, Field(alias="timeZone")] = "UTC"
    filters: _Filters | None = None
    group_by: Annotated[list[str] | None, Field(alias="groupBy")] = None
    columns: list[str] | None = None


@dataclass(frozen=True)
class Rows:
    """The result of a query, possibly truncated; rows are serialized page by page."""

    aggregate: Aggregate
    cells: Codes
    columns: Mapping[str, Figure]

    def page(self, offset: int, size: int, organisation: Organisation) -> list[dict[str, Any]]:
        """Return `size` rows from `offset`, in time order."""
        cells = self.cells[offset : offset + size]
        columns = {name: self.aggregate.at(figure.fact, cells) for name, figure in self.columns.items()}
        values = {
            name: (column.total if self.columns[name].is_sum else column.count).tolist()
            for name, column in columns.items()
        }
        rows: list[dict[str, Any]] = []
        for index, cell in enumerate(cells.tolist()):
            start, end = self.aggregate.bucket(cell)
            row: dict[str, Any] = {"intervalStart": intervals.iso(start), "intervalEnd": intervals.iso(end)}
            row |= self.aggregate.group(cell, organisation)
            row |= {name: column[index] for name, column in values.items()}
            rows.append(row)
        return rows


def _select(names: list[str] | None, known: tuple[str, ...], field: str) -> tuple[str, ...]:
    for name in names or ():
        if name not in known:
            raise invalid_value(name, field, ", ".join(known))
    return known if names is None else tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class ReportQuery:
    """The parsed query of a body."""

    figures: Mapping[str, Figure]
    aggregate: AggregateQuery


def build_query(body: ReportBody, organisation: Organisation, max_buckets: int) -> ReportQuery:
    """Return the query in `body`.

    Raises:
        ApiError: 400; the message names the field.
    """
    report = REPORTS.get(body.report_id)
    if report is None:
        raise invalid_value(body.report_id, "reportId", ", ".join(REPORTS))
    columns = _select(body.columns, tuple(report.columns), "columns")
    if not columns:
        raise bad_request("columns: must not be empty; name at least one, or omit the field for all")
    figures = {name: report.columns[name] for name in columns}
    query = AggregateQuery(
        edges=_edges(body, max_buckets),
        group_by=_select(body.group_by, report.dimensions, "groupBy"),
        facts=tuple(dict.fromkeys(figure.fact for figure in figures.values())),
        condition=_condition(body.filters, report, organisation),
    )
    return ReportQuery(figures, query)


def _edges(body: ReportBody, max_buckets: int) -> intervals.Milliseconds:
    if body.time_grouping not in intervals.TIME_GROUPINGS:
        raise invalid_value(body.time_grouping, "timeGrouping", ", ".join(intervals.TIME_GROUPINGS))
    try:
        zone = intervals.parse_zone(body.time_zone)
    except ValueError as error:
        raise invalid_value(body.time_zone, "timeZone", "names of the IANA time zone database") from error
    try:
        interval = intervals.parse_interval(body.interval, zone)
        return intervals.calendar_edges(interval, body.time_grouping, zone, max_buckets)
    except intervals.TooManyBucketsError as error:
        raise bad_request(f"interval: {error}") from error
    except ValueError as error:
        raise ApiError(400, "invalid.date", f"interval: {error}") from error


def _condition(filters: _Filters | None, report: Report, organisation: Organisation) -> Compound | None:
    if filters is None:
        return None
    for predicate in filters.predicates:
        if predicate.dimension not in report.dimensions:
            raise invalid_value(predicate.dimension, "dimension", ", ".join(report.dimensions))
    memberships = (
        (predicate.operator, is_one_of(organisation, predicate.dimension, predicate.values))
        for predicate in filters.predicates
    )
    parts = tuple(member if operator == "in" else negated(member) for operator, member in memberships)
    return Compound(requires_all=filters.type == "and", parts=parts)


def limit_rows(aggregate: Aggregate, columns: Mapping[str, Figure], max_rows: int, *, by_group: bool) -> Rows:
    """Return the first `max_rows` rows, in time order or group by group, one for each cell in which any column has an event."""
    cells = aggregate.cells()
    if by_group:
        cells = cells[np.argsort(cells % aggregate.groups, kind="stable")]
    return Rows(aggregate, cells[:max_rows], columns)
