"""Cancelled work always ends, even if an operation swallows a cancellation as `asyncio.wait_for` of Python 3.11 may."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from cache_pipeline.aio import cancel_and_wait, gather_or_cancel
from cache_pipeline.fetch.chunk_pool import ChunkEvent, fetch_chunks
from cache_pipeline.fetch.chunk_states import ChunkOutcome, Missing
from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.redis.link import RedisLink

HOUR = Interval.parse("2026-01-05T00:00:00Z/2026-01-05T01:00:00Z")


class Stubborn:
    """Work that swallows the first cancellation, and would then take an hour."""

    def __init__(self) -> None:
        self.has_started, self.has_ended = asyncio.Event(), False

    async def run(self) -> None:
        self.has_started.set()
        try:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(3600)
        finally:
            self.has_ended = True

    async def fetch(self, _missing: Missing) -> ChunkOutcome:
        await self.run()
        raise AssertionError("it has not been cancelled")


async def _gather(work: Stubborn) -> None:
    await gather_or_cancel([work.run()])


async def _coalesce(work: Stubborn) -> None:
    async with Coalescer[None, object]() as coalescer:
        await coalescer.run("key", lambda _notify: work.run())


async def _leave_coalescer(work: Stubborn) -> None:
    async with Coalescer[None, object]() as coalescer:
        coalescer.run_in_background("key", work.run)
        await work.has_started.wait()


async def _fetch_chunks(work: Stubborn) -> None:
    await fetch_chunks(work, [HOUR], asyncio.Queue[ChunkEvent | None]())


async def _cancel_itself(work: Stubborn) -> None:
    await cancel_and_wait([asyncio.create_task(work.run())])


@pytest.mark.parametrize("start", [_gather, _coalesce, _leave_coalescer, _fetch_chunks, _cancel_itself])
async def test_cancelled_caller_leaves_no_work_running(
    start: Callable[[Stubborn], Coroutine[Any, Any, None]],
):
    work = Stubborn()
    caller = asyncio.create_task(start(work))
    await work.has_started.wait()
    await asyncio.sleep(0.05)
    caller.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait([caller])
    assert work.has_ended


async def test_cancellation_during_redis_command_is_not_swallowed(redis_database: str):
    """A command of redis-py that ends at the moment of the cancellation returns its result instead."""
    async with Redis.from_url(redis_database, socket_timeout=5) as redis:
        link = RedisLink("nothing happens")
        await redis.ping()
        for pause in range(40):
            caller = asyncio.create_task(link.execute(lambda: redis.set("key", "value"), fallback=None))
            for _ in range(pause):
                await asyncio.sleep(0)
            if caller.done():
                break
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        else:
            raise AssertionError("the command never ended before its cancellation")
