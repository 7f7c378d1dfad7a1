"""The body of a Genesys Cloud aggregates query: ``interval``, ``granularity``, ``groupBy``, ``metrics``, ``filter``.

Fields that change the figures and that stored rows cannot answer are refused by name: ``views``, ``sortMetric``, ``limit``,
another ``queryType``, and predicates on metrics, properties and ranges.
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
_UNSUPPORTED: Mapping[str, str] = {
    "views": "only the vendor counts ranges of a metric: remove it, or declare a report for it",
    "alternateTimeDimension": "rows are stored by the time at which their events were emitted: remove it",
    "sortMetric": "rows are ordered by bucket and group: sort the answer yourself",
    "limit": "the answer includes every group: truncate it yourself",
}  # fmt: skip
_WHOLE_PERIODS = ("PT15M", "PT30M", "PT1H", "P1D", "P1W", "P1M")


def read_genesys(body: object, family: str) -> QueryPayload:
    """Read the body of an aggregates query.

    Args:
        body: The body as a client would send it to the vendor.
        family: Family of aggregates, such as ``conversations``.

    Raises:
        InvalidQuery: A field is wrong; the error names the field, the problem and the remedy.
    """
    payload = read_object(body, "payload")
    reject_unknown_fields(payload, _FIELDS | _UNSUPPORTED.keys())
    for field, remedy in _UNSUPPORTED.items():
        if payload.get(field) not in (None, [], {}):
            raise InvalidQuery(field, f"cannot be answered from stored rows; {remedy}")
    if payload.get("queryType") not in (None, "groupBy"):
        raise InvalidQuery(
            "queryType", "stored rows can only answer groupBy: use groupBy, then sort and truncate the answer yourself"
        )
    if payload.get("flattenMultivaluedDimensions") not in (None, False):
        raise InvalidQuery("flattenMultivaluedDimensions", "rows are stored with one value each: remove it")
    zone = read_text(payload, "timeZone")
    interval = read_required_text(payload, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z")
    overrides = QueryOverrides(
        # Without groupBy the vendor does not group at all.
        group_by=read_names(payload, "groupBy") or (),
        metrics=read_names(payload, "metrics"),
        granularity=read_text(payload, "granularity") or _granularity_of_whole(interval, zone or "UTC"),
        time_zone=zone or "UTC",
        filters=read_vendor_filter(payload.get("filter")),
    )
    if not overrides.metrics:
        raise InvalidQuery("metrics", "is missing: name at least one, such as nOffered")
    return QueryPayload("genesys", family, interval, overrides)


def find_whole_period(interval: Interval, zone: str) -> str | None:
    """Return the granularity that makes an interval one bucket, or None if none does."""
    local = time_zone(zone)
    for period in _WHOLE_PERIODS:
        step = Step.parse(period)
        if is_aligned(interval, step, local) and next_boundary(interval.start, step, local) == interval.end:
            return period
    return None


def find_dividing_period(interval: Interval, zone: str) -> str | None:
    """Return the longest granularity whose buckets make up an interval, or None if none does."""
    local = time_zone(zone)
    return next((each for each in reversed(_WHOLE_PERIODS) if is_aligned(interval, Step.parse(each), local)), None)


def _granularity_of_whole(text: str, zone: str) -> str:
    """Return the granularity that makes an interval one bucket, as the vendor answers without a granularity."""
    interval = Interval.parse(text, time_zone(zone))
    if period := find_whole_period(interval, zone):
        return period
    raise InvalidQuery(
        "granularity",
        f"is missing, which means all of {interval} as one bucket, but that is not a quarter, half or whole hour, day, week "
        f"or month in {zone}: set a granularity",
    )


def read_vendor_filter(value: object) -> Filter | None:
    """Return a filter in canonical form, or None if it matches every row.

    Raises:
        InvalidQuery: A predicate is invalid, or stored figures cannot answer it.
    """
    if value is None:
        return None
    return read_filter(_clause(read_object(value, "filter"), "filter", ("type", "clauses", "predicates")), "filter")


def _clause(clause: Mapping[str, object], path: str, known: tuple[str, ...]) -> dict[str, object]:
    _reject_unknown(clause, path, known)
    result: dict[str, object] = {"type": clause.get("type", "and")}
    if result["type"] not in ("and", "or"):
        raise InvalidQuery(f"{path}.type", "must be and or or")
    for name, read in (("predicates", _predicate), ("clauses", _inner_clause)):
        parts = clause.get(name)
        if parts is None:
            continue
        if not isinstance(parts, list):
            raise InvalidQuery(f"{path}.{name}", "must be a list")
        result[name] = [
            read(read_object(part, f"{path}.{name}.{number}"), f"{path}.{name}.{number}")
            for number, part in enumerate(cast("list[object]", parts))
        ]
    return result


def _inner_clause(clause: Mapping[str, object], path: str) -> dict[str, object]:
    return _clause(clause, path, ("type", "predicates"))


def _predicate(predicate: Mapping[str, object], path: str) -> dict[str, object]:
    for name in ("metric", "property", "propertyType", "range"):
        if predicate.get(name) is not None:
            raise InvalidQuery(
                f"{path}.{name}", "cannot be answered from stored rows: use predicates on dimension values"
            )
    _reject_unknown(
        predicate, path, ("type", "dimension", "operator", "value", "metric", "property", "propertyType", "range")
    )
    if predicate.get("type") not in (None, "dimension"):
        raise InvalidQuery(f"{path}.type", "stored rows can only answer predicates of type dimension: use dimension")
    operator, dimension = predicate.get("operator") or "matches", predicate.get("dimension")
    if not isinstance(dimension, str):
        raise InvalidQuery(f"{path}.dimension", "is missing: name one, such as queueId")
    if operator in ("exists", "notExists"):
        return {"dimension": dimension, "operator": operator}
    if operator != "matches":
        raise InvalidQuery(f"{path}.operator", "is unknown: use matches, exists or notExists")
    if predicate.get("value") is None:
        raise InvalidQuery(
            f"{path}.value", "is missing: set one, or use the operator notExists to match conversations without a value"
        )
    return {"dimension": dimension, "operator": "in", "values": [predicate["value"]]}


def _reject_unknown(source: Mapping[str, object], path: str, known: tuple[str, ...]) -> None:
    for name in source:
        if name not in known:
            raise InvalidQuery(f"{path}.{str(name)[:80]}", f"is an unknown field; expected one of {', '.join(known)}")
