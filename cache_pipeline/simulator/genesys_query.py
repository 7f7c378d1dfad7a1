"""The body of an aggregate query, read strictly, and its answer in the vendor's shape.

Known to the vendor and refused here with a 400 that says so: `views`, `alternateTimeDimension`, `sortMetric`, `limit`,
`queryType` other than `groupBy`. Unknown fields are refused too; what the vendor
does with them is not documented. A metric or dimension the vendor knows and the simulator has no data for gives none.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cache_pipeline.simulator import genesys_vocabulary as words
from cache_pipeline.simulator import intervals
from cache_pipeline.simulator.aggregate import Aggregate, AggregateQuery, Column
from cache_pipeline.simulator.calls import Codes
from cache_pipeline.simulator.errors import ApiError, bad_request, invalid_value
from cache_pipeline.simulator.filters import Condition
from cache_pipeline.simulator.genesys_filters import Filter, all_of, condition_of, unimplemented
from cache_pipeline.simulator.organisation import Organisation
from cache_pipeline.simulator.settings import SimulatorSettings

_NOT_IMPLEMENTED = ("views", "alternate_time_dimension", "sort_metric", "limit")


class AggregationBody(BaseModel):
    """The JSON body, in the vendor's spelling."""

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
        name: As in its paths.
        metrics: Those the vendor knows.
        dimensions: Those it can group and filter by.
        permissions: Of which a client's role needs any.
        facts: Metrics that the simulator has figures for, and the fact each comes from.
        made_up: Of the dimensions those that no call has of itself.
    """

    name: str
    metrics: Set[str]
    dimensions: Set[str]
    permissions: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    made_up: tuple[str, ...] = ()


CONVERSATIONS = Family(
    "conversations", words.METRICS, words.DIMENSIONS, ("analytics:conversationAggregate:view",), words.CALL_FACTS
)
FLOWS = Family("flows", words.FLOW_METRICS, words.FLOW_DIMENSIONS, ("analytics:flowAggregate:view",), words.FLOW_FACTS)
USERS = Family("users", words.USER_METRICS, words.USER_DIMENSIONS, ("analytics:userAggregate:view",))


def check_words(body: AggregationBody, family: Family) -> None:
    """Raise a 400 for what the vendor does not know, or this simulator cannot do."""
    if len(body.views or ()) > _MAX_VIEWS:
        raise bad_request(f"views: at most {_MAX_VIEWS} in a query")
    for name in _NOT_IMPLEMENTED:
        if getattr(body, name):
            raise unimplemented(AggregationBody.model_fields[name].alias or name)
    if body.query_type not in (None, "groupBy"):
        raise unimplemented(f"queryType {body.query_type}")
    for asked, known, where in (
        (body.metrics, family.metrics, "metrics"),
        (body.group_by or [], family.dimensions, "groupBy"),
    ):
        for name in asked:
            if name not in known:
                raise invalid_value(name, where, ", ".join(sorted(known)))


def edges_of(body: AggregationBody, max_buckets: int) -> intervals.Milliseconds:
    """Return the edges of the buckets of a query.

    Raises:
        ApiError: 400, in the vendor's words.
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
        return intervals.whole(interval)
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


def query_of(
    body: AggregationBody,
    family: Family,
    organisation: Organisation,
    settings: SimulatorSettings,
    seen: Condition | None,
) -> AggregateQuery:
    """Return what `body` asks for of the calls that the client may see.

    Raises:
        ApiError: 400, in the vendor's words.
    """
    check_words(body, family)
    return AggregateQuery(
        edges=edges_of(body, settings.max_buckets),
        group_by=tuple(name for name in dict.fromkeys(body.group_by or ()) if organisation.size(name)),
        facts=_facts(body.metrics, family),
        condition=all_of(seen, condition_of(body.filter, organisation, family.dimensions)),
        made_up=family.made_up,
    )


Stats = list[dict[str, Any] | None]


def _counted(found: Column) -> Stats:
    return [{"count": count} if count else None for count in found.count.tolist()]


def _measured(found: Column) -> Stats:
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


def _service_target(resolved: Column, target: float) -> Stats:
    return [{"target": target} if whole else None for whole in resolved.count.tolist()]


@dataclass(frozen=True)
class Answer:
    """The figures of a query, cut where they are cut; written out a page of groups at a time.

    Attributes:
        aggregate: The figures.
        facts: The metrics as asked, each with the fact it comes from, None where it is made of several or of none.
        groups: The groups that occur, in the order in which they first do.
        members: The cells of each group, in time order.
        target: Share told as the service level's target.
        organisation: Whose ids the groups are told by.
    """

    aggregate: Aggregate
    facts: Mapping[str, str | None]
    groups: tuple[int, ...]
    members: Mapping[int, Codes]
    target: float
    organisation: Organisation

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self.groups)

    def page(self, offset: int, size: int) -> dict[str, Any]:
        """Return the vendor's `results` for `size` groups from `offset` on; what is empty is left out."""
        results = [
            {"group": self.aggregate.group(group, self.organisation), "data": self._data(self.members[group])}
            for group in self.groups[offset : offset + size]
        ]
        return {"results": results}

    def _data(self, cells: Codes) -> list[dict[str, Any]]:
        columns = [(metric, stats) for metric in self.facts if (stats := self._stats(metric, cells)) is not None]
        data: list[dict[str, Any]] = []
        for place, cell in enumerate(cells.tolist()):
            start, end = self.aggregate.bucket(cell)
            found = [{"metric": metric, "stats": stats[place]} for metric, stats in columns if stats[place] is not None]
            data.append({"interval": f"{intervals.iso(start)}/{intervals.iso(end)}", "metrics": found})
        return data

    def _stats(self, metric: str, cells: Codes) -> Stats | None:
        """Return the stats of `metric` at each cell; None for a metric the simulator has no data for."""
        if metric in words.SERVICE_LEVELS:
            met, resolved = (self.aggregate.at(fact, cells) for fact in ("in_target", "resolved"))
            return _service_level(met, resolved, self.target)
        if metric == words.SERVICE_TARGET:
            return _service_target(self.aggregate.at("resolved", cells), self.target)
        fact = self.facts[metric]
        if fact is None:
            return None
        found = self.aggregate.at(fact, cells)
        return _counted(found) if metric.startswith("n") else _measured(found)


def answer_of(
    aggregate: Aggregate,
    metrics: Iterable[str],
    family: Family,
    max_cells: int | None,
    target: float,
    organisation: Organisation,
) -> Answer:
    """Return the answer that holds the first `max_cells` group-buckets in time; None for all."""
    cells = aggregate.cells()[:max_cells]
    group_of = cells % aggregate.groups
    order = np.argsort(group_of, kind="stable")
    groups, firsts = np.unique(group_of, return_index=True)
    starts = np.searchsorted(group_of[order], groups)
    members = dict(zip(groups.tolist(), np.split(cells[order], starts[1:]), strict=False))
    by_appearance = tuple(groups[np.argsort(firsts)].tolist())
    facts = {metric: family.facts.get(metric) for metric in metrics}
    return Answer(aggregate, facts, by_appearance, members, target, organisation)
