"""A question as it comes in, checked, in the one form that keys, jobs and links are made of."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from starlette.types import Scope

from cache_pipeline.api.auth import Principal
from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import InvalidInterval, InvalidQuery
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.payload import find_report_for, read_filter
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.ttl import HOT_TTL_TIER
from cache_pipeline.vendors.reportdata.query_payload import read_guide

#: The part of a key that says which lifetime it has (G7), for what lives as long as the query is open.
_JOB = "job"
#: In a job's request: provisional figures are asked of the vendor again, however fresh they are.
REFRESH = "refresh"


@dataclass(frozen=True)
class ParsedQuery:
    """One question.

    Attributes:
        wanted: the question, held against its report.
        query: what of it has begun, for one tenant.
        refresh: whether provisional figures are asked of the vendor again, however fresh they are.
    """

    wanted: QueryRequest
    query: CanonicalQuery
    refresh: bool = False

    @property
    def report(self) -> Report:
        """The declaration whose rows answer it."""
        return self.wanted.declared

    @property
    def key(self) -> str:
        """The same for every spelling of the same meaning (G6), and other for another report: each keeps its own rows."""
        return f"{self.report.name}:{self.query.cache_key(_JOB)}{':' + REFRESH if self.refresh else ''}"

    @cached_property
    def hot_key(self) -> str:
        """Of its answer in the hot tier."""
        return self.query.cache_key(HOT_TTL_TIER)

    @cached_property
    def request(self) -> dict[str, Any]:
        """What a worker needs to ask the same: the interval, and what is otherwise than declared."""
        declared, asked = self.wanted.declared, self.wanted.requested
        request: dict[str, Any] = {"interval": str(self.query.interval)}
        for name in ("group_by", "metrics"):
            if getattr(asked, name) != getattr(declared, name):
                request[name] = list(getattr(asked, name))
        for name in ("granularity", "time_zone"):
            if getattr(asked, name) != getattr(declared, name):
                request[name] = getattr(asked, name)
        if asked.filters != declared.filters:
            request["filters"] = asked.filters.declaration.model_dump(mode="json", exclude_defaults=True)
        if self.refresh:
            request[REFRESH] = True
        return request


def read_overrides(request: Mapping[str, Any]) -> QueryOverrides:
    """The narrowing of a request.

    Raises:
        InvalidQuery: its filter makes no sense.
    """

    def names(field: str) -> tuple[str, ...] | None:
        return tuple(request[field]) if request.get(field) is not None else None

    return QueryOverrides(
        group_by=names("group_by"),
        metrics=names("metrics"),
        granularity=request.get("granularity"),
        time_zone=request.get("time_zone"),
        filters=read_filter(request.get("filters"), "filters"),
    )


def href(report: str, request: Mapping[str, Any]) -> str:
    """Where the answer to a request is."""
    parameters: dict[str, str] = {
        name: value if isinstance(value, str) else ",".join(value) if isinstance(value, Sequence) else json.dumps(value)
        for name, value in request.items()
        if name != REFRESH
    }
    return f"/v1/reports/{report}?{urlencode(parameters, safe=':/,')}"


def parse_list(value: str | None) -> list[str] | None:
    """Names with commas between, as a URL has them; an empty text names none."""
    return None if value is None else [name for part in value.split(",") if (name := part.strip())]


def parse_filters(text: str | None) -> Any:
    """A filter as a URL has it.

    Raises:
        InvalidQuery: it is not JSON.
    """
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidQuery("filters", 'is not JSON: write {"predicates": [...]}') from error


def check_permission(reports: Mapping[str, Report], name: str, caller: Principal) -> Report:
    """The report of a name.

    Raises:
        UnknownReport: naming those there are for this caller.
        Problem: 403, the report is not among the caller's.
    """
    found = find_report({each: reports[each] for each in reports if caller.may_ask(each) or each == name}, name)
    if not caller.may_ask(name):
        raise Problem("forbidden", 403, f"this key may not ask for {name}")
    return found


def parse_query(service: ReportService, report: Report, request: Mapping[str, Any], most_buckets: int) -> ParsedQuery:
    """Check a question that is asked of a report by name.

    Raises:
        InvalidInterval: not an interval, off the report's buckets, before its start, in the future, or longer than is allowed.
        InvalidQuery: naming the field that the report's rows cannot answer.
    """
    columns = service.columns(report)
    return _begun(service, resolve_request(report, request["interval"], read_overrides(request), columns), most_buckets)


def parse_payload(
    service: ReportService, reports: Mapping[str, Report], body: object, caller: Principal, most_buckets: int
) -> ParsedQuery:
    """Check a question in the guide's words (G1), and find the report that answers it.

    Raises:
        QueryError: what is wrong with it, and where.
    """
    own = {name: report for name, report in reports.items() if caller.may_ask(name)}
    return _begun(service, find_report_for(read_guide(body), own, service.columns), most_buckets)


def _begun(service: ReportService, wanted: QueryRequest, most_buckets: int) -> ParsedQuery:
    _check_length(wanted.interval, wanted.requested, most_buckets)
    _check_start(wanted.interval, wanted.declared)
    return ParsedQuery(wanted, service.clip_to_now(wanted))


def _check_start(interval: Interval, report: Report) -> None:
    """A year that is mistyped would be asked of the vendor day by day, and its quota be gone for everybody."""
    first = datetime.combine(report.start, time(), report.zone)
    if interval.start < first:
        raise InvalidInterval(
            f"interval {interval} begins before {report.name} does: ask from {format_instant(first)} on"
        )


def _check_length(interval: Interval, report: Report, most_buckets: int) -> None:
    count = interval.length / report.step.nominal_length
    if count > most_buckets:
        raise InvalidInterval(
            f"interval {interval} has {count:.0f} buckets of {report.granularity}, more than the {most_buckets} that "
            "one query may have: ask in parts"
        )


_MOST_QUESTIONS = 10_000


@dataclass(frozen=True)
class CachedParse:
    """A URL that was answered before.

    Attributes:
        key: in Redis.
        report: the declaration.
        query: what it asks.
        until: when more of the interval will have begun, so that the question is another; None for never.
    """

    key: str
    report: Report
    query: CanonicalQuery
    until: datetime | None


class ParseCache:
    """Which URL means which key, by tenant: reading a question costs more than answering it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, bytes], CachedParse] = OrderedDict()

    def remember(self, tenant: str, scope: Scope, report: Report, query: CanonicalQuery, *, is_whole: bool) -> None:
        """Keep what a URL was found to mean.

        Args:
            tenant: whose data was asked for.
            scope: of the request.
            report: the declaration.
            query: what it asks.
            is_whole: whether all of the interval that the URL names has begun.
        """
        until = None if is_whole else query.available_interval.end
        place = (tenant, scope["path"], scope["query_string"])
        self._known[place] = CachedParse(query.cache_key(HOT_TTL_TIER), report, query, until)
        self._known.move_to_end(place)
        while len(self._known) > _MOST_QUESTIONS:
            self._known.popitem(last=False)

    def find(self, tenant: str, scope: Scope) -> CachedParse | None:
        """What a URL means, where that is known."""
        found = self._known.get((tenant, scope["path"], scope["query_string"]))
        return found if found is not None and (found.until is None or self._clock() < found.until) else None
