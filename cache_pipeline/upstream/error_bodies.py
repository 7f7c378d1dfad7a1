"""Reads a vendor's error answer: its code, message and request id, and the exception it becomes."""

from collections.abc import Mapping
from typing import cast

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.upstream.http import httpx

#: A vendor's own header first, then the common one.
_REQUEST_ID_HEADERS = ("ININ-Correlation-Id", "X-Correlation-Id")


def vendor_request_id(response: httpx.Response) -> str | None:
    """Return the vendor's own id of this request, which its support asks for; None if the answer has none."""
    return next((value for name in _REQUEST_ID_HEADERS if (value := response.headers.get(name))), None)


def parse_error_body(response: httpx.Response) -> tuple[str | None, str | None, str | None]:
    """Return code, message and correlation id of an error answer, each None if absent.

    Reads a vendor's error body, a problem+json and an OAuth error.
    """
    body: Mapping[str, object] = {}
    try:
        parsed: object = response.json()
        if isinstance(parsed, dict):
            body = cast("Mapping[str, object]", parsed)
    except (ValueError, httpx.ResponseNotRead):
        body = {}

    def first(*names: str) -> str | None:
        return next((value for name in names if isinstance(value := body.get(name), str) and value), None)

    code = first("code", "error", "type")
    message = first("message", "error_description", "description", "detail", "title")
    return code, message, first("contextId") or vendor_request_id(response)


def organisation_limit(response: httpx.Response) -> int | None:
    """Return the limit of the whole organisation, if the body of a 429 names it as the one that was reached.

    Vendors name it in `limit`, for example `{"key": "org.app.user.rate.per.minute", "value": 300}`. The keys of a token's or a
    client's own limit do not begin with `org`.
    """
    try:
        body: object = response.json()
    except (ValueError, httpx.ResponseNotRead):
        return None
    limit = cast("Mapping[str, object]", body).get("limit") if isinstance(body, dict) else None
    if not isinstance(limit, dict):
        return None
    key, value = (cast("Mapping[str, object]", limit).get(name) for name in ("key", "value"))
    is_named = isinstance(key, str) and key.startswith(("org.", "organization.", "organisation."))
    return value if is_named and isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def raise_for_refusal(response: httpx.Response) -> None:
    """Raise an error unless the answer is a 2xx. Redirects are not followed, so a 3xx is a refusal too.

    Raises:
        UpstreamRefused: With status, vendor code, message, correlation id and path (the query string may hold secrets).
    """
    if response.is_success:
        return
    code, message, correlation_id = parse_error_body(response)
    raise UpstreamRefused(
        status=response.status_code,
        method=response.request.method,
        path=response.request.url.path,
        code=code,
        message=message or response.reason_phrase,
        correlation_id=correlation_id,
    )
