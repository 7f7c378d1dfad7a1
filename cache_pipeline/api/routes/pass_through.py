"""Requests on the vendors' own paths that nothing here answers, and that the settings allow to be passed on to the vendor.

What goes up is the method, the path and query, a few headers and the body; what comes down is the status, a few headers and the
body. Neither side sees the other's credentials, cookies or addresses. The transport sends the request through the shared quota,
and again only where that is safe. Nothing is cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from cache_pipeline.api.dependencies import authenticate
from cache_pipeline.api.key_limits import check_account_access
from cache_pipeline.api.problems import MEDIA_TYPE, Problem
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.api.routes.vendor_answers import rate_limit_headers
from cache_pipeline.errors import SettingsError
from cache_pipeline.path_patterns import PathPattern, only_reads, raw_path
from cache_pipeline.query.report import account_setting
from cache_pipeline.settings import Settings
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.registry import find_vendor

#: The tier of a request that was passed on.
PASSED_TIER = "passed"
_SENT_HEADERS = ("accept", "accept-language", "content-type", "if-match", "if-modified-since", "if-none-match")
_RETURNED_HEADERS = (
    *("content-disposition", "content-encoding", "content-language", "content-type", "etag", "last-modified"),
    "retry-after",
)
_MAX_QUERY_BYTES = 8 * 1024
#: How long an answer may take to arrive at the caller, who occupies a connection to the vendor meanwhile.
_MAX_SECONDS = 120.0


@dataclass(frozen=True)
class PassedPaths:
    """What of a vendor's own API is passed on.

    Attributes:
        account_id: The account whose vendor is asked.
        patterns: The requests that are allowed.
    """

    account_id: str
    patterns: tuple[PathPattern, ...]

    def admits(self, method: str, path: str) -> bool:
        """Return whether a request is passed on."""
        return any(pattern.admits(method, path) for pattern in self.patterns)


def find_passed_paths(settings: Settings) -> list[PassedPaths]:
    """Return what the settings allow to be passed on, by account.

    Raises:
        SettingsError: A vendor has no such paths, or a path is not one of them, or two accounts of a vendor have a list.
    """
    found: list[PassedPaths] = []
    for vendor, accounts in settings.accounts.items():
        lists = {name: account.pass_through for name, account in accounts.items() if account.pass_through}
        if len(lists) > 1:
            raise SettingsError(
                f"{' and '.join(account_setting(f'{vendor}/{name}', 'pass_through') for name in sorted(lists))} are both set: a "
                "path does not say which account is meant, so keep one"
            )
        for name, patterns in lists.items():
            _check_patterns(account_setting(f"{vendor}/{name}", "pass_through"), vendor, patterns)
            found.append(PassedPaths(f"{vendor}/{name}", patterns))
    return found


def _check_patterns(setting: str, vendor: str, patterns: Sequence[PathPattern]) -> None:
    served = find_vendor(vendor).served
    if served is None:
        raise SettingsError(f"{setting}: paths of {vendor} are not answered here: leave it out")
    for pattern in patterns:
        if not pattern.path.startswith(served.prefix):
            raise SettingsError(f"{setting}: {pattern} is no path of {vendor}'s API: begin it with {served.prefix}")


class PassThroughRoute(Route):
    """A route that matches only requests which are passed on, so that every other one is answered as if there were no such route."""

    def __init__(self, passed: PassedPaths) -> None:
        async def pass_on(request: Request) -> Response:
            return await _pass_on(passed, request)

        super().__init__("/{path:path}", pass_on, include_in_schema=False)
        # Of every method.
        self.methods = None
        self._passed = passed

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return a full match for a request that is passed on, else none."""
        if scope["type"] != "http" or not self._passed.admits(scope["method"], raw_path(scope)):
            return Match.NONE, {}
        return super().matches(scope)


