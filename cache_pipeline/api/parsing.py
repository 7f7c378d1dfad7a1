"""Parsing of queries: checks a request and brings it into the canonical form behind keys, jobs and links."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.types import Scope

from cache_pipeline.api.key_limits import check_query_type, limit_overrides, limit_payload, may_query
from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import InvalidInterval, InvalidQuery, QueryError
from cache_pipeline.query.ad_hoc import declare_ad_hoc, read_ad_hoc
from cache_pipeline.query.calendar import Step
from cache_pipeline.query.declarations import find_report
from cache_pipeline.query.interval import Interval, format_instant
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.measure_columns import choose_measures
from cache_pipeline.query.measures import Measure
from cache_pipeline.query.names import NameTime
from cache_pipeline.query.payload import QueryPayload, find_report_for, read_filter
from cache_pipeline.query.query_request import QueryOverrides, QueryRequest, resolve_request
from cache_pipeline.query.report import Report
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.service.past_answers import parse_as_of
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.ttl import HOT_TTL_TIER
from cache_pipeline.vendors.declaration_rules import find_vendor_problems
from cache_pipeline.vendors.registry import read_payload

#: The lifetime part (G7) of a query's key when it identifies a job.
_JOB_TTL_TIER = "job"
#: A field of a job's request: fetch provisional figures from the vendor again, however fresh they are.
REFRESH = "refresh"
#: The value of the parameter `align` that widens an interval to whole buckets.
ALIGN_TO_BUCKETS = "buckets"
#: The value of the parameter `csv` that disarms formulas.
SAFE_CSV = "safe"
#: A field of a job's request: the declaration of a report that is not declared.
AD_HOC = "ad_hoc"
NAME_TIMES = {"current": NameTime.current, "then": NameTime.then, "true": NameTime.current}
#: A query that no declared report holds may need this many upstream queries: two months by day.
_MAX_AD_HOC_CHUNKS = 62
_MAX_CACHED_URLS, _MAX_CACHED_URL_BYTES = 4_000, 1_000


@dataclass(frozen=True)
class ParsedQuery:
    """A query that has been checked against its report.

    Attributes:
        resolved: The query with its report.
        query: The part of it whose interval has begun, for one tenant.
        refresh: Whether to fetch provisional figures from the vendor again, however fresh they are.
        names: Which names the answer has beside ids; None for none.
        has_safe_text: Whether CSV is written so that no text of it is a spreadsheet's formula.
        measures: The measures that the answer has after its columns, by name.
        ad_hoc: The declaration of its report, if that is not a declared one.
        as_of: When the figures were known that the answer has; None for now.
        live: The live report whose rows the answer has beside the stored ones; None for none.
    """

    resolved: QueryRequest
    query: CanonicalQuery
    refresh: bool = False
    names: NameTime | None = None
    has_safe_text: bool = False
    measures: Mapping[str, Measure] = field(default_factory=dict[str, Measure])
    ad_hoc: dict[str, Any] | None = None
    as_of: datetime | None = None
    live: LiveReport | None = None

    @property
    def report(self) -> Report:
        """The declared report whose rows answer the query."""
        return self.resolved.declared

    @property
    def queried_reports(self) -> tuple[Report | LiveReport, ...]:
        """The reports that a caller must be permitted to query."""
        return (self.report, *([self.live] if self.live else []))

    @property
    def key(self) -> str:
        """The key of the query's meaning (G6).

        It is equal for every spelling of the same meaning, and different for each report, which has rows of its own.
        """
        as_of = f":{self.as_of.isoformat()}" if self.as_of else ""
        return f"{self.report.name}:{self.query.cache_key(_JOB_TTL_TIER)}{':' + REFRESH if self.refresh else ''}{as_of}"

    @cached_property
    def hot_key(self) -> str:
        """The key of the answer in the hot tier."""
        return self.query.cache_key(HOT_TTL_TIER)

    @cached_property
    def job_request(self) -> dict[str, Any]:
        """What a worker needs to run the same query: its interval, and everything that differs from the declaration."""
        declared, narrowed = self.resolved.declared, self.resolved.requested
        request: dict[str, Any] = {"interval": str(self.query.interval)}
        for name in ("group_by", "metrics"):
            if getattr(narrowed, name) != getattr(declared, name):
                request[name] = list(getattr(narrowed, name))
        for name in ("granularity", "time_zone"):
            if getattr(narrowed, name) != getattr(declared, name):
                request[name] = getattr(narrowed, name)
        if narrowed.filters != declared.filters:
            request["filters"] = narrowed.filters.declaration.model_dump(mode="json", exclude_defaults=True)
        if self.refresh:
            request[REFRESH] = True
        if self.ad_hoc is not None:
            request[AD_HOC] = self.ad_hoc
        return request


def parse_query(
    service: ReportService, report: Report, request: Mapping[str, Any], caller: Principal, max_buckets: int
) -> ParsedQuery:
    """Check a query for a report.

    Args:
        service: The report service of the caller's tenant.
        report: The declared report.
        request: The interval and overrides.
        caller: The API key that sent it, to whose limits the query is narrowed.
        max_buckets: The largest number of buckets that one query may have.

    Raises:
        InvalidInterval: The interval is malformed, cuts a bucket, begins before the report or in the future, or is too
            long.
        InvalidQuery: The report's rows cannot answer the query; the error names the field.
    """
    columns = service.columns(report)
    resolved = resolve_request(
        report,
        request["interval"],
        limit_overrides(caller, report.platform, read_overrides(request, report)),
        columns,
        expand=request.get("align") == ALIGN_TO_BUCKETS,
    )
    names, wanted = request.get("names"), request.get("measures") or ()
    requested = resolved.requested
    measures = choose_measures(wanted, requested.measures, service.columns(requested)) if wanted else {}
    parsed = _check_limits(service, resolved, max_buckets)
    return replace(
        parsed,
        names=NAME_TIMES[names] if names else None,
        has_safe_text=request.get("csv") == SAFE_CSV,
        measures=measures,
        as_of=parse_as_of(request["as_of"]) if request.get("as_of") else None,
    )


def parse_payload(
    service: ReportService, reports: Mapping[str, Report], body: object, caller: Principal, max_buckets: int
) -> ParsedQuery:
    """Check a query in the guide's format (G1), and find the report that answers it.

    Raises:
        QueryError: The query is invalid; the error says where.
    """
    return parse_first_payload(service, reports, [read_payload(body)], caller, max_buckets)


def parse_ad_hoc(
    service: ReportService, payload: QueryPayload, delivery: str, caller: Principal, max_buckets: int
) -> ParsedQuery:
    """Return a query that no declared report holds, of a report that is declared for it.

    Raises:
        QueryError: The vendor has no such figures, or the interval is too long.
        Problem: 403 if the caller's key is for other query types.
    """
    check_query_type(caller, payload.subject)
    payload = limit_payload(caller, payload)
    declaration = declare_ad_hoc(payload, delivery, service.accounts)
    report = read_ad_hoc(declaration)
    for name, problem in find_vendor_problems(report):
        raise InvalidQuery(name, problem)
    resolved = resolve_request(report, payload.interval, payload.overrides, service.columns(report))
    chunk = Step.parse(report.fetch.max_query_interval).nominal_length
    if resolved.interval.length > _MAX_AD_HOC_CHUNKS * chunk:
        raise InvalidInterval(
            f"interval {resolved.interval} is too long for a query that no declared report holds: ask for at most "
            f"{_MAX_AD_HOC_CHUNKS * chunk.days} days, or declare a report"
        )
    return replace(_check_limits(service, resolved, max_buckets), ad_hoc=declaration)


def parse_first_payload(
    service: ReportService,
    reports: Mapping[str, Report],
    payloads: Sequence[QueryPayload],
    caller: Principal,
    max_buckets: int,
) -> ParsedQuery:
    """Return the first of several queries that a report which the caller may query can answer.

    Raises:
        QueryError: No report answers the last of them; the error says why.
    """
    permitted = {name: report for name, report in reports.items() if may_query(caller, report)}
    *preferred, last = (limit_payload(caller, payload) for payload in payloads)
    for payload in preferred:
        with suppress(QueryError):
            return _check_limits(service, find_report_for(payload, permitted, service.columns), max_buckets)
    return _check_limits(service, find_report_for(last, permitted, service.columns), max_buckets)


_AnyReport = TypeVar("_AnyReport", bound=Report | LiveReport)


def check_permission(reports: Mapping[str, _AnyReport], name: str, caller: Principal) -> _AnyReport:
    """Return the report with a name, if the caller may query it.

    Raises:
        UnknownReport: There is no such report; the error names those that the caller may query.
        Problem: 403 if the caller may not query the report.
    """
    permitted = {each: report for each, report in reports.items() if may_query(caller, report) or each == name}
    found = find_report(permitted, name)
    if not may_query(caller, found):
        raise Problem("forbidden", 403, f"this key may not query {name}: use a key that was created for it")
    return found


def read_overrides(request: Mapping[str, Any], report: Report) -> QueryOverrides:
    """Read what a request changes in a report's declaration.

    Raises:
        InvalidQuery: The filter is invalid.
    """

    def names(name: str) -> tuple[str, ...] | None:
        return tuple(request[name]) if request.get(name) is not None else None

    return QueryOverrides(
        group_by=names("group_by"),
        metrics=names("metrics"),
        granularity=request.get("granularity"),
        time_zone=request.get("time_zone"),
        filters=read_filter(request.get("filters"), "filters", report),
    )


def parse_list(value: str | None) -> list[str] | None:
    """Split comma-separated names from a URL; an empty text is an empty list."""
    return None if value is None else [name for part in value.split(",") if (name := part.strip())]


def parse_filters(text: str | None) -> Any:
    """Parse a filter from a URL.

    Raises:
        InvalidQuery: The text is not JSON.
    """
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidQuery("filters", 'is not JSON: write {"predicates": [...]}') from error


def answer_url(report: str, request: Mapping[str, Any]) -> str | None:
    """Return the path of the answer to a job's request; None for a report that is not declared, which has no path."""
    if AD_HOC in request:
        return None
    parameters: dict[str, str] = {
        name: value if isinstance(value, str) else ",".join(value) if isinstance(value, Sequence) else json.dumps(value)
        for name, value in request.items()
        if name != REFRESH
    }
    return f"/v1/reports/{report}?{urlencode(parameters, safe=':/,')}"


