"""Aggregate queries: strict parsing of the body, and the answer in the vendor's shape.

`views`, `sortMetric`, `limit` and any `queryType` but `groupBy`, which the vendor supports, are refused
here with a 400 that names them. Unknown fields are refused too; the vendor does not document how it treats them. A metric or
dimension that the vendor knows and the simulator has no data for is absent from the answer.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import genesys_vocabulary as words
from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, Column
from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Condition
from cache_pipeline.simulator.generated_figures import LATE_FAMILIES
from cache_pipeline.simulator.genesys_filters import Filter, all_of, build_condition, unimplemented
from cache_pipeline.simulator.organisation import Organisation
from cache_pipeline.simulator.pages import json_length, most_that_fit
from cache_pipeline.simulator.settings import SimulatorSettings

_UNIMPLEMENTED_FIELDS = ("views", "sort_metric", "limit")


class AggregationBody(BaseModel):
    """The JSON body, with the vendor's field names."""

    model_config = ConfigDict(extra="forbid")

    interval: str
    granularity: str | None = None
    time_zone: Annotated[str | None, Field(alias="timeZone")] = None
    group_by: Annotated[list[str] | None, Field(alias="groupBy")] = None
    metrics: Annotated[list[str], Field(min_length=1)]
    filter: Filter | None = None
    flatten_multivalued_dimensions: Annotated[bool, Field(alias="flattenMultivaluedDimensions")] = False
    page_size: Annotated[int | None, Field(alias="pageSize", strict=True)] = None
    query_type: Annotated[str | None, Field(alias="queryType")] = None
    views: list[Any] | None = None
    alternate_time_dimension: Annotated[str | None, Field(alias="alternateTimeDimension")] = None
    sort_metric: Annotated[Any, Field(alias="sortMetric")] = None
    limit: int | None = None


_MAX_VIEWS = 10


@dataclass(frozen=True)
class Family:
    """A family of aggregates.

    Attributes:
        name: Its name in paths.
        metrics: The metrics that the vendor knows.
        dimensions: The dimensions for groups and filters.
        permissions: Permissions of which any one is sufficient.
        facts: The fact of each metric that the simulator has figures for.
        generated_dimensions: The dimensions whose values are generated, because calls do not have them.
        is_split_by_medium: Whether every group has a `mediaType`, even if the query does not group by it.
    """

    name: str
    metrics: Set[str]
    dimensions: Set[str]
    permissions: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    generated_dimensions: tuple[str, ...] = ()
    is_split_by_medium: bool = False


CONVERSATIONS = Family(
    "conversations",
    words.METRICS,
    words.DIMENSIONS,
    ("analytics:conversationAggregate:view",),
    words.CALL_FACTS,
    is_split_by_medium=True,
)
FLOWS = Family(
    "flows",
    words.FLOW_METRICS,
    words.FLOW_DIMENSIONS,
    ("analytics:flowAggregate:view",),
    words.FLOW_FACTS,
    is_split_by_medium=True,
)
USERS = Family("users", words.USER_METRICS, words.USER_DIMENSIONS, ("analytics:userAggregate:view",))


def check_names(body: AggregationBody, family: Family) -> None:
    """Raise a 400 for names that the vendor does not know and features that this simulator does not implement."""
    if len(body.views or ()) > _MAX_VIEWS:
        raise bad_request(f"views: at most {_MAX_VIEWS} in a query")
    for name in _UNIMPLEMENTED_FIELDS:
        if getattr(body, name):
            raise unimplemented(AggregationBody.model_fields[name].alias or name)
    if body.alternate_time_dimension not in (None, "eventTime"):
        raise invalid_value(body.alternate_time_dimension, "alternateTimeDimension", "eventTime")
    if body.alternate_time_dimension and family.name not in LATE_FAMILIES:
        raise unimplemented(f"alternateTimeDimension of {family.name}")
    if body.query_type not in (None, "groupBy"):
        raise unimplemented(f"queryType {body.query_type}")
    for names, known, field_name in (
        (body.metrics, family.metrics, "metrics"),
        (body.group_by or [], family.dimensions, "groupBy"),
    ):
        for name in names:
            if name not in known:
                raise invalid_value(name, field_name, ", ".join(sorted(known)))


def bucket_edges(body: AggregationBody, max_buckets: int) -> intervals.Milliseconds:
    """Return the edges of the buckets of a query.

    Raises:
        ApiError: 400, with the vendor's message.
    """
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
        return intervals.single_bucket(interval)
    try:
        period = intervals.parse_period(body.granularity)
        return intervals.period_edges(interval, period, zone, max_buckets)
    except intervals.TooManyBucketsError as error:
        raise bad_request(f"granularity: {error}") from error
    except ValueError as error:
        raise invalid_value(body.granularity, "granularity", "ISO-8601 periods such as PT30M, PT1H, P1D") from error


def _facts(metrics: Iterable[str], family: Family) -> tuple[str, ...]:
    facts: list[str] = []
    for metric in metrics:
        if metric in words.SERVICE_LEVELS:
            facts += ["in_target", "resolved"]
        elif metric == words.SERVICE_TARGET:
            facts += ["resolved"]
        elif metric in family.facts:
            facts += [family.facts[metric]]
    return tuple(dict.fromkeys(facts))


