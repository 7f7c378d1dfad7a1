"""What a reportdata query may ask for, its body read strictly, and its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery
from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Joined, is_one_of, negated
from cache_pipeline.simulator.organisation import Organisation


@dataclass(frozen=True)
class Figure:
    """Where a column comes from: a fact, and whether its calls are counted or its milliseconds summed."""

    fact: str
    sums: bool


@dataclass(frozen=True)
class Report:
    """What a report can be asked for."""

    dimensions: tuple[str, ...]
    columns: Mapping[str, Figure]


REPORTS: Mapping[str, Report] = {
    "queue-performance": Report(
        ("queueId", "mediaType"),
        {
            "offered": Figure("offered", sums=False),
            "answered": Figure("answered", sums=False),
            "abandoned": Figure("abandoned", sums=False),
            "transferred": Figure("transferred", sums=False),
            "answeredWithinTarget": Figure("in_target", sums=False),
            "waitMs": Figure("answered", sums=True),
            "handleMs": Figure("handle", sums=True),
            "talkMs": Figure("talk", sums=True),
            "acwMs": Figure("after_call", sums=True),
        },
    ),
    "agent-performance": Report(
        ("userId", "queueId"),
        {
            "answered": Figure("answered", sums=False),
            "transferred": Figure("transferred", sums=False),
            "handleMs": Figure("handle", sums=True),
            "talkMs": Figure("talk", sums=True),
            "heldMs": Figure("held", sums=True),
            "acwMs": Figure("after_call", sums=True),
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
    """A finished query, cut where it is cut; rows are written out a page at a time."""

    aggregate: Aggregate
    cells: Codes
    columns: Mapping[str, Figure]

    def page(self, offset: int, size: int, organisation: Organisation) -> list[dict[str, Any]]:
        """Return `size` rows from `offset` on, in time order."""
        cells = self.cells[offset : offset + size]
        found = {name: self.aggregate.at(figure.fact, cells) for name, figure in self.columns.items()}
        values = {
            name: (column.total if self.columns[name].sums else column.count).tolist() for name, column in found.items()
        }
        rows: list[dict[str, Any]] = []
        for place, cell in enumerate(cells.tolist()):
            start, end = self.aggregate.bucket(cell)
            row: dict[str, Any] = {"intervalStart": intervals.iso(start), "intervalEnd": intervals.iso(end)}
            row |= self.aggregate.group(cell, organisation)
            row |= {name: column[place] for name, column in values.items()}
            rows.append(row)
        return rows


def _chosen(asked: list[str] | None, known: tuple[str, ...], field: str) -> tuple[str, ...]:
    for name in asked or ():
        if name not in known:
            raise invalid_value(name, field, ", ".join(known))
    return known if asked is None else tuple(dict.fromkeys(asked))


@dataclass(frozen=True)
class ReportQuery:
    """What a body asks for."""

    figures: Mapping[str, Figure]
    aggregate: AggregateQuery


def query_of(body: ReportBody, organisation: Organisation, max_buckets: int) -> ReportQuery:
    """Return what `body` asks for.

    Raises:
        ApiError: 400; the message names the field.
    """
    report = REPORTS.get(body.report_id)
    if report is None:
        raise invalid_value(body.report_id, "reportId", ", ".join(REPORTS))
    columns = _chosen(body.columns, tuple(report.columns), "columns")
    if not columns:
        raise bad_request("columns: name at least one, or leave the field out for all")
    figures = {name: report.columns[name] for name in columns}
    query = AggregateQuery(
        edges=_edges(body, max_buckets),
        group_by=_chosen(body.group_by, report.dimensions, "groupBy"),
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


def _condition(filters: _Filters | None, report: Report, organisation: Organisation) -> Joined | None:
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
    return Joined(every=filters.type == "and", parts=parts)


def rows_of(aggregate: Aggregate, columns: Mapping[str, Figure], max_rows: int) -> Rows:
    """Return the first `max_rows` rows in time order, one wherever something happened that a column is about."""
    return Rows(aggregate, aggregate.cells()[:max_rows], columns)