#: A path and query string, and what the same ones mean something else for: the tenant and its divisions.
_KnownUrl = tuple[str, frozenset[str] | None, str, bytes]


class ParseCache:
    """Remembers the parsed form of URLs by tenant and divisions, because parsing a query costs more than answering it.

    Long URLs are parsed each time, so that what is remembered is bounded in bytes too.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._entries: OrderedDict[_KnownUrl, tuple[ParsedQuery, datetime | None]] = OrderedDict()

    def store(self, caller: Principal, scope: Scope, parsed: ParsedQuery) -> None:
        """Remember the parsed form of a caller's request."""
        url = (caller.tenant, caller.divisions, scope["path"], scope["query_string"])
        if len(scope["path"]) + len(scope["query_string"]) > _MAX_CACHED_URL_BYTES:
            return
        # Until more of its interval has begun, when the URL means another query.
        query = parsed.query
        has_begun = query.interval == parsed.resolved.interval and query.available_interval == query.interval
        self._entries[url] = (parsed, None if has_begun else query.available_interval.end)
        self._entries.move_to_end(url)
        while len(self._entries) > _MAX_CACHED_URLS:
            self._entries.popitem(last=False)

    def get(self, caller: Principal, scope: Scope) -> ParsedQuery | None:
        """Return the parsed form of a request, or None if it is unknown or no longer valid."""
        url = (caller.tenant, caller.divisions, scope["path"], scope["query_string"])
        parsed, valid_until = self._entries.get(url, (None, None))
        return parsed if valid_until is None or self._clock() < valid_until else None


def _check_limits(service: ReportService, resolved: QueryRequest, max_buckets: int) -> ParsedQuery:
    _check_length(resolved.interval, resolved.requested, max_buckets)
    _check_start(resolved.interval, resolved.declared)
    return ParsedQuery(resolved, service.clip_to_now(resolved))


def _check_start(interval: Interval, report: Report) -> None:
    """Refuse an interval before the report's start.

    Otherwise one mistyped year would be fetched day by day, and use up the quota of all callers.
    """
    start = datetime.combine(report.start, time(), report.zone)
    if interval.start < start:
        raise InvalidInterval(
            f"interval {interval} begins before report {report.name}: start at {format_instant(start)} or later"
        )


def _check_length(interval: Interval, report: Report, max_buckets: int) -> None:
    count = interval.length / report.step.nominal_length
    if count > max_buckets:
        raise InvalidInterval(
            f"interval {interval} has {count:.0f} buckets of {report.granularity}, more than the {max_buckets} that "
            "one query may have: split it into several queries"
        )
