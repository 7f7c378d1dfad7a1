"""Gives every request its correlation id, and tells it in the answer."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.telemetry.correlation import accepted, correlated

_REQUEST_ID = b"x-request-id"


class Correlation:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under the id that it brings as ``X-Request-ID`` or ``traceparent``, or under one of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        name = accepted(_text(headers.get(_REQUEST_ID)), _text(headers.get(b"traceparent")))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, name.encode("ascii"))]
            await send(message)

        with correlated(name):
            await self._app(scope, receive, told)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
