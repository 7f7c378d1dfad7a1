"""The guide's query payload (G1): ``reportId``, ``timeGrouping``, ``interval``, ``filters`` and the contract's additions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_GRANULARITIES: Mapping[str, str] = {
    "by15minutes": "PT15M",
    "by30minutes": "PT30M",
    "byhour": "PT1H",
    "byday": "P1D",
    "byweek": "P1W",
    "bymonth": "P1M",
}
#: Examples for the description of the HTTP API.
PAYLOAD_EXAMPLES: Mapping[str, Any] = {
    "guide": {
        "summary": "A day by hour, of some queues",
        "value": {
            "reportId": "queue-performance",
            "timeGrouping": "byHour",
            "interval": "2026-11-16T00:00:00Z/2026-11-17T00:00:00Z",
            "filters": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "in", "values": ["q-1"]}]},
        },
    }
}


def read_guide(body: object) -> QueryPayload:
    """Read a payload of the guide's contract; request ids and metadata do not belong to the query (G6).

    Raises:
        InvalidQuery: A field is wrong; the error names the field, the problem and the remedy.
    """
    payload = read_object(body, "payload")
    reject_unknown_fields(payload, _FIELDS)
    overrides = QueryOverrides(
        group_by=read_names(payload, "groupBy"),
        metrics=read_names(payload, "columns"),
        granularity=_granularity(read_text(payload, "timeGrouping")),
        time_zone=read_text(payload, "timeZone"),
        filters=read_filter(payload.get("filters"), "filters"),
    )
    return QueryPayload(
        "reportdata",
        read_required_text(payload, "reportId", "queue-performance"),
        read_required_text(payload, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z"),
        overrides,
    )


def _granularity(grouping: str | None) -> str | None:
    if grouping is None or grouping.startswith("P"):
        return grouping
    try:
        return _GRANULARITIES[grouping.lower()]
    except KeyError:
        raise InvalidQuery(
            "timeGrouping",
            f"unknown value {grouping!r}; expected by15Minutes, by30Minutes, byHour, byDay, byWeek, byMonth, or a period "
            "such as PT1H",
        ) from None
