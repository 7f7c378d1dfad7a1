"""Callers who use the API's own pages in a browser: signed in with an API key, or by a proxy in front.

A page cannot send a header with an event stream, and its scripts should not hold a key. So the key is kept in a cookie that
scripts cannot read, that other sites' requests do not carry, and that ends with the browser. Only pages' own routes accept it,
all of which only read.
"""

from __future__ import annotations

from ipaddress import ip_address

from fastapi import Request, Response

from cache_pipeline.api.query_service import QueryService
from cache_pipeline.query.lane import Lane
from cache_pipeline.storage.ports.api_keys import Principal

#: Set in the state of a request whose route accepts who is signed in.
ACCEPTS_SIGN_IN = "accepts_sign_in"
_COOKIE = "cache_pipeline_key"
_USER_HEADER, _SCHEME_HEADER = "X-Forwarded-User", "X-Forwarded-Proto"
_MAX_USER_LENGTH = 100


async def find_signed_in(query_service: QueryService, request: Request) -> Principal | None:
    """Return who is signed in, by a trusted proxy or by the cookie; or None."""
    user = request.headers.get(_USER_HEADER, "").strip()[:_MAX_USER_LENGTH]
    if user and _is_from_trusted_proxy(query_service, request):
        return Principal(f"proxy:{user}", query_service.settings.tenant, None, Lane.interactive, is_operator=True)
    key = request.cookies.get(_COOKIE)
    return await query_service.api_keys.find(key) if key else None


def sign_in(query_service: QueryService, request: Request, response: Response, key: str) -> None:
    """Keep a valid key in the browser until it is closed."""
    response.set_cookie(_COOKIE, key, secure=_is_encrypted(query_service, request), httponly=True, samesite="strict")


def sign_out(response: Response) -> None:
    """Forget the key."""
    response.delete_cookie(_COOKIE, httponly=True, samesite="strict")


def _is_from_trusted_proxy(query_service: QueryService, request: Request) -> bool:
    networks = query_service.settings.api.trusted_proxies
    if not networks or request.client is None:
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _is_encrypted(query_service: QueryService, request: Request) -> bool:
    if request.url.scheme == "https":
        return True
    return request.headers.get(_SCHEME_HEADER) == "https" and _is_from_trusted_proxy(query_service, request)
