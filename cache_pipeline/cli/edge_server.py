"""A small static server for a published folder, with the caching headers that a CDN would send.

For looking at the page on one's own machine; in production a CDN or web server does this (``deploy/cdn/``). Unlike a CDN it lets
no page of another origin read the figures.
"""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cache_pipeline.api.local_only import LocalOnly
from cache_pipeline.dashboard import script_policy
from cache_pipeline.errors import CommandError
from cache_pipeline.storage.published.object_store import CONTENT_TYPES, cache_control, content_type

_COMMON = {"X-Content-Type-Options": "nosniff"}


@cache
def content_security_policy() -> str:
    """Return the header that the page is served with."""
    return (
        f"default-src 'none'; {script_policy()}; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def edge_app(folder: Path) -> Starlette:
    """Serve ``v1/<tenant>/…`` of an edge folder."""
    root = folder.resolve()
    published = root / "v1"

    async def front(_request: Request) -> Response:
        pages = sorted(root.glob("v1/*/index.html"))
        if not pages:
            return _missing("no page is published here yet: run cache-pipeline edge publish")
        return RedirectResponse(f"/{pages[0].relative_to(root).parent.as_posix()}/", status_code=307)

    async def serve(request: Request) -> Response:
        path = request.path_params["path"]
        target = (published / path).resolve()
        if published not in target.parents:
            return _missing(f"/v1/{path} is not published")
        if target.is_dir() and not path.endswith("/") and path:
            return RedirectResponse(f"{request.url.path}/", status_code=307)
        if target.is_dir():
            target = target / "index.html"
        if not target.is_file() or target.suffix not in CONTENT_TYPES:
            return _missing(f"/v1/{path} is not published")
        name = "/".join(target.relative_to(published).parts[1:])
        return _answer(request, target, name)

    return Starlette(routes=[Route("/", front), Route("/v1/{path:path}", serve, methods=["GET", "HEAD"])])


def _missing(text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=404, headers={"Cache-Control": "no-store"})


def _answer(request: Request, target: Path, name: str) -> Response:
    headers = {**_COMMON, "Cache-Control": cache_control(name)}
    if target.suffix == ".html":
        headers["Content-Security-Policy"] = content_security_policy()
    if target.suffix == ".parquet" and "Range" in request.headers:
        return FileResponse(target, media_type=content_type(name), headers=headers)
    body = target.read_bytes()
    # By content: a file written twice within one second must not keep its ETag.
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers["ETag"] = etag
    # Parquet is never compressed on the way: it saves nothing, and readers of ranges need the length.
    if target.suffix == ".parquet":
        headers["Accept-Ranges"] = "bytes"
    else:
        headers["Vary"] = "Accept-Encoding"
    if etag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if target.suffix != ".parquet" and "gzip" in request.headers.get("Accept-Encoding", ""):
        body = _compressed(body)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=content_type(name), headers=headers)


@lru_cache(maxsize=64)
def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


@contextmanager
def serving_edge(folder: Path, port: int = 0) -> Generator[str]:
    """Serve a folder on loopback, in a thread, for as long as the block lasts.

    Args:
        folder: the edge store's folder, with ``v1`` in it.
        port: on 127.0.0.1; 0 takes a free one.

    Yields:
        The URL, without a slash at its end.

    Raises:
        CommandError: the port cannot be used.
    """
    with serving(LocalOnly(edge_app(folder)), port) as url:
        yield url


@contextmanager
def serving(app: ASGIApp, port: int = 0) -> Generator[str]:
    """Serve an application likewise."""
    with listening(port) as listener:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True, name="edge-server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def listening(port: int) -> Generator[socket.socket]:
    """Open a listening socket on loopback; connections that arrive before the server runs wait.

    Raises:
        CommandError: the port cannot be used.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            raise CommandError(
                f"port {port} cannot be used ({error}): free it, or choose another with --port"
            ) from error
        yield listener
