"""The pages that the API serves to browsers, and their sign-in. They hold no figures; their scripts ask the API for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import cache
from importlib import resources
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from cache_pipeline.api import schemas
from cache_pipeline.api.audit import HAS_SENT_KEY
from cache_pipeline.api.browser_session import sign_in, sign_out
from cache_pipeline.api.dependencies import QueryServiceDependency, unauthorized

router = APIRouter(include_in_schema=False)
#: Of every page: only what this server has.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'"
)
_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_PART_BYTES = 64 * 1024


@router.get("/")
async def redirect_to_operations() -> RedirectResponse:
    """Redirect to the operations page."""
    return RedirectResponse("/operations")


@router.get("/operations")
async def operations_page() -> Response:
    """Return the operations page."""
    return _page("operations.html")


@router.get("/live")
async def live_page() -> Response:
    """Return the live page."""
    return _page("live.html")


@router.get("/sign-in")
async def sign_in_page() -> Response:
    """Return the page on which a key is pasted."""
    return _page("sign_in.html")


@router.get("/docs")
async def documentation_page() -> Response:
    """Return the page on which every request can be tried. It loads nothing from a CDN, which an operator's browser may not reach."""
    return _page("docs.html")


@router.get("/pages/{name}")
async def page_file(
    name: Literal["pages.css", "docs.css", "docs.js", "live.css", "live.js", "operations.js", "sign_in.js"],
) -> Response:
    """Return a script or the style sheet of the pages."""
    return _page(name)


@router.get("/docs/assets/{name}")
async def documentation_file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> Response:
    """Return a file of /docs from memory, in parts: one that a caller does not read costs neither an open file nor a copy of its own."""
    content = _documentation_file(name)
    return StreamingResponse(
        _parts(content),
        media_type=_MEDIA_TYPES[name.rpartition(".")[2]],
        headers={"Cache-Control": "public, max-age=3600", "Content-Length": str(len(content))},
    )


@router.post("/v1/session", status_code=204)
async def start_session(
    body: schemas.SessionBody, request: Request, response: Response, query_service: QueryServiceDependency
) -> None:
    """Sign a browser in with an API key.

    Only JSON is accepted, which a form of another site cannot send.
    """
    setattr(request.state, HAS_SENT_KEY, True)
    if await query_service.api_keys.find(body.key) is None:
        raise unauthorized()
    response.headers["Cache-Control"] = "no-store"
    sign_in(query_service, request, response, body.key)


@router.delete("/v1/session", status_code=204)
async def end_session(response: Response) -> None:
    """Sign a browser out."""
    sign_out(response)


def _page(name: str) -> Response:
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    content = resources.files("cache_pipeline.api").joinpath("pages", name).read_bytes()
    return Response(content, media_type=_MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _documentation_file(name: str) -> bytes:
    return resources.files("fastapi_offline").joinpath("static", name).read_bytes()


async def _parts(content: bytes) -> AsyncGenerator[memoryview]:
    view = memoryview(content)
    for start in range(0, len(view), _PART_BYTES):
        yield view[start : start + _PART_BYTES]
        # A caller's buffers take many parts at once, which would otherwise all be copied before anybody else is answered.
        await asyncio.sleep(0)
