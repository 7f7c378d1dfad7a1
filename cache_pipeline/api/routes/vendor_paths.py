"""Routes at the vendors' own paths, so that a client of a vendor only has to change the host name.

What the paths are, and how a query and its answer look there, each vendor's package says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.api.access_tokens import answer_token_request
from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.middleware import JOB_TIER
from cache_pipeline.api.negotiation import MediaFormat
from cache_pipeline.api.parsing import ParsedQuery, parse_first_payload
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import AcceptedJob, QueryService, ServedAnswer
from cache_pipeline.api.response_headers import answer_headers
from cache_pipeline.storage.answer import read_rows
from cache_pipeline.vendors.served import QueryPath, ServedApi, ServedQuery

#: Headers that say how complete and how old an answer is. The vendors' clients ignore them.
_OWN_HEADERS = ("Age", "Cache-Status", "Complete-Through", "Provisional-From")


def vendor_routes(served: Sequence[ServedApi]) -> list[Route]:
    """Return the routes of what is answered of the vendors' own APIs."""
    routes: list[Route] = []
    login_paths = dict.fromkeys(path for api in served for path in api.login_paths)
    routes += [Route(path, answer_token_request, methods=["POST"]) for path in login_paths]
    for api in served:
        routes += [Route(path.path, _endpoint(path), methods=["POST"]) for path in api.queries]
    return routes


def _endpoint(path: QueryPath) -> Callable[[Request], Awaitable[Response]]:
    # Starlette calls only functions with the request alone; it would take a partial for an application.
    async def answer(request: Request) -> Response:
        return await _answer_query(path, request)

    return answer


async def _answer_query(path: QueryPath, request: Request) -> Response:
    """Answer a query in the vendor's form from stored rows, or once they are fetched."""
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    served = path.read(_read_json(await request.body()))
    query = parse_first_payload(
        query_service.report_service_for(caller.tenant),
        query_service.reports,
        served.payloads,
        caller,
        query_service.settings.api.max_buckets,
    )
    request.state.asked = query
    outcome = await query_service.serve(query, caller)
    if isinstance(outcome, AcceptedJob):
        hold = query_service.settings.api.vendor_hold_seconds
        outcome = await query_service.wait_for_outcome(query, caller, outcome, hold)
    if isinstance(outcome, AcceptedJob):
        request.state.tier = JOB_TIER
        raise Problem(
            "not-ready",
            429,
            "the figures are being fetched from the vendor: send the request again after Retry-After",
            headers={"Retry-After": str(outcome.retry_after or 1), **_rate_limit_headers(request)},
        )
    request.state.tier = outcome.source
    body = await asyncio.to_thread(_render, query_service, served, query, outcome)
    headers = answer_headers(
        outcome.answer,
        MediaFormat.json,
        query.report,
        outcome.source,
        query_service.clock(),
        policy=query_service.cache_policy,
        is_collapsed=outcome.is_collapsed,
    )
    own = {name: headers[name] for name in _OWN_HEADERS if name in headers}
    return Response(
        body,
        headers={"Cache-Control": "no-store", **own, **_rate_limit_headers(request)},
        media_type="application/json",
    )


def _rate_limit_headers(request: Request) -> Mapping[str, str]:
    return getattr(request.state, "rate_limit_headers", {})


def _render(query_service: QueryService, served: ServedQuery, query: ParsedQuery, outcome: ServedAnswer) -> bytes:
    rows = outcome.answer.rows
    if rows is None:
        rows = read_rows(outcome.answer.body, query_service.report_service.columns(query.resolved.requested))
    return json.dumps(served.render(rows), separators=(",", ":")).encode()


def _read_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Problem("malformed", 400, "the request body is not JSON") from None
