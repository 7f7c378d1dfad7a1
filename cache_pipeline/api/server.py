"""Entry points of the two processes: the HTTP API and its worker."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import uvicorn

from cache_pipeline.account_upkeep import refresh_account_facts
from cache_pipeline.aio import run_in_background
from cache_pipeline.api.app import create_app
from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.api.jobs.alive_file import create_alive_file, touch_regularly
from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.api.jobs.worker import Worker
from cache_pipeline.api.local_only import LocalOnly
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.api.startup import StoppedDuringStartup, serve_until_ready
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.errors import SettingsError
from cache_pipeline.fetch.write_events import OnStored, ignore_stored
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.service.cached_answers import AnswerLimits
from cache_pipeline.settings import Settings
from cache_pipeline.storage.postgres.ad_hoc_series import PostgresAdHocSeries
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.jobs import PostgresJobStore
from cache_pipeline.storage.redis.counters import RedisMetricCounts
from cache_pipeline.storage.redis.heartbeats import RedisWorkerHeartbeats
from cache_pipeline.storage.redis.job_events import RedisJobEvents

logger = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_WORKER_CONNECTIONS = 4
#: No caller waits on this connection, so on a busy machine a job waits its turn rather than fail.
_WORKER_CONNECT_SECONDS = 20.0


def serve_api(
    settings: Settings,
    host: str,
    port: int,
    announce: Callable[[str], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM.

    Args:
        settings: Settings of the deployment.
        host: Address to listen on.
        port: TCP port; 0 for any free one.
        announce: Called with the base URL as soon as the API serves it.
        prepare: Run before the API serves anything; if it takes long, ``/healthz`` and ``/readyz`` answer meanwhile.

    Raises:
        SettingsError: The port cannot be used, or the API would be open to the network without keys.
        Exception: Any error that ``prepare`` raises.
    """
    if settings.api.auth == "off" and host not in _LOOPBACK:
        raise SettingsError(
            f"CACHE_PIPELINE_API__AUTH=off opens the API to everyone, and {host} is not loopback: use keys, or "
            "listen on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio otherwise leaves Nagle's algorithm on, which adds some 40 ms to an answer on a
    # kept-alive connection.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            raise SettingsError(f"the API cannot listen on {host}:{port} ({error}): choose another --port") from error
        try:
            serve_until_ready(listener, prepare)
        except StoppedDuringStartup:
            return
        url_host = f"[{host}]" if ":" in host else host
        announce(f"http://{url_host}:{listener.getsockname()[1]}")
        app = create_app(settings)
        config = uvicorn.Config(
            LocalOnly(app, settings.api.cors_origins) if settings.api.auth == "off" else app,
            # Its warnings are about malformed requests, of which a caller without a key can send any number.
            log_level="error",
            # uvicorn's log lines go to the same handlers as ours.
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            # Who a proxy speaks for is decided by the settings; uvicorn would believe every proxy on this machine.
            proxy_headers=False,
            http=BoundedHttpProtocol,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            # uvicorn has already shut down in order and only re-raises the signal.
            return


async def run_worker(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[[str], None],
    on_stored: OnStored = ignore_stored,
) -> None:
    """Run jobs until `stop` is set.

    Args:
        settings: Settings of the deployment.
        stop: Stops the worker after it has finished its running jobs.
        announce: Called with the worker's name when it starts.
        on_stored: Called with each write to history.

    Raises:
        SettingsError: A URL is missing, the broker is unknown, or the file of ``jobs.alive_file`` cannot be written.
    """
    alive = settings.jobs.alive_file
    if alive is not None:
        create_alive_file(alive)
    reports = load_reports(settings)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    await refresh_account_facts(settings)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings, on_stored, tuple(reports.values())))
        url = settings.required_postgres_url()
        pool = await stack.enter_async_context(connection_pool(url, _WORKER_CONNECTIONS, _WORKER_CONNECT_SECONDS))
        leases = await stack.enter_async_context(connection_pool(url, 1))
        queue = await stack.enter_async_context(open_queue(settings))
        redis = await stack.enter_async_context(open_redis(settings.required_redis_url()))
        worker = Worker(
            name=name,
            # An answer that the API would refuse need not be rendered.
            service=replace(service, limits=AnswerLimits(settings.api.max_rows, settings.api.max_answer_bytes)),
            reports=reports,
            jobs=PostgresJobStore(pool),
            leases=PostgresJobStore(leases),
            queue=queue,
            events=RedisJobEvents(redis),
            counters=ProcessCounters(RedisMetricCounts(redis, utc_now)),
            settings=settings.jobs,
            ad_hoc_series=PostgresAdHocSeries(pool, url),
            max_ad_hoc_series=settings.api.ad_hoc_series,
            ad_hoc_keep=timedelta(days=settings.api.ad_hoc_days),
        )
        announce(name)
        logger.info("worker %s started", name)
        heartbeats = RedisWorkerHeartbeats(redis, settings.jobs.lease_seconds)
        signs = [heartbeats.heartbeat(name), *([touch_regularly(alive)] if alive is not None else [])]
        async with run_in_background(*signs):
            await worker.run(stop)
        # Only after an orderly end: a worker that failed must count as lost.
        await heartbeats.deregister(name)
