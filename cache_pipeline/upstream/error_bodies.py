"""Reads a vendor's error answer: its code, message and request id, and the exception it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cache_pipeline.errors import UpstreamRefused
from cache_pipeline.upstream.dialect import NamedLimit, dialect_of, shown_path
from cache_pipeline.upstream.http import httpx

#: How names of headers end that hold the id of a request; vendors put a word of their own before it.
_REQUEST_ID_ENDINGS = ("correlation-id", "request-id")


def vendor_request_id(response: httpx.Response) -> str | None:
    """Return the vendor's own id of this request, which its support asks for; None if the answer has none."""
    ids = {name.lower(): value for name, value in response.headers.items() if value}
    for ending in _REQUEST_ID_ENDINGS:
        if found := next((value for name, value in ids.items() if name.endswith(ending)), None):
            return found
    return None


def read_body(response: httpx.Response) -> Mapping[str, object]:
    """Return the body if it was read and is a JSON object; an empty one otherwise."""
    try:
        body: object = response.json()
    except (ValueError, RecursionError, httpx.ResponseNotRead):
        return {}
    return cast("Mapping[str, object]", body) if isinstance(body, dict) else {}


def parse_error_body(response: httpx.Response) -> tuple[str | None, str | None, str | None]:
    """Return code, message and correlation id of an error answer, each None if absent.

    Reads a vendor's error body, a problem+json and an OAuth error.
    """
    body = read_body(response)

    def first(*names: str) -> str | None:
        return next((value for name in names if isinstance(value := body.get(name), str) and value), None)

    code = first("code", "error", "type")
    message = first("message", "error_description", "description", "detail", "title")
    return code, message, first(*dialect_of(response).request_id_fields) or vendor_request_id(response)


def read_named_limit(response: httpx.Response) -> NamedLimit | None:
    """Return the limit that the body of a 429 names as the one that was reached; None if it names none."""
    return dialect_of(response).read_limit(read_body(response))


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
        path=shown_path(response.request),
        code=code,
        message=message or response.reason_phrase,
        correlation_id=correlation_id,
    )
