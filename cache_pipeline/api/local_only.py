"""Protection of a server without keys on loopback from the other pages that are open in the same browser."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from cache_pipeline.api.problems import Problem
from cache_pipeline.settings import is_loopback


class LocalOnly:
    """Refuses requests that another page's script could have sent.

    A page of any site may send requests to this machine, and a name that it resolves to 127.0.0.1 makes the answer readable.
    So the ``Host`` must be this machine, and the ``Origin``, which browsers add for scripts, must be the server itself.
    """

    def __init__(self, app: ASGIApp, allowed_origins: Collection[str] = ()) -> None:
        self._app = app
        self._allowed_origins = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer 403."""
        if scope["type"] == "http" and (reason := self._reason_to_refuse(scope)):
            await Problem("not-local", 403, reason).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _reason_to_refuse(self, scope: Scope) -> str | None:
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if not _is_local(host):
            return "this server needs no key, so it answers only under this machine's own name: use http://127.0.0.1"
        if origin is None:
            # A script that cannot read the answer sends no Origin, but says that it is on another site.
            if headers.get(b"sec-fetch-site") != "cross-site" or headers.get(b"sec-fetch-mode") == "navigate":
                return None
        elif urlsplit(origin).netloc == host or {"*", origin} & set(self._allowed_origins):
            return None
        return "this server needs no key, so pages of other origins may not use it: list theirs in CACHE_PIPELINE_API__CORS_ORIGINS"


def _is_local(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
