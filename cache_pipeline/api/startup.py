"""The API during startup: while it waits for PostgreSQL it reports that it is alive but not ready."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.api import schemas
from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import CachePipelineError

#: Most starts take no longer than this, and then the startup responses are not needed.
_QUICK_START_SECONDS = 2.0
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class StoppedDuringStartup(CachePipelineError):
    """Startup was interrupted by Ctrl-C."""


def serve_until_ready(listener: socket.socket, prepare: Callable[[], None]) -> None:
    """Prepare to serve. If that takes long, answer on the port that the API is starting.

    Args:
        listener: A socket that is bound and listening; it stays open.
        prepare: Blocks until the preparation is done.

    Raises:
        StoppedDuringStartup: The user pressed Ctrl-C.
        Exception: Any error that ``prepare`` raises.
    """
    failures: list[Exception] = []
    server = uvicorn.Server(
        uvicorn.Config(
            _app(),
            log_level="warning",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )

    def run_prepare() -> None:
        try:
            prepare()
        except Exception as error:  # noqa: BLE001 - raised again in the calling thread
            failures.append(error)
        finally:
            server.should_exit = True

    # A daemon thread, so that a process asked to shut down does not wait for an unavailable database.
    thread = threading.Thread(target=run_prepare, name="startup", daemon=True)
    thread.start()
    thread.join(_QUICK_START_SECONDS)
    if thread.is_alive():
        # uvicorn closes the sockets it is given, so give it a duplicate.
        try:
            server.run(sockets=[listener.dup()])
        except KeyboardInterrupt:
            raise StoppedDuringStartup from None
    thread.join()
    if failures:
        raise failures[0]


def _app() -> Starlette:
    async def health(_request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def readiness(_request: Request) -> Response:
        postgresql = schemas.Dependency(name="postgresql", ok=False, detail="waiting for it since startup")
        body = schemas.Readiness(ok=False, dependencies=[postgresql])
        return JSONResponse(body.model_dump(mode="json", by_alias=True), 503, {"Cache-Control": "no-store"})

    async def unavailable(_request: Request) -> Response:
        detail = "the API is starting and PostgreSQL is not available yet: try again after Retry-After"
        return Problem("unavailable", 503, detail, headers={"Retry-After": "5"}).response()

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/{path:path}", unavailable, methods=_METHODS),
        ]
    )
