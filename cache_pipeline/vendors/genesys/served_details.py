"""The detail jobs of Genesys Cloud: their answers are the vendor's own, page by page, and one job answers all who ask the same.

A question is the same if it differs only in the order of its filters, in how its instants are written, or in fields that have the
vendor's default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.payload import (
    check_text,
    read_object,
    read_required_text,
    read_text,
    reject_unknown_fields,
)
from cache_pipeline.query.zones import time_zone
from cache_pipeline.vendors.genesys.details import DETAILS_PAGE_SIZE
from cache_pipeline.vendors.served import SharedJobPaths, SharedQuestion, format_instant

_MAX_CONDITIONS = 500
_FILTER_TYPES = ("and", "or")
_PREDICATE_TYPES = ("dimension", "property", "metric")
_OPERATORS = ("matches", "exists", "notExists")
_RANGE = frozenset({"gt", "gte", "lt", "lte"})
_PREDICATE = frozenset({"type", "dimension", "metric", "propertyType", "property", "operator", "value", "range"})
_OPEN_STATES = frozenset({"QUEUED", "PENDING"})
_DONE = "FULFILLED"


@dataclass(frozen=True)
class _Kind:
    """One kind of detail jobs.

    Attributes:
        filters: Its fields that have lists of filters.
        choices: Its other fields that have one of some texts, the first being the default.
        flags: Its fields that are true or false, false being the default.
    """

    filters: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]]
    flags: tuple[str, ...] = ()


_CONVERSATIONS = _Kind(
    ("conversationFilters", "segmentFilters", "evaluationFilters", "surveyFilters", "resolutionFilters"),
    {
        "order": ("asc", "desc", "unordered"),
        "orderBy": ("conversationStart", "conversationEnd", "segmentStart", "segmentEnd"),
    },
    ("startOfDayIntervalMatching",),
)
_USERS = _Kind(
    ("userFilters", "presenceFilters", "routingStatusFilters"),
    {"order": ("asc", "desc", "unordered")},
)


def read_details_question(kind: _Kind, body: object) -> SharedQuestion:
    """Read the body of a submit.

    Raises:
        QueryError: It does not have the documented form.
    """
    fields = read_object(body, "body")
    reject_unknown_fields(fields, {"interval", "limit", *kind.filters, *kind.choices, *kind.flags})
    example = "2026-03-29T00:00:00Z/2026-03-30T00:00:00Z"
    interval = Interval.parse(read_required_text(fields, "interval", example), time_zone("UTC"))
    question: dict[str, object] = {"interval": f"{format_instant(interval.start)}/{format_instant(interval.end)}"}
    for name in kind.filters:
        if filters := _read_list(fields, name, _read_filter):
            question[name] = filters
    for name, choices in kind.choices.items():
        if (choice := _read_choice(fields, name, choices)) not in (None, choices[0]):
            question[name] = choice
    for name in kind.flags:
        if fields.get(name) not in (None, True, False):
            raise InvalidQuery(name, "is neither true nor false")
        if fields.get(name):
            question[name] = True
    if (limit := fields.get("limit")) is not None:
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= 2**31 - 1:
            raise InvalidQuery("limit", "is not a positive whole number")
        question["limit"] = limit
    return SharedQuestion(question, interval.end)


def _read_list(
    fields: Mapping[str, object], name: str, read: Callable[[object, str], Mapping[str, object]]
) -> list[Mapping[str, object]]:
    """Return the conditions in a list, each once, in an order that does not depend on how they were written."""
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise InvalidQuery(name, "is no list")
    if len(cast("list[object]", values)) > _MAX_CONDITIONS:
        raise InvalidQuery(name, f"has more than {_MAX_CONDITIONS} entries")
    written = {json.dumps(read(each, name), sort_keys=True) for each in cast("list[object]", values)}
    return [json.loads(each) for each in sorted(written)]


def _read_filter(value: object, name: str) -> Mapping[str, object]:
    return _read_conditions(value, name, {"clauses": _read_clause, "predicates": _read_predicate})


def _read_clause(value: object, name: str) -> Mapping[str, object]:
    return _read_conditions(value, name, {"predicates": _read_predicate})


def _read_conditions(
    value: object, name: str, lists: Mapping[str, Callable[[object, str], Mapping[str, object]]]
) -> Mapping[str, object]:
    fields = read_object(value, name)
    reject_unknown_fields(fields, {"type", *lists})
    kind = _read_choice(fields, "type", _FILTER_TYPES)
    if kind is None:
        raise InvalidQuery(name, "has a filter without type: write and, or or")
    found = {each: conditions for each, read in lists.items() if (conditions := _read_list(fields, each, read))}
    if not found:
        raise InvalidQuery(name, "has a filter without conditions: leave it out")
    return {"type": kind, **found}


def _read_predicate(value: object, name: str) -> Mapping[str, object]:
    fields = read_object(value, name)
    reject_unknown_fields(fields, _PREDICATE)
    found: dict[str, object] = {}
    for each in ("dimension", "metric", "propertyType", "property", "value"):
        if (text := read_text(fields, each)) is not None:
            found[each] = text
    if (kind := _read_choice(fields, "type", _PREDICATE_TYPES)) is not None:
        found["type"] = kind
    if (operator := _read_choice(fields, "operator", _OPERATORS)) not in (None, _OPERATORS[0]):
        found["operator"] = operator
    if fields.get("range") is not None:
        found["range"] = _read_range(fields["range"])
    return found


def _read_range(value: object) -> Mapping[str, object]:
    fields = read_object(value, "range")
    reject_unknown_fields(fields, _RANGE)
    found = {name: limit for name, limit in fields.items() if limit is not None}
    for name, limit in found.items():
        if isinstance(limit, str):
            check_text(limit, name)
        elif isinstance(limit, bool) or not isinstance(limit, int | float):
            raise InvalidQuery(name, "is neither a number nor a text")
    return found


def _read_choice(fields: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str | None:
    text = read_text(fields, name)
    if text is not None and text not in choices:
        raise InvalidQuery(name, f"is unknown: use {', '.join(choices)}")
    return text


def _describe(status: Mapping[str, Any], expires_at: datetime) -> Mapping[str, object]:
    """Return the vendor's ``AsyncQueryStatus`` of a job that is forgotten here at some instant, or earlier at the vendor."""
    ours = format_instant(expires_at)
    return {**status, "expirationDate": min(ours, str(status.get("expirationDate", ours)))}


def _paths(kind: _Kind, family: str) -> SharedJobPaths:
    jobs = f"/api/v2/analytics/{family}/details/jobs"
    return SharedJobPaths(
        submit=jobs,
        status=f"{jobs}/{{job_id}}",
        results=f"{jobs}/{{job_id}}/results",
        availability=f"{jobs}/availability",
        query_type=family,
        max_page_size=DETAILS_PAGE_SIZE,
        read=partial(read_details_question, kind),
        job_field="jobId",
        available_field="dataAvailabilityDate",
        is_open=lambda status: status.get("state") in _OPEN_STATES,
        is_done=lambda status: status.get("state") == _DONE,
        describe=_describe,
    )


SERVED_DETAILS: tuple[SharedJobPaths, ...] = (_paths(_CONVERSATIONS, "conversations"), _paths(_USERS, "users"))
