"""The body of a Genesys Cloud aggregates query: ``interval``, ``granularity``, ``groupBy``, ``metrics``, ``filter``.

What would change the figures and cannot be answered from kept rows is refused by name: ``views``, ``sortMetric``, ``limit``,
another ``queryType``, predicates on metrics, properties and ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.calendar import Step, is_aligned, next_boundary
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.payload import (
    QueryPayload,
    read_filter,
    read_names,
    read_object,
    read_required_text,
    read_text,
    reject_unknown_fields,
)
from cache_pipeline.query.query_request import QueryOverrides
from cache_pipeline.query.zones import time_zone

_FIELDS = frozenset(
    {"interval", "granularity", "timeZone", "groupBy", "metrics", "filter", "flattenMultivaluedDimensions", "queryType"}
)
_UNANSWERED: Mapping[str, str] = {
    "views": "ranges of a metric are counted by the vendor alone: leave it out, or declare a report for it",
    "alternateTimeDimension": "rows are kept by the time their events were emitted: leave it out",
    "sortMetric": "rows come by bucket and group: sort what you get",
    "limit": "every group is answered: cut what you get",
}  # fmt: skip
_WHOLE_STEPS = ("PT15M", "PT30M", "PT1H", "P1D", "P1W", "P1M")


def read_genesys(body: object, family: str) -> QueryPayload:
    """Read the body of an aggregates query.

    Args:
        body: as it would be sent to the vendor.
        family: which aggregates, as ``conversations``.

    Raises:
        InvalidQuery: naming the field, what is wrong with it and how to mend it.
    """
    said = read_object(body, "payload")
    reject_unknown_fields(said, _FIELDS | _UNANSWERED.keys())
    for field, instead in _UNANSWERED.items():
        if said.get(field) not in (None, [], {}):
            raise InvalidQuery(field, f"cannot be answered from kept rows, {instead}")
    if said.get("queryType") not in (None, "groupBy"):
        raise InvalidQuery("queryType", "only groupBy is answered from kept rows: sort and cut what you get")
    if said.get("flattenMultivaluedDimensions") not in (None, False):
        raise InvalidQuery("flattenMultivaluedDimensions", "rows are kept with one value each: leave it out")
    zone = read_text(said, "timeZone")
    interval = read_required_text(said, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z")
    narrowing = QueryOverrides(
        # The vendor groups by nothing where nothing is named.
        group_by=read_names(said, "groupBy") or (),
        metrics=read_names(said, "metrics"),
        granularity=read_text(said, "granularity") or _whole(interval, zone or "UTC"),
        time_zone=zone or "UTC",
        filters=_filter(said.get("filter")),
    )
    if not narrowing.metrics:
        raise InvalidQuery("metrics", "is missing: name at least one, as nOffered")
    return QueryPayload("genesys", family, interval, narrowing)


def _whole(interval: str, zone: str) -> str:
    """The period that an interval is one bucket of: without a granularity the vendor answers all of it as one."""
    span, local = Interval.parse(interval, time_zone(zone)), time_zone(zone)
    for period in _WHOLE_STEPS:
        step = Step.parse(period)
        if is_aligned(span, step, local) and next_boundary(span.start, step, local) == span.end:
            return period
    raise InvalidQuery(
        "granularity",
        f"is missing, which means all of {span} as one bucket, and that is no quarter, half or whole hour, day, week or "
        f"month of {zone}: name one",
    )


def _filter(said: object) -> Filter | None:
    if said is None:
        return None
    return read_filter(_clause(read_object(said, "filter"), "filter", ("type", "clauses", "predicates")), "filter")


def _clause(said: Mapping[str, object], place: str, known: tuple[str, ...]) -> dict[str, object]:
    _refuse_others(said, place, known)
    found: dict[str, object] = {"type": said.get("type", "and")}
    if found["type"] not in ("and", "or"):
        raise InvalidQuery(f"{place}.type", "is neither and nor or")
    for name, read in (("predicates", _predicate), ("clauses", _inner_clause)):
        parts = said.get(name)
        if parts is None:
            continue
        if not isinstance(parts, list):
            raise InvalidQuery(f"{place}.{name}", "is no list")
        found[name] = [
            read(read_object(part, f"{place}.{name}.{number}"), f"{place}.{name}.{number}")
            for number, part in enumerate(cast("list[object]", parts))
        ]
    return found


def _inner_clause(said: Mapping[str, object], place: str) -> dict[str, object]:
    return _clause(said, place, ("type", "predicates"))


def _predicate(said: Mapping[str, object], place: str) -> dict[str, object]:
    for name in ("metric", "property", "propertyType", "range"):
        if said.get(name) is not None:
            raise InvalidQuery(f"{place}.{name}", "cannot be told from kept rows: only values of dimensions can")
    _refuse_others(
        said, place, ("type", "dimension", "operator", "value", "metric", "property", "propertyType", "range")
    )
    if said.get("type") not in (None, "dimension"):
        raise InvalidQuery(f"{place}.type", "only predicates of type dimension can be told from kept rows")
    operator, dimension = said.get("operator") or "matches", said.get("dimension")
    if not isinstance(dimension, str):
        raise InvalidQuery(f"{place}.dimension", "is missing: name one, as queueId")
    if operator in ("exists", "notExists"):
        return {"dimension": dimension, "operator": operator}
    if operator != "matches":
        raise InvalidQuery(f"{place}.operator", "is none of matches, exists, notExists")
    if said.get("value") is None:
        raise InvalidQuery(f"{place}.value", "is missing: write one, or the operator notExists for having none")
    return {"dimension": dimension, "operator": "in", "values": [said["value"]]}


def _refuse_others(said: Mapping[str, object], place: str, known: tuple[str, ...]) -> None:
    for name in said:
        if name not in known:
            raise InvalidQuery(f"{place}.{str(name)[:80]}", f"is no field of it: it has {', '.join(known)}")
