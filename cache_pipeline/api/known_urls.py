"""Middleware that answers URLs which were parsed before, without routing and parsing them again.

It holds no rules: authentication, limits, the answer and its headers are those of the routes.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import may_query
from cache_pipeline.api.problems import error_response
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.routes.reports import RequestPreferences, respond
from cache_pipeline.storage.known_errors import known_error

_PATH_PREFIX = "/v1/reports/"


class KnownUrls:
    """Serves URLs of reports that were parsed before for the same tenant, in front of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(_PATH_PREFIX):
            await self._app(scope, receive, send)
            return
        request, query_service = Request(scope, receive), scope["app"].state.query_service
        try:
            response = await _respond_if_known(query_service, request)
        except Exception as error:
            if known_error(error) is None:
                raise
            response = error_response(error)
        await (response or self._app)(scope, receive, send)


async def _respond_if_known(query_service: QueryService, request: Request) -> Response | None:
    caller = await authenticate(query_service, request)
    parsed = query_service.parse_cache.get(caller, request.scope)
    if parsed is None or not all(may_query(caller, report) for report in parsed.queried_reports):
        return None
    # The first of equal headers counts, as it does for the routes.
    headers = {name: value.decode("latin-1") for name, value in reversed(request.scope["headers"])}
    preferences = RequestPreferences(
        request,
        accept=headers.get(b"accept"),
        prefer=headers.get(b"prefer"),
        if_none_match=headers.get(b"if-none-match"),
        cache_control=headers.get(b"cache-control"),
    )
    return await respond(query_service, parsed, caller, preferences)
