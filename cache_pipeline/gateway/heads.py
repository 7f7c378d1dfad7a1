"""HEAD: what GET would answer, without its body. Monitors and CDNs ask so, and so does `curl -I`."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A stream of events has no headers worth asking for alone, and no end.
_STREAMS = "/events"


class Heads:
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


def allowed(methods: set[str], path: str) -> str:
    """The value of Allow, where a path has these methods."""
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods and not path.endswith(_STREAMS) else set())))
