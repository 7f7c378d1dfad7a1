"""Who is calling: by key, or anybody where the settings say so."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from cache_pipeline.api.auth import Principal
from cache_pipeline.api.problems import Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.query.lane import Lane

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer cp_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, in a header of its own")
_ANYBODY = "anonymous"


def get_query_service(request: Request) -> QueryService:
    """What the running app has in hand."""
    return request.app.state.gateway


TheGateway = Annotated[QueryService, Depends(get_query_service)]


def anonymous(gateway: QueryService) -> Principal:
    """The caller where no key is wanted."""
    return Principal(_ANYBODY, gateway.settings.tenant, None, Lane.interactive, may_refresh=True)


def unauthorized() -> Problem:
    """401: no key, or not one of ours; it is not said which."""
    return Problem(
        "unauthorized",
        401,
        "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY; `cache-pipeline keys create` makes one",
        headers={"WWW-Authenticate": 'Bearer realm="cache-pipeline"'},
    )


async def _caller(
    gateway: TheGateway,
    request: Request,
    response: Response,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Principal:
    if gateway.settings.gateway.auth == "off":
        principal: Principal | None = anonymous(gateway)
    else:
        key = bearer.credentials if bearer else header
        principal = await gateway.keys.find(key) if key else None
    if principal is None:
        raise unauthorized()
    request.state.rate = gateway.limits.take(principal).headers()
    response.headers.update(request.state.rate)
    return principal


Caller = Annotated[Principal, Depends(_caller)]
