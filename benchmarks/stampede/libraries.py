"""The libraries, each with its own protection against stampedes, configured as its documentation says."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.stampede.setup import Ask, Setup, vendor_query

_TTL = 60
#: Of a process that serves blocking code beside an event loop; anyio's, and so Starlette's, own default.
_THREADS = 40
_CONNECTIONS, _PATIENCE_SECONDS = 32, 60


@asynccontextmanager
async def with_cashews(setup: Setup) -> AsyncGenerator[Ask]:
    """`@cache(ttl=..., lock=True)` on the Redis back end: one task a process, and a lock that the processes spin on."""
    from cashews import Cache

    cache: Any = Cache()
    cache.setup(setup.redis_url.get_secret_value())
    async with vendor_query(setup) as query:

        @cache(ttl=_TTL, key="cashews:{interval}", lock=True)
        async def ask(interval: str) -> bytes:
            return await query(interval)

        yield ask
    await cache.close()


@asynccontextmanager
async def with_dogpile(setup: Setup) -> AsyncGenerator[Ask]:
    """`get_or_create` with a distributed lock: for threads, of which an asynchronous server has a few, and each polls."""
    from dogpile.cache import make_region

    region: Any = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=_TTL,
        arguments={
            "url": setup.redis_url.get_secret_value(),
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": setup.slowest,
        },
    )
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(_THREADS) as threads:
        async with vendor_query(setup) as query:

            def ask_in_thread(interval: str) -> bytes:
                async def asked() -> bytes:
                    return await query(interval)

                def create() -> bytes:
                    return asyncio.run_coroutine_threadsafe(asked(), loop).result()

                return region.get_or_create(f"dogpile:{interval}", create)

            async def ask(interval: str) -> bytes:
                return await loop.run_in_executor(threads, ask_in_thread, interval)

            yield ask


@asynccontextmanager
async def with_aiocache(setup: Setup) -> AsyncGenerator[Ask]:
    """`@cached_stampede(lease=...)` on the Redis back end, whose lock is waited for by events of the process alone."""
    from aiocache import Cache, cached_stampede
    from aiocache.serializers import PickleSerializer
    from redis.asyncio import BlockingConnectionPool

    redis = urlsplit(setup.redis_url.get_secret_value())
    async with vendor_query(setup) as query:

        def key(_function: object, interval: str) -> str:
            return f"aiocache:{interval}"

        decorated: Any = cached_stampede(
            lease=setup.slowest,
            ttl=_TTL,
            key_builder=key,
            cache=Cache.REDIS,
            endpoint=redis.hostname,
            port=redis.port,
            password=redis.password,
            # Its own pool refuses whoever finds no connection free.
            connection_pool_class=BlockingConnectionPool,
            pool_max_size=_CONNECTIONS,
            timeout=_PATIENCE_SECONDS,
            serializer=PickleSerializer(),
        )

        @decorated
        async def ask(interval: str) -> bytes:
            return await query(interval)

        yield ask
        await ask.cache.close()
