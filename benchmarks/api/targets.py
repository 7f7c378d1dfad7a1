"""Functions that run in child processes: the API, a worker, and the bare route."""

import asyncio
import threading
from multiprocessing.connection import Connection

import uvicorn
from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cache_pipeline.api.jobs.worker_process import run_worker
from cache_pipeline.api.server import serve_api
from cache_pipeline.settings import Settings

BARE_KEY = "benchmark-bare"


def api(settings: Settings, parent: Connection) -> None:
    """Serve the HTTP API."""
    serve_api(settings, "127.0.0.1", 0, parent.send)


def worker(settings: Settings, parent: Connection) -> None:
    """Run a worker until its process ends."""
    asyncio.run(run_worker(settings, asyncio.Event(), parent.send))


def bare(redis_url: str, port: int, parent: Connection) -> None:
    """Serve the least a route can do: GET from Redis with the same client and return the bytes."""
    redis = Redis.from_pool(BlockingConnectionPool.from_url(redis_url, max_connections=32, timeout=20))

    async def answer(_request: Request) -> Response:
        return Response(await redis.get(BARE_KEY), media_type="application/json")

    app = Starlette(routes=[Route("/v1/reports/{report}", answer)])
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, ws="none")
    server = uvicorn.Server(config)

    def announce() -> None:
        while not server.started:
            threading.Event().wait(0.01)
        parent.send(f"http://127.0.0.1:{port}")

    threading.Thread(target=announce, daemon=True).start()
    server.run()