async def _pass_on(passed: PassedPaths, request: Request) -> Response:
    query_service: QueryService = request.app.state.query_service
    caller = await authenticate(query_service, request)
    _check_caller(query_service, caller)
    request.state.tier = PASSED_TIER
    request.state.passed_to = passed.account_id
    body = await request.body() if request.method != "GET" else b""
    hold = query_service.settings.api.vendor_hold_seconds
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(hold):
                await stack.enter_async_context(query_service.passing_slots.hold(caller.id))
                answer = await _send(query_service.vendor_clients[passed.account_id], request, caller, body)
        except TimeoutError:
            raise Problem(
                "not-ready",
                429,
                f"the vendor was not free within {hold:g} s: send the request again after Retry-After",
                headers={"Retry-After": "5", **rate_limit_headers(request)},
            ) from None
        stack.push_async_callback(answer.aclose)
        _check_answer(answer, query_service.settings.api.max_answer_bytes)
        parts = _bounded(answer, query_service.settings.api.max_answer_bytes)
        headers = {**_returned_headers(answer), "Cache-Control": "no-store", **rate_limit_headers(request)}
        return _PassedAnswer(parts, answer.status_code, headers, stack.pop_all())


def _check_caller(query_service: QueryService, caller: Principal) -> None:
    """Refuse keys whose limits do not apply to what the vendor itself answers.

    Raises:
        Problem: 403.
    """
    action = "send requests that are passed on to the vendor"
    check_account_access(caller, query_service.settings.tenant, action)
    if caller.queries is not None:
        raise Problem("forbidden", 403, f"this key may not {action}: it is bound to query types")


async def _send(client: httpx.AsyncClient, request: Request, caller: Principal, body: bytes) -> httpx.Response:
    path, query = raw_path(request.scope), request.scope["query_string"]
    if len(query) > _MAX_QUERY_BYTES:
        raise Problem("query-too-long", 414, f"the query string is too long: send at most {_MAX_QUERY_BYTES} bytes")
    headers = {name: value for name in _SENT_HEADERS if (value := request.headers.get(name)) is not None}
    # The answer's bytes are passed on as they come, so the caller has to be able to read them.
    headers["accept-encoding"] = "gzip" if "gzip" in request.headers.get("accept-encoding", "") else "identity"
    is_safe = only_reads(request.method, path)
    sent = client.build_request(
        request.method,
        f"{path}?{query.decode('latin-1')}" if query else path,
        headers=headers,
        content=body or None,
        # The answer to a request that may start a job is read, because its jobs are counted.
        extensions={"lane": caller.priority, "idempotent": is_safe, "streamed": is_safe},
    )
    return await client.send(sent, stream=True)


def _check_answer(answer: httpx.Response, max_bytes: int) -> None:
    """Refuse an answer that cannot be passed on.

    Raises:
        Problem: 502.
    """
    if answer.status_code == 401:
        # The caller's own key is valid.
        raise Problem("vendor-login", 502, "the vendor does not accept the login of this service: see its log")
    length = answer.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise Problem("answer-too-large", 502, f"the vendor's answer is larger than {max_bytes} bytes: ask for less")


def _returned_headers(answer: httpx.Response) -> dict[str, str]:
    found = {name: answer.headers[name] for name in _RETURNED_HEADERS if name in answer.headers}
    if answer.is_stream_consumed:
        # It was read, and so decompressed.
        found.pop("content-encoding", None)
    if found.get("content-type", "").startswith(MEDIA_TYPE):
        # Only errors of this service have that type here.
        found["content-type"] = "application/json"
    return found


async def _bounded(answer: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    if answer.is_stream_consumed:
        yield answer.content
        return
    size = 0
    async for part in answer.aiter_raw():
        size += len(part)
        if size > max_bytes:
            raise Problem("answer-too-large", 502, f"the vendor's answer is larger than {max_bytes} bytes")
        yield part


class _PassedAnswer(StreamingResponse):
    """An answer that is sent as it comes. The vendor's connection is returned when it ends, however it ends."""

    def __init__(
        self, parts: AsyncIterator[bytes], status: int, headers: Mapping[str, str], opened: AsyncExitStack
    ) -> None:
        super().__init__(parts, status, headers)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        async with self._opened, asyncio.timeout(_MAX_SECONDS):
            await super().__call__(scope, receive, send)


def pass_through_routes(passed: Sequence[PassedPaths]) -> list[PassThroughRoute]:
    """Return the routes of what is passed on; they belong behind all others."""
    return [PassThroughRoute(each) for each in passed]
