"""One at a time over all processes: who holds the lock asks the vendor, everybody else waits and looks again (G20)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import RedisError

#: A holder that dies frees the others after this long; a live one extends it.
_LEASE_SECONDS = 15.0
_WAIT_SECONDS = 3.0


@asynccontextmanager
async def single_flight(redis: Redis, name: str, landed: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bool]:
    """Hold the flight ``name``, or find that somebody else's has landed.

    Yields:
        True when this caller holds the lock and must fetch; False when ``landed`` said that the thing is there now,
        after a wait of three seconds at most between two looks.
    """
    lock = redis.lock(f"analytics-flight:{name}", timeout=_LEASE_SECONDS, sleep=0.1)
    while not await lock.acquire(blocking=True, blocking_timeout=_WAIT_SECONDS):
        if await landed():
            yield False
            return
    extending = asyncio.create_task(_extend(lock))
    try:
        yield not await landed()
    finally:
        extending.cancel()
        with suppress(asyncio.CancelledError):
            await extending
        # What was fetched counts even where the lease was lost meanwhile.
        with suppress(RedisError):
            await lock.release()


async def _extend(lock: Lock) -> None:
    while True:
        await asyncio.sleep(_LEASE_SECONDS / 3)
        with suppress(RedisError):
            await lock.reacquire()
