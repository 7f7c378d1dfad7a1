"""Routes at the vendors' own paths, so that a client of a vendor only has to change the host name.

What the paths are, and how a query and its answer look there, each vendor's package says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response

from cache_pipeline.api.access_tokens import answer_token_request
from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import keeps_divisions
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.routes.vendor_answers import (
    VendorRoute,
    answer_body,
    completeness_headers,
    parse_served,
    rate_limit_headers,
    read_json,
    serve_within_hold,
)
from cache_pipeline.api.routes.vendor_jobs import job_routes
from cache_pipeline.api.routes.vendor_listings import listing_routes
from cache_pipeline.api.routes.vendor_observations import observation_routes
from cache_pipeline.vendors.served import QueryPath, ServedApi


def vendor_routes(served: Sequence[ServedApi]) -> list[VendorRoute]:
    """Return the routes of what is answered of the vendors' own APIs."""
    routes: list[VendorRoute] = []
    login_paths = dict.fromkeys(path for api in served for path in api.login_paths)
    routes += [VendorRoute(path, answer_token_request, methods=["POST"]) for path in login_paths]
    for api in served:
        routes += [VendorRoute(path.path, _endpoint(path), methods=["POST"]) for path in api.queries]
        routes += [route for paths in api.jobs for route in job_routes(paths)]
        routes += observation_routes(api)
        routes += listing_routes(api)
    return routes


def _endpoint(path: QueryPath) -> Callable[[Request], Awaitable[Response]]:
    # Starlette takes a partial for an application.
    @keeps_divisions
    async def answer(request: Request) -> Response:
        return await _answer_query(path, request)

    return answer


async def _answer_query(path: QueryPath, request: Request) -> Response:
    """Answer a query in the vendor's form from stored rows, or once they are fetched."""
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    sent = await request.body()
    served = path.read(read_json(sent))
    query = parse_served(query_service, caller, served)
    outcome = await serve_within_hold(query_service, request, caller, query)
    body = query_service.rendered_answers.get(outcome.answer, query.hot_key, path.path, sent)
    if body is None:
        body = await answer_body(query_service, served, query, outcome)
        query_service.rendered_answers.store(outcome.answer, query.hot_key, path.path, sent, body)
    headers = completeness_headers(query_service, query, outcome)
    own = {"Cache-Control": "no-store", **headers, **rate_limit_headers(request)}
    return Response(body, headers=own, media_type="application/json")
