"""The gateway and a worker as processes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvicorn

from cache_pipeline.aio import run_in_background
from cache_pipeline.api.app import create_app
from cache_pipeline.api.jobs.heartbeat import WorkerHeartbeats
from cache_pipeline.api.jobs.job_events import JobEvents
from cache_pipeline.api.jobs.job_store import JobStore, connection_pool
from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.api.jobs.worker import Worker
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.startup import StoppedDuringStartup, serve_until_ready
from cache_pipeline.bootstrap import load_reports, open_service
from cache_pipeline.errors import SettingsError
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.settings import Settings

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WORKER_CONNECTIONS = 4
#: Nobody holds the line: on a busy machine a job had better wait for its turn than take PostgreSQL for gone.
_WORKER_PATIENCE_SECONDS = 20.0


def serve_gateway(
    settings: Settings,
    host: str,
    port: int,
    announce: Callable[[str], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM.

    Args:
        settings: of the deployment.
        host: address to listen on.
        port: TCP port; 0 for any free one.
        announce: told the base URL as soon as it will be answered.
        prepare: done before anything is served, but for ``/healthz`` and ``/readyz`` where it lasts.

    Raises:
        SettingsError: the port cannot be used, or the API would be open to the network without keys.
        Exception: whatever ``prepare`` raises.
    """
    if settings.gateway.auth == "off" and host not in _LOOPBACK:
        raise SettingsError(
            f"CACHE_PIPELINE_GATEWAY__AUTH=off lets anybody in, and {host} is not loopback: use keys, or 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio leaves Nagle's algorithm on, and an answer on a kept connection takes some 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"the gateway cannot listen on {host}:{port} ({error}): choose another --port"
            ) from error
        try:
            serve_until_ready(listener, prepare)
        except StoppedDuringStartup:
            return
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            create_app(settings),
            log_level="warning",
            # Its lines go where ours do.
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn has already shut down in order and only passes the signal on.
            return


async def work(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[[str], None],
    on_stored: OnStored = ignore_stored,
) -> None:
    """Take jobs until told to stop.

    Args:
        settings: of the deployment.
        stop: ends it, after what was begun.
        announce: told the worker's name when it begins.
        on_stored: hears of what is written to history.

    Raises:
        SettingsError: a URL is missing or of an unknown broker.
    """
    reports = load_reports(settings)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings, on_stored, tuple(reports.values())))
        url = settings.required_postgres_url()
        pool = await stack.enter_async_context(connection_pool(url, _WORKER_CONNECTIONS, _WORKER_PATIENCE_SECONDS))
        leases = await stack.enter_async_context(connection_pool(url, 1))
        queue = await stack.enter_async_context(open_queue(settings))
        worker = Worker(
            name=name,
            service=service,
            reports=reports,
            jobs=JobStore(pool),
            leases=JobStore(leases),
            queue=queue,
            events=JobEvents(service.redis),
            meter=ProcessCounters(service.redis),
            settings=settings.jobs,
        )
        announce(name)
        logging.getLogger(__name__).info("worker %s takes jobs", name)
        presence = WorkerHeartbeats(service.redis, settings.jobs.lease_seconds)
        async with run_in_background(presence.beating(name)):
            await worker.run(stop)
        # Not where it ends by a fault: then it is missed.
        await presence.leave(name)
