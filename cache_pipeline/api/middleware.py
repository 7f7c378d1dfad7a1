"""ASGI middleware: HEAD requests, limits of headers and bodies, security headers, counts of requests, and correlation ids."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.audit import record_request, refusal_reason
from cache_pipeline.api.dependencies import find_principal, unauthorized
from cache_pipeline.api.problems import Problem, problem_for
from cache_pipeline.api.query_service import QueryService
from cache_pipeline.telemetry.correlation import accept_correlation_id, correlation_scope

logger = logging.getLogger(__name__)
REQUEST_ID, TRACE_PARENT = _CORRELATION_HEADERS = (b"x-request-id", b"traceparent")
#: The tier of a request that was answered with a job.
JOB_TIER = "job"
_RESULTS = {200: "hit", 202: "accepted", 304: "not_modified"}
_MAX_HEADERS, _MAX_HEADER_BYTES = 100, 32 * 1024
#: What is sent without a key is a sign-in or a login, and is short.
_MAX_BYTES_WITHOUT_KEY = 4096
_CLOSING = {"Connection": "close"}
#: Longer questions are sent as the body of a POST. The path has a limit of its own before, in ``http_protocol``.
MAX_QUERY_BYTES = 16 * 1024
#: The API serves no pages that another page may frame, and browsers must not guess types.
_SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"content-security-policy", b"frame-ancestors 'none'"))
#: An event stream has no end, and no headers worth a HEAD request.
_EVENT_STREAM_SUFFIX = "/events"


class HeadRequests:
    """Answers HEAD with the headers that GET would have, for an application that only knows GET.

    Monitors, CDNs and `curl -I` send HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith(_EVENT_STREAM_SUFFIX):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


def allowed_methods(methods: set[str], path: str) -> str:
    """Return the value of the Allow header for a path with these methods."""
    has_head = "GET" in methods and not path.endswith(_EVENT_STREAM_SUFFIX)
    return ", ".join(sorted(methods | ({"HEAD"} if has_head else set())))


class RequestLimits:
    """Refuses requests whose query string, headers or body are too large, or whose body does not arrive in time, before they cost anything."""

    def __init__(self, app: ASGIApp, max_bytes: int, body_seconds: float = 20.0) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; or answer 414, 431 or 413 if a part of it is too large, or 408 if its body does not arrive."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if len(scope["query_string"]) > MAX_QUERY_BYTES:
                raise Problem(
                    "query-string-too-long",
                    414,
                    f"the query string is too long: send at most {MAX_QUERY_BYTES} bytes, or the query as the body of a POST",
                )
            _check_headers(scope["headers"])
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                body = None
            else:
                body = await self._read_body(scope, receive)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive if body is None else _replaying(body, receive), send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body.

        Raises:
            Problem: 413 if it is too large, 401 if it is too large for a caller without a key, or 408 if it does not arrive in
                time.
        """
        # The problem is raised where it is made: a variable of this frame that holds it would keep the body until a collection.
        needs_key = self._max_bytes > _MAX_BYTES_WITHOUT_KEY and not await _has_key(scope)
        max_bytes = _MAX_BYTES_WITHOUT_KEY if needs_key else self._max_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise self._too_large(needs_key=needs_key)
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._body_seconds):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        break
                    body += message.get("body", b"")
                    if len(body) > max_bytes:
                        raise self._too_large(needs_key=needs_key)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Problem(
                "body-timeout",
                408,
                f"the request body did not arrive within {self._body_seconds:g} s: send it again",
                headers=_CLOSING,
            ) from None
        return bytes(body)

    def _too_large(self, *, needs_key: bool) -> Problem:
        """Return the problem of a body that is too large, whose rest is not read."""
        if needs_key:
            problem = unauthorized()
            problem.headers = {**problem.headers, **_CLOSING}
            return problem
        detail = f"the request body is too large: send at most {self._max_bytes} bytes"
        return Problem("body-too-large", 413, detail, headers=_CLOSING)


async def _has_key(scope: Scope) -> bool:
    """Return whether a request has a key that works."""
    query_service: QueryService = scope["app"].state.query_service
    return await find_principal(query_service, Request(scope)) is not None


def _check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse headers that are too many or too large.

    Raises:
        Problem: 431.
    """
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
    if len(headers) > _MAX_HEADERS or size > _MAX_HEADER_BYTES:
        raise Problem(
            "headers-too-large",
            431,
            f"the headers are too large: send at most {_MAX_HEADERS} with {_MAX_HEADER_BYTES} bytes",
        )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a channel that delivers a body which has been read, and then what follows it."""
    is_replayed = False

    async def replay() -> Message:
        nonlocal is_replayed
        if is_replayed:
            return await receive()
        is_replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class RequestCounter:
    """Counts every request by the tier that answered it, with its duration, and writes the audit log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            _count(scope, status, time.perf_counter() - started)


def _count(scope: Scope, status: int, seconds: float) -> None:
    """Count a request that has ended, and write it to the audit log if there is one."""
    query_service: QueryService = scope["app"].state.query_service
    tier = str(scope.get("state", {}).get("tier", "none"))
    # A caller that cannot follow a job receives it as a 503, which is no error.
    result = "accepted" if tier == JOB_TIER else _RESULTS.get(status) or f"{status // 100}xx"
    query_service.counters.count_request(tier, result, seconds)
    if status == 401:
        query_service.counters.count_refused_key(refusal_reason(scope))
    if query_service.settings.api.audit_log:
        record_request(scope, status)


class CorrelationMiddleware:
    """Serves each request under a correlation id, and logs requests that fail."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under the id from its ``X-Request-ID`` or ``traceparent``, or under a new one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key: value.decode("latin-1") for key, value in scope["headers"] if key in _CORRELATION_HEADERS}
        correlation_id = accept_correlation_id(headers.get(REQUEST_ID), headers.get(TRACE_PARENT))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *_SECURITY_HEADERS,
                    (REQUEST_ID, correlation_id.encode("ascii")),
                ]
            await send(message)

        with correlation_scope(correlation_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                logger.exception("%s %s failed", scope["method"], quote(scope["path"]))
                if status:
                    raise
                # Answer here, because outside of this scope the correlation id is unknown.
                await problem_for(error).response()(scope, receive, send_with_id)
            if status >= 500 and scope.get("state", {}).get("tier") != JOB_TIER:
                logger.warning("%s %s: %d", scope["method"], quote(scope["path"]), status, extra={"status": status})
