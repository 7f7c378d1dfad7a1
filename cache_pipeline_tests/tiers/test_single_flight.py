import asyncio
import subprocess
import sys
import time

import pytest
from redis.asyncio import Redis

from cache_pipeline.tiers import single_flight as module
from cache_pipeline.tiers.single_flight import single_flight


class Cache:
    """What callers look in; counts who fetched."""

    def __init__(self, redis: Redis, name: str = "thing") -> None:
        self.redis, self.name, self.looks = redis, name, 0

    async def landed(self) -> bool:
        self.looks += 1
        return bool(await self.redis.exists(f"cache:{self.name}"))

    async def call(self, seconds: float = 0.05) -> bool:
        async with single_flight(self.redis, self.name, self.landed) as mine:
            if mine:
                await self.redis.incr(f"fetched:{self.name}")
                await asyncio.sleep(seconds)
                await self.redis.set(f"cache:{self.name}", "there")
            return mine

    async def fetched(self) -> int:
        return int(await self.redis.get(f"fetched:{self.name}") or 0)


async def test_of_fifty_callers_one_fetches(redis: Redis):
    """G20."""
    cache = Cache(redis)
    outcomes = await asyncio.gather(*(cache.call() for _ in range(50)))
    assert sum(outcomes) == 1
    assert await cache.fetched() == 1


_CALL = """
import asyncio, sys
from redis.asyncio import Redis
from cache_pipeline_tests.tiers.test_single_flight import Cache

async def main():
    async with Redis.from_url(sys.argv[1]) as redis:
        await redis.ping()
        print("ready", flush=True)
        sys.stdin.readline()
        await asyncio.gather(*(Cache(redis).call(0.2) for _ in range(10)))

asyncio.run(main())
"""


def processes_of(url: str, program: str, count: int) -> "list[subprocess.Popen[str]]":
    processes = [
        subprocess.Popen([sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    return processes


async def test_over_several_processes_one_fetches(redis: Redis, redis_database: str):
    processes = processes_of(redis_database, _CALL, 2)
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
    assert await Cache(redis).fetched() == 1


async def test_different_things_do_not_wait_for_each_other(redis: Redis):
    started = time.monotonic()
    outcomes = await asyncio.gather(*(Cache(redis, f"thing-{number}").call(0.4) for number in range(10)))
    assert all(outcomes)
    assert time.monotonic() - started < 2


async def test_who_comes_after_the_landing_does_not_fetch(redis: Redis):
    cache = Cache(redis)
    assert await cache.call() is True
    assert await cache.call() is False
    assert await cache.fetched() == 1


async def test_a_holder_that_fails_frees_the_next_at_once(redis: Redis):
    cache = Cache(redis)
    with pytest.raises(ValueError, match="the vendor"):
        async with single_flight(redis, cache.name, cache.landed):
            raise ValueError("the vendor said no")
    started = time.monotonic()
    assert await cache.call(0) is True
    assert time.monotonic() - started < 1


async def test_a_holder_that_is_cancelled_frees_the_next_at_once(redis: Redis):
    cache = Cache(redis)
    task = asyncio.create_task(cache.call(60))
    await asyncio.sleep(0.2)
    assert await cache.fetched() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = time.monotonic()
    assert await cache.call(0) is True
    assert time.monotonic() - started < 1


_DIE = """
import asyncio, os, sys
from redis.asyncio import Redis
from cache_pipeline.tiers import single_flight as module
module._LEASE_SECONDS = 0.6

async def never():
    return False

async def main():
    async with Redis.from_url(sys.argv[1]) as redis:
        async with module.single_flight(redis, "thing", never):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            os._exit(9)

asyncio.run(main())
"""


async def test_a_holder_that_dies_frees_the_rest_within_its_lease(redis: Redis, redis_database: str):
    [holder] = processes_of(redis_database, _DIE, 1)
    cache = Cache(redis)
    waiting = asyncio.create_task(cache.call(0))
    await asyncio.sleep(1)
    still_waits = not waiting.done()
    await asyncio.to_thread(holder.communicate, "die\n", timeout=10)
    assert holder.returncode == 9
    assert still_waits, "a live holder extends its lease"
    assert await asyncio.wait_for(waiting, 2) is True


async def test_waiters_look_again_while_the_holder_still_holds(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    cache = Cache(redis)
    async with single_flight(redis, cache.name, cache.landed) as mine:
        assert mine
        waiting = asyncio.create_task(cache.call())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await redis.set(f"cache:{cache.name}", "there")
        assert await asyncio.wait_for(waiting, 1) is False


async def test_a_live_holder_keeps_the_lock_beyond_its_first_lease(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LEASE_SECONDS", 0.3)
    cache = Cache(redis)
    outcomes = await asyncio.gather(cache.call(1.0), cache.call(1.0))
    assert sorted(outcomes) == [False, True]


async def test_what_was_fetched_counts_even_where_the_lock_was_lost(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LEASE_SECONDS", 0.15)
    cache = Cache(redis)
    async with single_flight(redis, cache.name, cache.landed) as mine:
        await redis.flushall()
        await asyncio.sleep(0.3)
    assert mine


async def test_no_lock_is_left_behind(redis: Redis):
    await Cache(redis).call(0)
    assert await redis.keys("analytics-flight*") == []
