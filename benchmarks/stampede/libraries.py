"""The library with its own protection against stampedes, configured as its documentation says."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.stampede.setup import Ask, Setup, vendor_query

_TTL = 60


@asynccontextmanager
async def with_cashews(setup: Setup) -> AsyncGenerator[Ask]:
    """`@cache(ttl=..., lock=True)` on the Redis back end."""
    from cashews import Cache

    cache: Any = Cache()
    cache.setup(setup.redis_url.get_secret_value())
    async with vendor_query(setup) as query:

        @cache(ttl=_TTL, key="query:{interval}", lock=True)
        async def ask(interval: str) -> bytes:
            return await query(interval)

        yield ask
    await cache.close()
