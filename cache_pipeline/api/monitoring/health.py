"""Health checks of the services that the API depends on, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cache_pipeline.api import schemas
from cache_pipeline.api.query_service import QueryService

_TIMEOUT_SECONDS = 3.0


async def check_dependencies(query_service: QueryService) -> list[schemas.Dependency]:
    """Check PostgreSQL, Redis and the queue, in this order."""
    checks: dict[str, Callable[[], Awaitable[object]]] = {
        "postgresql": query_service.jobs.ping,
        "redis": query_service.check_redis,
        "queue": query_service.queue.health,
    }
    return list(await asyncio.gather(*(_check(name, check) for name, check in checks.items())))


async def _check(name: str, check: Callable[[], Awaitable[object]]) -> schemas.Dependency:
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001 - after any error the dependency is unusable
        # Only the kind of error: messages of drivers may hold addresses and parts of a URL.
        return schemas.Dependency(name=name, ok=False, detail=type(error).__name__)
    return schemas.Dependency(name=name, ok=True)
