"""What the gateway answers while it waits for PostgreSQL: that it lives, and that it is not ready."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cache_pipeline.api import schemas as wire
from cache_pipeline.api.problems import Problem
from cache_pipeline.errors import CachePipelineError

#: Most starts take no longer, and then nobody need be told that they go on.
_AT_ONCE_SECONDS = 2.0
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class StoppedDuringStartup(CachePipelineError):
    """Ctrl-C came before everything was there."""


def serve_until_ready(listener: socket.socket, prepare: Callable[[], None]) -> None:
    """Do what must be done before serving; where that lasts, say so meanwhile on the port.

    Args:
        listener: bound and listening; it stays open.
        prepare: blocks until it is done.

    Raises:
        StoppedDuringStartup: somebody pressed Ctrl-C.
        Exception: whatever ``prepare`` raises.
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

    def work() -> None:
        try:
            prepare()
        except Exception as error:  # noqa: BLE001 - raised to whoever waits
            failures.append(error)
        finally:
            server.should_exit = True

    # A daemon: whoever is told to end does not wait for a database that is not there.
    working = threading.Thread(target=work, name="starting", daemon=True)
    working.start()
    working.join(_AT_ONCE_SECONDS)
    if working.is_alive():
        # uvicorn closes the sockets it was given.
        try:
            server.run(sockets=[listener.dup()])
        except KeyboardInterrupt:
            raise StoppedDuringStartup from None
    working.join()
    if failures:
        raise failures[0]


def _app() -> Starlette:
    async def health(_request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def readiness(_request: Request) -> Response:
        awaited = wire.Dependency(name="postgresql", ok=False, detail="awaited, since the start")
        told = wire.Readiness(ok=False, dependencies=[awaited])
        return JSONResponse(told.model_dump(mode="json", by_alias=True), 503, {"Cache-Control": "no-store"})

    async def anything(_request: Request) -> Response:
        told = "the gateway starts, and PostgreSQL is not there yet"
        return Problem("unavailable", 503, told, headers={"Retry-After": "5"}).response()

    return Starlette(
        routes=[
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/{path:path}", anything, methods=_METHODS),
        ]
    )
