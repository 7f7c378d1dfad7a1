"""Gives every request its correlation id, tells it in the answer, and says in the log what went wrong under it."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.gateway.problem import of_error
from cache_pipeline.telemetry.correlation import accepted, correlated

_LOG = logging.getLogger(__name__)
REQUEST_ID, TRACE_PARENT = _BROUGHT = (b"x-request-id", b"traceparent")


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
        name = accepted(brought.get(REQUEST_ID), brought.get(TRACE_PARENT))
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, name.encode("ascii"))]
            await send(message)

        with correlated(name):
            try:
                await self._app(scope, receive, told)
            except Exception as error:
                _LOG.exception("%s %s failed", scope["method"], scope["path"])
                if status:
                    raise
                # Here and not further out, where nobody knows the id any more.
                await of_error(error).response()(scope, receive, told)
            if status >= 500:
                _LOG.warning("%s %s: %d", scope["method"], scope["path"], status, extra={"status": status})
