"""The body of a conversation aggregate query, read strictly, and its answer in the vendor's shape.

Known to the vendor and refused here with a 400 that says so: `views`, `alternateTimeDimension`, `sortMetric`, `limit`,
`queryType` other than `groupBy`, predicates on metrics, properties and ranges. Unknown fields are refused too; what the vendor
does with them is not documented. A metric or dimension the vendor knows and the simulator has no data for gives none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import genesys_words as words
from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, Column
from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Condition, Joined, has_value, is_one_of, negated
from cache_pipeline.simulator.organisation import Organisation
from cache_pipeline.simulator.settings import SimulatorSettings

_NOT_IMPLEMENTED = ("views", "alternate_time_dimension", "sort_metric", "limit")


class _Predicate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["dimension", "property", "metric"] | None = None
    dimension: str | None = None
    metric: str | None = None
    property_type: Annotated[str | None, Field(alias="propertyType")] = None
    property: str | None = None
    operator: Literal["matches", "exists", "notExists"] = "matches"
    value: str | None = None
    range: dict[str, Any] | None = None


class _Clause(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    predicates: Annotated[list[_Predicate], Field(min_length=1)]


class _Filter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    clauses: list[_Clause] = []
    predicates: list[_Predicate] = []


class AggregationBody(BaseModel):
    """The JSON body, in the vendor's spelling."""

    model_config = ConfigDict(extra="forbid")

    interval: str
    granularity: str | None = None
    time_zone: Annotated[str | None, Field(alias="timeZone")] = None
    group_by: Annotated[list[str] | None, Field(alias="groupBy")] = None
    metrics: Annotated[list[str], Field(min_length=1)]
    filter: _Filter | None = None
    flatten_multivalued_dimensions: Annotated[bool, Field(alias="flattenMultivaluedDimensions")] = False
    page_size: Annotated[int | None, Field(alias="pageSize", strict=True)] = None
    query_type: Annotated[str | None, Field(alias="queryType")] = None
    views: list[Any] | None = None
    alternate_time_dimension: Annotated[str | None, Field(alias="alternateTimeDimension")] = None
    sort_metric: Annotated[Any, Field(alias="sortMetric")] = None
    limit: int | None = None


def _unimplemented(what: str) -> ApiError:
    return bad_request(f"{what} is known to the vendor but not implemented by this simulator")


def _check_words(body: AggregationBody) -> None:
    for name in _NOT_IMPLEMENTED:
        if getattr(body, name):
            raise _unimplemented(AggregationBody.model_fields[name].alias or name)
    if body.query_type not in (None, "groupBy"):
        raise _unimplemented(f"queryType {body.query_type}")
    for asked, known, field in (
        (body.metrics, words.METRICS, "metrics"),
        (body.group_by or [], words.DIMENSIONS, "groupBy"),
    ):
        for name in asked:
            if name not in known:
                raise invalid_value(name, field, ", ".join(sorted(known)))


def _edges(body: AggregationBody, max_buckets: int) -> intervals.Milliseconds:
    zone_name = body.time_zone or "UTC"
    try:
        zone = intervals.parse_zone(zone_name)
    except ValueError as error:
        raise invalid_value(zone_name, "timeZone", "names of the IANA time zone database") from error
    try:
        interval = intervals.parse_interval(body.interval, zone)
    except ValueError as error:
        message = (
            f"Dates must be specified as ISO-8601 strings. For example: yyyy-MM-ddTHH:mm:ss[.mmm]Z. interval: {error}"
        )
        raise ApiError(400, "invalid.date", message) from error
    if body.granularity is None:
        return intervals.whole(interval)
    try:
        period = intervals.parse_period(body.granularity)
        return intervals.period_edges(interval, period, zone, max_buckets)
    except intervals.TooManyBucketsError as error:
        raise bad_request(f"granularity: {error}") from error
    except ValueError as error:
        raise invalid_value(body.granularity, "granularity", "ISO-8601 periods such as PT30M, PT1H, P1D") from error


def _condition(predicate: _Predicate, organisation: Organisation) -> Condition:
    if predicate.type in ("property", "metric") or predicate.metric or predicate.property or predicate.property_type:
        raise _unimplemented("a predicate on a metric or a property")
    if predicate.range is not None:
        raise _unimplemented("a predicate with a range")
    dimension = predicate.dimension
    if dimension is None:
        raise ApiError(400, "constraint.validation", "filter: a predicate needs a dimension")
    if dimension not in words.DIMENSIONS:
        raise invalid_value(dimension, "dimension", ", ".join(sorted(words.DIMENSIONS)))
    if predicate.operator == "exists":
        return has_value(organisation, dimension)
    if predicate.operator == "notExists":
        return negated(has_value(organisation, dimension))
    if predicate.value is None:
        raise ApiError(400, "constraint.validation", f"filter: the predicate on {dimension} needs a value")
    if dimension == "mediaType" and predicate.value not in words.MEDIA_TYPES:
        raise invalid_value(predicate.value, "mediaType", ", ".join(sorted(words.MEDIA_TYPES)))
    return is_one_of(organisation, dimension, [predicate.value])


