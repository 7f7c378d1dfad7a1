"""FastAPI dependencies: the query service, and the authenticated caller of a request.

All dependencies are coroutines, because FastAPI runs any other in a thread, which costs more than what they do.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from cache_pipeline.api.auth import read_key
from cache_pipeline.api.browser_session import ACCEPTS_SIGN_IN, find_signed_in
from cache_pipeline.api.key_limits import check_request
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.query.lane import Lane
from cache_pipeline.storage.ports.api_keys import Principal

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer cp_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in its own header")
_ANONYMOUS_ID = "anonymous"


async def get_query_service(request: Request) -> QueryService:
    """Return the query service of the running application."""
    return request.app.state.query_service


QueryServiceDependency = Annotated[QueryService, Depends(get_query_service)]


def anonymous(query_service: QueryService) -> Principal:
    """Return the caller of a deployment that needs no key."""
    return Principal(
        _ANONYMOUS_ID, query_service.settings.tenant, None, Lane.interactive, may_refresh=True, is_operator=True
    )


def unauthorized() -> Problem:
    """Return a 401. It does not say whether the key is missing or invalid."""
    return Problem(
        "unauthorized",
        401,
        "a valid API key is required: send Authorization: Bearer KEY or X-API-Key: KEY; `cache-pipeline keys create` "
        "creates a key",
        headers={"WWW-Authenticate": 'Bearer realm="cache-pipeline"'},
    )


async def authenticate(query_service: QueryService, request: Request) -> Principal:
    """Return the caller of a request, and count the request against the caller's rate limit, once.

    Raises:
        Problem: 401 if no valid key was sent, 429 if the key has reached its limit, or 403 if it may not use the path.
    """
    state = request.state
    if (known := getattr(state, "caller", None)) is not None:
        return known
    principal = await find_principal(query_service, request)
    if principal is None:
        raise unauthorized()
    state.rate_limit_headers = query_service.rate_limiter.take(principal).headers()
    state.caller = principal
    check_request(principal, request)
    return principal


async def find_principal(query_service: QueryService, request: Request) -> Principal | None:
    """Return the caller of a request as of now, or None if it sent no valid key. Nothing is counted."""
    if query_service.settings.api.auth == "off":
        return anonymous(query_service)
    key = read_key(request.headers)
    return await query_service.api_keys.find(key) if key else None


async def _caller(
    query_service: QueryServiceDependency,
    request: Request,
    response: Response,
    # The schemes are declared for the documentation; `authenticate` reads the headers.
    _bearer_key: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    _header_key: Annotated[str | None, Security(_header)],
) -> Principal:
    principal = await authenticate(query_service, request)
    response.headers.update(request.state.rate_limit_headers)
    return principal


Caller = Annotated[Principal, Depends(_caller)]


async def find_viewer(query_service: QueryService, request: Request) -> Principal | None:
    """Return who looks at a page as of now: by key, by the cookie of a page, or by the name that a proxy vouches for; or None."""
    setattr(request.state, ACCEPTS_SIGN_IN, True)
    viewer = await find_principal(query_service, request) or await find_signed_in(query_service, request)
    request.state.viewer = viewer
    return viewer


async def _viewer(
    query_service: QueryServiceDependency,
    request: Request,
    _bearer_key: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    _header_key: Annotated[str | None, Security(_header)],
) -> Principal:
    principal = await find_viewer(query_service, request)
    if principal is None:
        raise unauthorized()
    check_request(principal, request)
    return principal


#: A caller who may look at pages of figures: any key, for the reports that it may query.
Viewer = Annotated[Principal, Depends(_viewer)]


async def _operator(viewer: Viewer) -> Principal:
    if not viewer.is_operator:
        raise Problem(
            "forbidden",
            403,
            "this API key may not see the deployment: `cache-pipeline keys create NAME --operator` creates one that may",
        )
    return viewer


#: A caller who may see the state of the whole deployment: by key, by the cookie of a page, or by the name that a proxy vouches for.
Operator = Annotated[Principal, Depends(_operator)]
