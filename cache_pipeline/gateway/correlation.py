"""Gives every request its correlation id, and tells it in the answer."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.telemetry.correlation import accepted, correlated

_REQUEST_ID, _TRACE_PARENT = _BROUGHT = (b"x-request-id", b"traceparent")


class Correlation:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under the id that it brings as ``X-Request-ID`` or ``traceparent``, or under one of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        brought = {key: value.decode("latin-1") for key, value in scope["headers"] if key in _BROUGHT}
        name = accepted(brought.get(_REQUEST_ID), brought.get(_TRACE_PARENT))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, name.encode("ascii"))]
            await send(message)

        with correlated(name):
            await self._app(scope, receive, told)
