"""What the routes at the vendors' own paths have in common: reading a query, waiting for its answer, and rendering it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Scope

from cache_pipeline.api.middleware import JOB_TIER
from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.api.parsing import ParsedQuery, parse_ad_hoc, parse_first_payload
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService, ServedAnswer
from cache_pipeline.api.response_headers import answer_headers
from cache_pipeline.errors import QueryError
from cache_pipeline.path_patterns import is_plain_path, raw_path
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.storage.answer import read_rows
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.vendors.served import ServedQuery, ServedRows

#: Headers that say how complete and how old an answer is. The vendors' clients ignore them.
_OWN_HEADERS = ("Age", "Cache-Status", "Complete-Through", "Provisional-From")
_SURROGATE = re.compile("[\\ud800-\\udfff]")


class VendorRoute(Route):
    """A route at a vendor's own path. It matches the path as the vendor documents it, and no other spelling of it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return a match for a path without escapes, empty parts or anything else that another server may read differently."""
        if scope["type"] != "http" or not is_plain_path(raw_path(scope)):
            return Match.NONE, {}
        return super().matches(scope)


def read_json(body: bytes) -> object:
    """Return a body's JSON.

    Raises:
        Problem: 400 if it is none, or has what cannot be stored, in whatever field.
    """
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("malformed", 400, "the request body is not JSON") from None
    if problem := _find_unstorable(value):
        raise Problem("malformed", 400, f"the request body {problem}")
    return value


def _find_unstorable(value: object) -> str | None:
    """Return what of a JSON document PostgreSQL does not store, or None if it stores it all."""
    pending = [value]
    while pending:
        match pending.pop():
            case dict() as fields:
                pending += [*fields.keys(), *fields.values()]
            case list() as values:
                pending += values
            case str() as text if "\0" in text or _SURROGATE.search(text):
                return "contains a NUL character or half of a surrogate pair: leave it out"
            case float() as number if not math.isfinite(number):
                return "contains a number that is not finite: leave it out"
            case _:
                pass
    return None


def parse_served(query_service: QueryService, caller: Principal, served: ServedQuery) -> ParsedQuery:
    """Return the query of a report that the caller may query and that answers a vendor's query.

    A key that is bound to declared reports gets nothing else.

    Raises:
        QueryError: There is none; the error says why.
    """
    service = query_service.report_service_for(caller.tenant)
    max_buckets = query_service.settings.api.max_buckets
    whole, *partial = served.payloads
    # A payload that leaves out the metrics means those of a declared report.
    is_declarable = whole.overrides.metrics is not None and whole.overrides.granularity is not None
    if caller.reports is not None or not query_service.settings.api.ad_hoc_series or not is_declarable:
        return parse_first_payload(service, query_service.reports, served.payloads, caller, max_buckets)
    with suppress(QueryError):
        return parse_first_payload(service, query_service.reports, [whole], caller, max_buckets)
    try:
        parsed = parse_ad_hoc(service, whole, served.delivery, caller, max_buckets)
    except QueryError:
        if not partial:
            raise
        return parse_first_payload(service, query_service.reports, partial, caller, max_buckets)
    query_service.ad_hoc_requests.record(parsed.report.name, caller.tenant)
    return parsed


async def serve_within_hold(
    query_service: QueryService, request: Request, caller: Principal, query: ParsedQuery
) -> ServedAnswer:
    """Return the answer to a query, waiting for what must be fetched as long as the settings allow.

    Raises:
        Problem: 429 with Retry-After if it takes longer.
    """
    outcome = await query_service.serve(query, caller)
    if isinstance(outcome, AcceptedJob):
        hold = query_service.settings.api.vendor_hold_seconds
        outcome = await query_service.wait_for_outcome(query, caller, outcome, hold)
    if isinstance(outcome, AcceptedJob):
        raise not_ready(request, outcome.retry_after or 1)
    request.state.tier = outcome.source
    return outcome


def not_ready(request: Request, retry_after: int) -> Problem:
    """Return the refusal of a request that would have to wait for longer than the settings allow."""
    request.state.tier = JOB_TIER
    return Problem(
        "not-ready",
        429,
        "the figures are being fetched from the vendor: send the request again after Retry-After",
        headers={"Retry-After": str(retry_after), **rate_limit_headers(request)},
    )


async def answer_document(
    query_service: QueryService, served: ServedQuery, query: ParsedQuery, outcome: ServedAnswer
) -> Mapping[str, object]:
    """Return an answer in the vendor's form."""
    return await asyncio.to_thread(_render, query_service, served, query, outcome)


async def answer_body(
    query_service: QueryService, served: ServedQuery, query: ParsedQuery, outcome: ServedAnswer
) -> bytes:
    """Return an answer in the vendor's form as JSON."""

    def write() -> bytes:
        document = _render(query_service, served, query, outcome)
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    return await asyncio.to_thread(write)


def _render(
    query_service: QueryService, served: ServedQuery, query: ParsedQuery, outcome: ServedAnswer
) -> Mapping[str, object]:
    rows = outcome.answer.rows
    if rows is None:
        rows = read_rows(outcome.answer.body, query_service.report_service.columns(query.resolved.requested))
    complete_through = outcome.answer.completeness.complete_through
    return served.render(ServedRows(rows, query.resolved.requested, complete_through))


def completeness_headers(query_service: QueryService, query: ParsedQuery, outcome: ServedAnswer) -> dict[str, str]:
    """Return the headers that say how complete and how old the answer to a query is."""
    return own_headers(query_service, query.report, outcome)


def own_headers(query_service: QueryService, report: Report | LiveReport, outcome: ServedAnswer) -> dict[str, str]:
    """Return the headers that say how complete and how old an answer of a report is."""
    headers = answer_headers(
        outcome.answer,
        MediaFormat.json,
        report,
        outcome.source,
        query_service.clock(),
        policy=query_service.cache_policy,
        is_collapsed=outcome.is_collapsed,
    )
    return {name: headers[name] for name in _OWN_HEADERS if name in headers}


def rate_limit_headers(request: Request) -> Mapping[str, str]:
    """Return the headers of the caller's rate limit."""
    return getattr(request.state, "rate_limit_headers", {})
