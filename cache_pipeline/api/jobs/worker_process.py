"""The process of an API worker: opens what it needs, runs jobs until it is stopped, and says while it lives.

It is apart from the API's own process, whose web framework a worker need not have in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta

from cache_pipeline.account_upkeep import refresh_account_facts
from cache_pipeline.aio import run_in_background
from cache_pipeline.api.jobs.alive_file import create_alive_file, touch_regularly
from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.api.jobs.worker import Worker
from cache_pipeline.api.monitoring.counters import ProcessCounters
from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.bootstrap.reports import load_reports
from cache_pipeline.bootstrap.services import open_service
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
_WORKER_CONNECTIONS = 4
#: No caller waits on this connection, so on a busy machine a job waits its turn rather than fail.
_WORKER_CONNECT_SECONDS = 20.0


async def run_worker(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[[str], None],
    on_stored: OnStored = ignore_stored,
    clock: Callable[[], datetime] = utc_now,
) -> None:
    """Run jobs until `stop` is set.

    Args:
        settings: Settings of the deployment.
        stop: Stops the worker after it has finished its running jobs.
        announce: Called with the worker's name when it starts.
        on_stored: Called with each write to history.
        clock: The current time in UTC.

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
        service = await stack.enter_async_context(open_service(settings, on_stored, tuple(reports.values()), clock))
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
            counters=ProcessCounters(RedisMetricCounts(redis, clock)),
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
