"""The things that the gateway stands on, each looked at by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cache_pipeline.api import schemas as wire
from cache_pipeline.api.query_service import QueryService

_PATIENCE_SECONDS = 3.0


async def dependencies(gateway: QueryService) -> list[wire.Dependency]:
    """PostgreSQL, Redis and the queue, in this order."""

    async def redis() -> None:
        await gateway.service.redis.ping()

    looks: dict[str, Callable[[], Awaitable[object]]] = {
        "postgresql": gateway.jobs.ping,
        "redis": redis,
        "queue": gateway.queue.health,
    }
    return list(await asyncio.gather(*(_looked_at(name, look) for name, look in looks.items())))


async def _looked_at(name: str, look: Callable[[], Awaitable[object]]) -> wire.Dependency:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await look()
    except Exception as error:  # noqa: BLE001 - whatever it is, the thing is not usable
        # The kind alone: messages of drivers may hold addresses and what was in a URL.
        return wire.Dependency(name=name, ok=False, detail=type(error).__name__)
    return wire.Dependency(name=name, ok=True)