def build_query(
    body: AggregationBody,
    family: Family,
    organisation: Organisation,
    settings: SimulatorSettings,
    accessible: Condition | None,
) -> AggregateQuery:
    """Return the query in `body`, limited to the calls that the client can access.

    Raises:
        ApiError: 400, with the vendor's message.
    """
    check_names(body, family)
    unasked = ("mediaType",) if family.is_split_by_medium and settings.split_by_medium else ()
    return AggregateQuery(
        edges=bucket_edges(body, settings.max_buckets),
        group_by=tuple(name for name in dict.fromkeys((*(body.group_by or ()), *unasked)) if organisation.size(name)),
        facts=_facts(body.metrics, family),
        condition=all_of(accessible, build_condition(body.filter, organisation, family.dimensions)),
        generated_dimensions=family.generated_dimensions,
        late=_late(body, family),
    )


def _late(body: AggregationBody, family: Family) -> Literal["call", "event"] | None:
    if family.name not in LATE_FAMILIES:
        return None
    return "event" if body.alternate_time_dimension else "call"


Stats = list[dict[str, Any] | None]


def _count_stats(column: Column) -> Stats:
    return [{"count": count} if count else None for count in column.count.tolist()]


def _value_stats(column: Column) -> Stats:
    figures = zip(column.high.tolist(), column.low.tolist(), column.count.tolist(), column.total.tolist(), strict=True)
    return [
        {"max": float(high), "min": float(low), "count": count, "sum": float(total)} if count else None
        for high, low, count, total in figures
    ]


def _service_level_stats(in_target: Column, resolved: Column, target: float) -> Stats:
    return [
        {"ratio": part / total, "numerator": part, "denominator": total, "target": target} if total else None
        for part, total in zip(in_target.count.tolist(), resolved.count.tolist(), strict=True)
    ]


def _service_target_stats(resolved: Column, target: float) -> Stats:
    return [{"current": target} if count else None for count in resolved.count.tolist()]


@dataclass(frozen=True)
class Answer:
    """The figures of a query, possibly truncated; serialized in pages of groups.

    Attributes:
        aggregate: The figures.
        facts: The requested metrics, each with its fact; None if it is made of several facts or of none.
        groups: The groups that occur, in order of first occurrence.
        members: The cells of each group, in time order.
        target: Share reported as the service level's target.
        organisation: The organisation whose ids the groups have.
    """

    aggregate: Aggregate
    facts: Mapping[str, str | None]
    groups: tuple[int, ...]
    members: Mapping[int, Codes]
    target: float
    organisation: Organisation

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.groups)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return the vendor's `results` for `size` groups from `offset`; empty entries are absent."""
        results = [
            {"group": self.aggregate.group(group, self.organisation), "data": self._data(self.members[group])}
            for group in self.groups[offset : offset + size]
        ]
        return {"results": results}

    def _data(self, cells: Codes) -> list[dict[str, Any]]:
        columns = [(metric, stats) for metric in self.facts if (stats := self._stats(metric, cells)) is not None]
        data: list[dict[str, Any]] = []
        for index, cell in enumerate(cells.tolist()):
            start, end = self.aggregate.bucket(cell)
            metrics = [
                {"metric": metric, "stats": stats[index]} for metric, stats in columns if stats[index] is not None
            ]
            data.append({"interval": f"{intervals.iso(start)}/{intervals.iso(end)}", "metrics": metrics})
        return data

    def _stats(self, metric: str, cells: Codes) -> Stats | None:
        """Return the stats of `metric` in each cell; None for a metric without data."""
        if metric in words.SERVICE_LEVELS:
            in_target, resolved = (self.aggregate.at(fact, cells) for fact in ("in_target", "resolved"))
            return _service_level_stats(in_target, resolved, self.target)
        if metric == words.SERVICE_TARGET:
            return _service_target_stats(self.aggregate.at("resolved", cells), self.target)
        fact = self.facts[metric]
        if fact is None:
            return None
        column = self.aggregate.at(fact, cells)
        return _count_stats(column) if metric.startswith("n") else _value_stats(column)


@dataclass(frozen=True)
class Cut:
    """Where an answer is silently truncated.

    Attributes:
        max_cells: Most group-buckets; None for all.
        max_bytes: Most bytes of JSON; None for all.
        by_group: Whether the group-buckets are in the order of groups, and not in time order.
    """

    max_cells: int | None
    max_bytes: int | None = None
    by_group: bool = False


def build_answer(
    aggregate: Aggregate,
    metrics: Iterable[str],
    family: Family,
    cut: Cut,
    target: float,
    organisation: Organisation,
) -> Answer:
    """Return the answer, truncated by `cut`."""
    cells = aggregate.cells()
    if cut.by_group:
        cells = cells[np.argsort(cells % aggregate.groups, kind="stable")]
    facts = {metric: family.facts.get(metric) for metric in metrics}

    def first_cells(count: int) -> Answer:
        return _answer(aggregate, facts, cells[:count], target, organisation)

    count = len(cells[: cut.max_cells])
    if cut.max_bytes is not None:
        count = most_that_fit(count, cut.max_bytes, lambda size: json_length(first_cells(size).page(0, size)))
    return first_cells(count)


def _answer(
    aggregate: Aggregate,
    facts: Mapping[str, str | None],
    cells: Codes,
    target: float,
    organisation: Organisation,
) -> Answer:
    group_of = cells % aggregate.groups
    order = np.argsort(group_of, kind="stable")
    groups, firsts = np.unique(group_of, return_index=True)
    starts = np.searchsorted(group_of[order], groups)
    members = dict(zip(groups.tolist(), np.split(cells[order], starts[1:]), strict=False))
    groups_by_first_cell = tuple(groups[np.argsort(firsts)].tolist())
    return Answer(aggregate, facts, groups_by_first_cell, members, target, organisation)
