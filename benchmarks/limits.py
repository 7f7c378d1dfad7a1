"""`limits`: what each kind of work costs the one Redis that all processes share, so that a deployment's limit can be computed.

Each row is the processor time of the server per operation, by its own INFO, and how many operations one processor does in a second.
Peer: a PING, which is what any command costs at least. See docs/limits.md.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from benchmarks.result import ProgressCallback, Result, Row
from cache_pipeline.embedded import embedded_servers
from cache_pipeline.query.lane import Lane
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.storage.redis.counters import RedisMetricCounts, RedisRequestCounts
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota

_OPERATIONS, _AT_ONCE = 4000, 16
_ANSWER_BYTES = 20_000
_POLICY = QuotaPolicy(limit=1_000_000, window_seconds=60)


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as name, embedded_servers(Path(name) / "servers") as servers:
        return Result("limits", tuple(asyncio.run(_measure(progress, servers.redis_url))))


async def _measure(progress: ProgressCallback, url: str) -> list[Row]:
    async with open_redis(url) as redis, RedisSingleFlight(redis) as flights:
        quotas = {
            clients: Quota(redis, f"limits {clients}", dict.fromkeys(map(str, range(clients)), 1), _POLICY)
            for clients in (1, 10, 100)
        }
        metrics, requests = RedisMetricCounts(redis, lambda: datetime.now(UTC)), RedisRequestCounts(redis)
        await redis.set("answer", b"x" * _ANSWER_BYTES)

        async def ping(_: int) -> None:
            await redis.ping()

        async def hot(_: int) -> None:
            await redis.get("answer")

        async def flight(number: int) -> None:
            async with flights.acquire(f"series {number}", _never):
                pass

        async def count(number: int) -> None:
            await metrics.add({"requests": 1, "hits": 1}, {"seconds": 0.1})
            await requests.add(number, {"key": 1})

        def grant(clients: int) -> Callable[[int], Awaitable[None]]:
            async def acquire(_: int) -> None:
                granted = await quotas[clients].acquire(Lane.interactive)
                await quotas[clients].settle(granted, remaining=None, retry_after=None, rejected=False)

            return acquire

        rows: list[Row] = []
        least = await _cost(redis, ping)
        for what, operation in (
            ("hot read of 20 KB", hot),
            ("lock of a query, taken and released", flight),
            ("a process's counts of a second", count),
            *((f"vendor request granted and settled, pool of {clients}", grant(clients)) for clients in quotas),
        ):
            progress(what)
            cost = await _cost(redis, operation)
            rows.append(Row(f"{what}: Redis's time", 1e6 * cost, "µs", {"PING": 1e6 * least}))
            rows.append(Row(f"{what}: limit of one Redis", 1 / cost, "1/s", {"PING": 1 / least}))
        return rows


async def _cost(redis: Redis, operation: Callable[[int], Awaitable[None]]) -> float:
    """Return the seconds of the server's processors for one operation."""
    await asyncio.gather(*(operation(-number) for number in range(1, _AT_ONCE)))
    before = await _used(redis)

    async def client(first: int) -> None:
        for number in range(first, _OPERATIONS, _AT_ONCE):
            await operation(number)

    await asyncio.gather(*(client(first) for first in range(_AT_ONCE)))
    return (await _used(redis) - before) / _OPERATIONS


async def _used(redis: Redis) -> float:
    # The server adds up its processor time in ticks.
    await asyncio.sleep(0.1)
    used = await redis.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def _never() -> bool:
    return False
