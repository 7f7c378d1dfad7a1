"""The guide's payload (G1): ``reportId``, ``timeGrouping``, ``interval``, ``filters``; and what the contract adds to it."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.errors import InvalidQuery
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

_FIELDS = frozenset({"reportId", "timeGrouping", "interval", "filters", "groupBy", "columns", "timeZone"})
_PERIODS: Mapping[str, str] = {
    "by15minutes": "PT15M",
    "by30minutes": "PT30M",
    "byhour": "PT1H",
    "byday": "P1D",
    "byweek": "P1W",
    "bymonth": "P1M",
}


def read_guide(body: object) -> QueryPayload:
    """Read a payload of the guide's contract; request ids and metadata are no part of the question (G6).

    Raises:
        InvalidQuery: naming the field, what is wrong with it and how to mend it.
    """
    said = read_object(body, "payload")
    reject_unknown_fields(said, _FIELDS)
    narrowing = QueryOverrides(
        group_by=read_names(said, "groupBy"),
        metrics=read_names(said, "columns"),
        granularity=_granularity(read_text(said, "timeGrouping")),
        time_zone=read_text(said, "timeZone"),
        filters=read_filter(said.get("filters"), "filters"),
    )
    return QueryPayload(
        "reportdata",
        read_required_text(said, "reportId", "queue-performance"),
        read_required_text(said, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z"),
        narrowing,
    )


def _granularity(grouping: str | None) -> str | None:
    if grouping is None or grouping.startswith("P"):
        return grouping
    try:
        return _PERIODS[grouping.lower()]
    except KeyError:
        raise InvalidQuery(
            "timeGrouping",
            f"{grouping!r} is none: write by15Minutes, by30Minutes, byHour, byDay, byWeek, byMonth, or a period as PT1H",
        ) from None
