"""Middleware that gives answers on the vendors' own paths the vendor's form: its error bodies, and its correlation header.

It converts problem details wherever they arise: in the limits of requests, in routing, in authentication or in a route.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.middleware import REQUEST_ID
from cache_pipeline.api.problems import MEDIA_TYPE
from cache_pipeline.vendors.served import ErrorFacts, ServedApi

#: The errors of a token endpoint (RFC 6749, section 5.2); every other one is an invalid request.
_TOKEN_ERRORS = frozenset({"invalid-client", "unsupported-grant-type"})


class VendorForm:
    """Gives answers on the vendors' own paths the vendor's form."""

    def __init__(self, app: ASGIApp, served: Sequence[ServedApi]) -> None:
        self._app = app
        self._served = [(each, _spellings((each.prefix,)), _spellings(each.login_paths)) for each in served]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = self._find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        served, is_login = found
        start: Message | None = None
        document = bytearray()

        async def send_in_form(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers[served.correlation_header] = headers.get(REQUEST_ID.decode(), "")
                message = {**message, "headers": headers.raw}
                if headers.get("content-type") == MEDIA_TYPE:
                    start = message
                    return
            elif start is not None:
                document.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _send_error(served, start, bytes(document), send, is_login=is_login)
                return
            await send(message)

        await self._app(scope, receive, send_in_form)

    def _find(self, path: str) -> tuple[ServedApi, bool] | None:
        """Return the API that a path belongs to, and whether it is one where clients log in."""
        for served, paths, login_paths in self._served:
            if paths.match(path) or login_paths.match(path):
                return served, login_paths.match(path) is not None
        return None


def _spellings(paths: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of these paths, what is below them, and other spellings, which are errors that their clients must be able to read."""
    written = ["/+".join(map(re.escape, ("", *path.strip("/").split("/")))) for path in paths]
    return re.compile(rf"(?:{'|'.join(written)})(?!\w)", re.IGNORECASE)


async def _send_error(served: ServedApi, start: Message, document: bytes, send: Send, *, is_login: bool) -> None:
    headers = MutableHeaders(raw=list(start["headers"]))
    problem = json.loads(document)
    kind = str(problem["type"]).rpartition(":")[2]
    if is_login:
        code = kind.replace("-", "_") if kind in _TOKEN_ERRORS else "invalid_request"
        # Some vendors' clients read the description under its name before the standard.
        status, body = (
            start["status"],
            {"error": code, "description": problem["detail"], "error_description": problem["detail"]},
        )
    else:
        retry_after = headers.get("retry-after", "")
        status, body = served.describe_error(
            ErrorFacts(
                status=start["status"],
                kind=kind,
                detail=str(problem["detail"]),
                correlation_id=headers[served.correlation_header],
                retry_after=int(retry_after) if retry_after.isdecimal() else None,
            )
        )
    content = json.dumps(body).encode()
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(content))
    await send({**start, "status": status, "headers": headers.raw})
    await send({"type": "http.response.body", "body": content})
