"""Middleware that shows errors as a small page to people who open an address in a browser; every other caller gets problem details."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cache_pipeline.api.browser_session import ACCEPTS_SIGN_IN
from cache_pipeline.api.middleware import REQUEST_ID
from cache_pipeline.api.negotiation import prefers_html
from cache_pipeline.api.problems import MEDIA_TYPE
from cache_pipeline.api.routes.pages import CONTENT_SECURITY_POLICY


class ProblemPages:
    """Shows problem details as a page to callers that prefer HTML, as browsers do for an address that a person opens.

    It converts them wherever they arise: in the limits of requests, in routing, in authentication or in a route.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET" or not prefers_html(Headers(scope=scope).get("accept")):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        document = bytearray()

        async def send_as_page(message: Message) -> None:
            nonlocal start
            if (
                message["type"] == "http.response.start"
                and Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE
            ):
                start = message
            elif start is None:
                await send(message)
            else:
                document.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _send_page(scope, start, json.loads(document), send)

        await self._app(scope, receive, send_as_page)


async def _send_page(scope: Scope, start: Message, problem: Mapping[str, Any], send: Send) -> None:
    headers = MutableHeaders(raw=list(start["headers"]))
    request_id = headers.get(REQUEST_ID.decode(), "")
    path = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    sign_in = problem["status"] == 401 and scope.get("state", {}).get(ACCEPTS_SIGN_IN, False)
    content = render_page(problem, request_id, path if sign_in else None)
    headers["content-type"] = "text/html; charset=utf-8"
    headers["content-length"] = str(len(content))
    headers.append("content-security-policy", CONTENT_SECURITY_POLICY)
    await send({**start, "headers": headers.raw})
    await send({"type": "http.response.body", "body": content})


def render_page(problem: Mapping[str, Any], request_id: str, sign_in_for: str | None) -> bytes:
    """Return the page of problem details.

    Args:
        problem: The problem details.
        request_id: What the log has of the request.
        sign_in_for: The address that a signed-in browser may open; None if signing in does not help.
    """
    mistakes = "".join(
        f"<li><code>{escape(each['field'])}</code>: {escape(each['detail'])}</li>" for each in problem.get("errors", ())
    )
    more = f"<ul>{mistakes}</ul>" if mistakes else ""
    if sign_in_for is not None:
        more += f'<p><a href="/sign-in?next={quote(sign_in_for, safe="")}">Sign in with an API key</a></p>'
    page = _template().substitute(
        title=escape(problem["title"]),
        detail=escape(problem["detail"]),
        more=more,
        status=problem["status"],
        request_id=escape(request_id),
    )
    # A message may quote half of a surrogate pair, which UTF-8 does not have.
    return page.encode("utf-8", "xmlcharrefreplace")


@cache
def _template() -> Template:
    return Template(resources.files("cache_pipeline.api").joinpath("pages", "problem.html").read_text(encoding="utf-8"))
