"""The guide's payload (G1): ``reportId``, ``timeGrouping``, ``interval``, ``filters``; and what the contract adds to it."""

from __future__ import annotations

from collections.abc import Mapping

from cache_pipeline.query.errors import InvalidQuery
from cache_pipeline.query.payload import (
    Payload,
    filter_of,
    names_of,
    object_of,
    refuse_unknown,
    required_text,
    text_of,
)
from cache_pipeline.query.query_request import Narrowing

_FIELDS = frozenset({"reportId", "timeGrouping", "interval", "filters", "groupBy", "columns", "timeZone"})
_PERIODS: Mapping[str, str] = {
    "by15minutes": "PT15M",
    "by30minutes": "PT30M",
    "byhour": "PT1H",
    "byday": "P1D",
    "byweek": "P1W",
    "bymonth": "P1M",
}


def read_guide(body: object) -> Payload:
    """Read a payload of the guide's contract; request ids and metadata are no part of the question (G6).

    Raises:
        InvalidQuery: naming the field, what is wrong with it and how to mend it.
    """
    said = object_of(body, "payload")
    refuse_unknown(said, _FIELDS)
    narrowing = Narrowing(
        group_by=names_of(said, "groupBy"),
        metrics=names_of(said, "columns"),
        granularity=_granularity(text_of(said, "timeGrouping")),
        time_zone=text_of(said, "timeZone"),
        filters=filter_of(said.get("filters"), "filters"),
    )
    return Payload(
        "reportdata",
        required_text(said, "reportId", "queue-performance"),
        required_text(said, "interval", "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z"),
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
