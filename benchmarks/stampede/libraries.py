"""Caching libraries with stampede protection, each configured as documented."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.stampede.setup import Fetch, Setup, vendor_query

_TTL = 60
#: Threads for blocking code beside an event loop; the default of anyio, and so of Starlette.
_THREADS = 40
_CONNECTIONS, _POOL_TIMEOUT_SECONDS = 32, 60


@asynccontextmanager
async def with_cashews(setup: Setup) -> AsyncGenerator[Fetch]:
    """Open cashews: `@cache(ttl=..., lock=True)` on Redis. One task per process fetches; processes spin on a lock."""
    from cashews import Cache

    cache: Any = Cache()
    cache.setup(setup.redis_url.get_secret_value())
    async with vendor_query(setup) as query:

        @cache(ttl=_TTL, key="cashews:{interval}", lock=True)
        async def fetch(interval: str) -> bytes:
            return await query(interval)

        yield fetch
    await cache.close()


@asynccontextmanager
async def with_dogpile(setup: Setup) -> AsyncGenerator[Fetch]:
    """Open dogpile.cache: `get_or_create` with a distributed lock. It needs threads, of which an async server has few; each polls."""
    from dogpile.cache import make_region

    region: Any = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=_TTL,
        arguments={
            "url": setup.redis_url.get_secret_value(),
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": setup.max_query_seconds,
        },
    )
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(_THREADS) as threads:
        async with vendor_query(setup) as query:

            def fetch_in_thread(interval: str) -> bytes:
                async def run_query() -> bytes:
                    return await query(interval)

                def create() -> bytes:
                    return asyncio.run_coroutine_threadsafe(run_query(), loop).result()

                return region.get_or_create(f"dogpile:{interval}", create)

            async def fetch(interval: str) -> bytes:
                return await loop.run_in_executor(threads, fetch_in_thread, interval)

            yield fetch


@asynccontextmanager
async def with_aiocache(setup: Setup) -> AsyncGenerator[Fetch]:
    """Open aiocache: `@cached_stampede(lease=...)` on Redis. Its lock is awaited with events of one process only."""
    from aiocache import Cache, cached_stampede
    from aiocache.serializers import PickleSerializer
    from redis.asyncio import BlockingConnectionPool

    redis = urlsplit(setup.redis_url.get_secret_value())
    async with vendor_query(setup) as query:

        def key(_function: object, interval: str) -> str:
            return f"aiocache:{interval}"

        decorate: Any = cached_stampede(
            lease=setup.max_query_seconds,
            ttl=_TTL,
            key_builder=key,
            cache=Cache.REDIS,
            endpoint=redis.hostname,
            port=redis.port,
            password=redis.password,
            # aiocache's own pool raises an error if no connection is free.
            connection_pool_class=BlockingConnectionPool,
            pool_max_size=_CONNECTIONS,
            timeout=_POOL_TIMEOUT_SECONDS,
            serializer=PickleSerializer(),
        )

        @decorate
        async def fetch(interval: str) -> bytes:
            return await query(interval)

        yield fetch
        await fetch.cache.close()