def _joined(kind: str, parts: Iterable[Condition]) -> Joined:
    return Joined(every=kind == "and", parts=tuple(parts))


def _filter(body: AggregationBody, organisation: Organisation) -> Condition | None:
    if body.filter is None:
        return None
    clauses = (
        _joined(clause.type, (_condition(predicate, organisation) for predicate in clause.predicates))
        for clause in body.filter.clauses
    )
    predicates = (_condition(predicate, organisation) for predicate in body.filter.predicates)
    return _joined(body.filter.type, (*clauses, *predicates))


def _facts(metrics: Iterable[str]) -> tuple[str, ...]:
    facts: list[str] = []
    for metric in metrics:
        facts += ["in_target", "resolved"] if metric == words.SERVICE_LEVEL else []
        facts += [table[metric] for table in (words.COUNTED, words.TIMED) if metric in table]
    return tuple(dict.fromkeys(facts))


def query_of(body: AggregationBody, organisation: Organisation, settings: SimulatorSettings) -> AggregateQuery:
    """Return what `body` asks for.

    Raises:
        ApiError: 400, in the vendor's words.
    """
    _check_words(body)
    return AggregateQuery(
        edges=_edges(body, settings.max_buckets),
        group_by=tuple(name for name in dict.fromkeys(body.group_by or ()) if organisation.size(name)),
        facts=_facts(body.metrics),
        condition=_filter(body, organisation),
    )


Stats = list[dict[str, Any] | None]


def _counted(found: Column) -> Stats:
    return [{"count": count} if count else None for count in found.count.tolist()]


def _timed(found: Column) -> Stats:
    figures = zip(found.high.tolist(), found.low.tolist(), found.count.tolist(), found.total.tolist(), strict=True)
    return [
        {"max": float(high), "min": float(low), "count": count, "sum": float(total)} if count else None
        for high, low, count, total in figures
    ]


def _service_level(met: Column, resolved: Column, target: float) -> Stats:
    return [
        {"ratio": part / whole, "numerator": part, "denominator": whole, "target": target} if whole else None
        for part, whole in zip(met.count.tolist(), resolved.count.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Answer:
    """The figures of a query, cut where they are cut; written out a page of groups at a time.

    Attributes:
        aggregate: The figures.
        metrics: As asked; their order is kept.
        groups: The groups that occur, in the order in which they first do.
        members: The cells of each group, in time order.
        target: Share told as the service level's target.
    """

    aggregate: Aggregate
    metrics: tuple[str, ...]
    groups: tuple[int, ...]
    members: Mapping[int, Codes]
    target: float

    def page(self, offset: int, size: int | None, organisation: Organisation) -> list[dict[str, Any]]:
        """Return the vendor's `results` for `size` groups from `offset` on; what is empty is left out."""
        groups = self.groups[offset : None if size is None else offset + size]
        return [
            {"group": self.aggregate.group(group, organisation), "data": self._data(self.members[group])}
            for group in groups
        ]

    def _data(self, cells: Codes) -> list[dict[str, Any]]:
        columns = [(metric, stats) for metric in self.metrics if (stats := self._stats(metric, cells)) is not None]
        data: list[dict[str, Any]] = []
        for place, cell in enumerate(cells.tolist()):
            start, end = self.aggregate.bucket(cell)
            found = [{"metric": metric, "stats": stats[place]} for metric, stats in columns if stats[place] is not None]
            data.append({"interval": f"{intervals.iso(start)}/{intervals.iso(end)}", "metrics": found})
        return data

    def _stats(self, metric: str, cells: Codes) -> Stats | None:
        """Return the stats of `metric` at each cell; None for a metric the simulator has no data for."""
        if metric in words.COUNTED:
            return _counted(self.aggregate.at(words.COUNTED[metric], cells))
        if metric in words.TIMED:
            return _timed(self.aggregate.at(words.TIMED[metric], cells))
        if metric == words.SERVICE_LEVEL:
            met, resolved = (self.aggregate.at(fact, cells) for fact in ("in_target", "resolved"))
            return _service_level(met, resolved, self.target)
        return None


def answer_of(aggregate: Aggregate, metrics: Iterable[str], max_cells: int | None, target: float) -> Answer:
    """Return the answer that holds the first `max_cells` group-buckets in time; None for all."""
    cells = aggregate.cells()[:max_cells]
    group_of = cells % aggregate.groups
    order = np.argsort(group_of, kind="stable")
    groups, firsts = np.unique(group_of, return_index=True)
    starts = np.searchsorted(group_of[order], groups)
    members = dict(zip(groups.tolist(), np.split(cells[order], starts[1:]), strict=False))
    by_appearance = tuple(groups[np.argsort(firsts)].tolist())
    return Answer(aggregate, tuple(dict.fromkeys(metrics)), by_appearance, members, target)
