"""HEAD: what GET would answer, without its body. Monitors and CDNs ask so, and so does `curl -I`."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.problems import Problem, problem_for
from cache_pipeline.telemetry.correlation import accept_correlation_id, correlation_scope

#: A stream of events has no headers worth asking for alone, and no end.
_STREAMS = "/events"


class HeadRequests:
    """An ASGI application in front of another that knows GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"].endswith(_STREAMS):
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


def allowed_methods(methods: set[str], path: str) -> str:
    """The value of Allow, where a path has these methods."""
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods and not path.endswith(_STREAMS) else set())))


class BodyLimitMiddleware:
    """An ASGI application in front of another, that counts the bytes of bodies."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; 413 where its body is too large."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        body = await self._whole(receive)
        if body is None:
            problem = Problem("body-too-large", 413, f"a request's body may have {self._most_bytes} bytes")
            await problem.response()(scope, receive, send)
            return
        given = False

        async def replayed() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replayed, send)

    async def _whole(self, receive: Receive) -> bytes | None:
        """The body; None where it is too large."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            body += message.get("body", b"")
            if len(body) > self._most_bytes:
                return None
            more = message.get("more_body", False)
        return bytes(body)


_LOG = logging.getLogger(__name__)
REQUEST_ID, TRACE_PARENT = _BROUGHT = (b"x-request-id", b"traceparent")


class CorrelationMiddleware:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under the id that it brings as ``X-Request-ID`` or ``traceparent``, or under one of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        brought = {key: value.decode("latin-1") for key, value in scope["headers"] if key in _BROUGHT}
        name = accept_correlation_id(brought.get(REQUEST_ID), brought.get(TRACE_PARENT))
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, name.encode("ascii"))]
            await send(message)

        with correlation_scope(name):
            try:
                await self._app(scope, receive, told)
            except Exception as error:
                _LOG.exception("%s %s failed", scope["method"], scope["path"])
                if status:
                    raise
                # Here and not further out, where nobody knows the id any more.
                await problem_for(error).response()(scope, receive, told)
            if status >= 500:
                _LOG.warning("%s %s: %d", scope["method"], scope["path"], status, extra={"status": status})
