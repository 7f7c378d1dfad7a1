"""Tests that one of many callers fetches, across processes and through failures."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import BlockingConnectionPool, Redis

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.storage.ports.single_flight import Flight
from cache_pipeline.storage.redis.single_flight import FlightKey, RedisSingleFlight


class Cache:
    """A cache that callers share; it counts the fetches of all processes."""

    def __init__(self, redis: Redis, flights: RedisSingleFlight, name: str = "thing") -> None:
        self.redis, self.flights, self.name, self.looks = redis, flights, name, 0

    async def is_done(self) -> bool:
        self.looks += 1
        return bool(await self.redis.exists(f"cache:{self.name}"))

    async def call(self, seconds: float = 0.05) -> bool:
        async with self.flights.acquire(self.name, self.is_done) as flight:
            fetches = flight is not None and not await self.is_done()
            if fetches:
                await self.redis.incr(f"fetched:{self.name}")
                await asyncio.sleep(seconds)
                await self.redis.set(f"cache:{self.name}", "there")
            return fetches

    async def fetched(self) -> int:
        return int(await self.redis.get(f"fetched:{self.name}") or 0)


@pytest.fixture
async def redis(redis_database: str) -> AsyncIterator[Redis]:
    """A client whose connections many callers share, as in the report service."""
    async with Redis.from_pool(BlockingConnectionPool.from_url(redis_database, max_connections=32)) as client:
        yield client


@pytest.fixture
async def flights(redis: Redis) -> AsyncIterator[RedisSingleFlight]:
    async with RedisSingleFlight(redis) as opened:
        yield opened


async def never() -> bool:
    return False


async def test_one_of_fifty_callers_fetches(redis: Redis, flights: RedisSingleFlight):
    """G20."""
    cache = Cache(redis, flights)
    assert sum(await asyncio.gather(*(cache.call() for _ in range(50)))) == 1
    assert await cache.fetched() == 1


PROGRAM = """
import asyncio, sys
from redis.asyncio import Redis
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline_tests.storage.redis.test_single_flight import Cache

async def main():
    async with Redis.from_url(sys.argv[1]) as redis, RedisSingleFlight(redis, lease_seconds=float(sys.argv[2])) as flights:
        await redis.ping()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        cache = Cache(redis, flights)
        calls = asyncio.gather(*(cache.call(float(sys.argv[3])) for _ in range(10)))
        while not await cache.fetched():
            await asyncio.sleep(0.01)
        print("fetching", flush=True)
        await calls

asyncio.run(main())
"""


def process_of(url: str, lease: float, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, url, str(lease), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


async def test_one_of_several_processes_fetches(redis: Redis, redis_database: str, flights: RedisSingleFlight):
    processes = [process_of(redis_database, 15, 0.2) for _ in range(2)]
    for process in processes:
        go(process)
    for process in processes:
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
    assert await Cache(redis, flights).fetched() == 1


async def test_lock_of_a_dead_process_lapses_with_its_lease(redis: Redis, redis_database: str):
    holder = process_of(redis_database, 1.0, 60)
    go(holder)
    assert holder.stdout
    assert await asyncio.to_thread(holder.stdout.readline) == "fetching\n"
    async with RedisSingleFlight(redis, lease_seconds=1.0, look_seconds=0.1) as flights:
        waiting = asyncio.create_task(Cache(redis, flights).call(0))
        await asyncio.sleep(1.6)
        still_waits = not waiting.done()
        holder.kill()
        await asyncio.to_thread(holder.communicate, timeout=10)
        assert still_waits, "a live holder extends its lease"
        assert await asyncio.wait_for(waiting, 10) is True


@asynccontextmanager
async def two_processes(
    redis: Redis, look_seconds: float
) -> AsyncIterator[tuple[RedisSingleFlight, RedisSingleFlight]]:
    """Yield two single flights that act like two processes: each has its own subscription."""
    async with (
        RedisSingleFlight(redis, look_seconds=look_seconds) as one,
        RedisSingleFlight(redis, look_seconds=look_seconds) as other,
    ):
        yield one, other


async def test_release_wakes_waiters_of_other_processes(redis: Redis):
    async with two_processes(redis, look_seconds=60) as (one, other):
        async with one.acquire("thing", never):
            waiting = asyncio.create_task(Cache(redis, other).call(0))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        assert await asyncio.wait_for(waiting, 20) is True


async def test_many_waiters_share_one_subscription(redis: Redis):
    async with two_processes(redis, look_seconds=60) as (one, other):
        caches = [Cache(redis, other, f"thing-{number}") for number in range(10) for _ in range(20)]
        async with AsyncExitStack() as holding:
            for number in range(10):
                await holding.enter_async_context(one.acquire(f"thing-{number}", never))
            waiting = [asyncio.create_task(cache.call(0)) for cache in caches]
            async with asyncio.timeout(20):
                while list(dict(await redis.pubsub_numsub("cache_pipeline:single_flight:released")).values()) != [1]:  # noqa: ASYNC110 - Redis has no event for subscriptions
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            assert list(dict(await redis.pubsub_numsub("cache_pipeline:single_flight:released")).values()) == [1]
            # Once, when the subscription begins, because earlier releases were not received.
            assert max(cache.looks for cache in caches) <= 1
        assert sum(await asyncio.wait_for(asyncio.gather(*waiting), 30)) == 10


async def test_waiters_poll_while_the_lock_is_held(redis: Redis):
    """Waiters poll at least every three seconds (G20); here every fifth of a second."""
    async with two_processes(redis, look_seconds=0.2) as (one, other):
        cache = Cache(redis, other)
        async with one.acquire(cache.name, never):
            waiting = asyncio.create_task(cache.call())
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await redis.set(f"cache:{cache.name}", "there")
            assert await asyncio.wait_for(waiting, 10) is False


async def test_different_names_do_not_wait_for_each_other(redis: Redis, flights: RedisSingleFlight):
    started = time.monotonic()
    assert all(await asyncio.gather(*(Cache(redis, flights, f"thing-{n}").call(0.5) for n in range(20))))
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_failed_holder_releases_at_once(redis: Redis, how: str):
    async with two_processes(redis, look_seconds=60) as (one, other):
        holding = asyncio.Event()

        async def hold() -> None:
            async with one.acquire("thing", never):
                holding.set()
                await asyncio.sleep(0 if how == "fails" else 60)
                raise ValueError("the vendor said no")

        holder = asyncio.create_task(hold())
        await holding.wait()
        waiting = asyncio.create_task(Cache(redis, other).call(0))
        if how == "is cancelled":
            holder.cancel()
        with pytest.raises((ValueError, asyncio.CancelledError)):
            await holder
        assert await asyncio.wait_for(waiting, 20) is True


async def test_cancelled_waiter_leaves_nothing_behind(redis: Redis):
    async with two_processes(redis, look_seconds=60) as (one, other):
        async with one.acquire("thing", never):
            waiting = asyncio.create_task(Cache(redis, other).call(0))
            await asyncio.sleep(0.2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await redis.keys("cache_pipeline:single_flight:*") == []
        assert await asyncio.wait_for(Cache(redis, one).call(0), 20) is True


async def test_lock_is_restored_after_a_flush(redis: Redis):
    async with RedisSingleFlight(redis, lease_seconds=2.0) as one, RedisSingleFlight(redis, look_seconds=0.1) as other:
        async with one.acquire("thing", never):
            await redis.flushall()
            while not await redis.exists("cache_pipeline:single_flight:thing"):  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.05)
            waiting = asyncio.create_task(Cache(redis, other).call(0))
            await asyncio.sleep(0.4)
            assert not waiting.done()
        assert await asyncio.wait_for(waiting, 20) is True


async def test_overtaken_holder_does_not_release_its_successor(redis: Redis):
    async with two_processes(redis, look_seconds=60) as (one, other), AsyncExitStack() as successor:
        async with one.acquire("thing", never):
            await redis.delete("cache_pipeline:single_flight:thing")
            assert await successor.enter_async_context(other.acquire("thing", never))
        waiting = asyncio.create_task(Cache(redis, one).call(0))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await successor.aclose()
        assert await asyncio.wait_for(waiting, 20) is True


async def test_late_extension_does_not_lock_again(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    async with (
        RedisSingleFlight(redis, lease_seconds=60.0) as one,
        RedisSingleFlight(redis, lease_seconds=60.0) as other,
    ):
        acquire, sent = one._lock.acquire, asyncio.Event()

        async def late(key: FlightKey, token: str, priority: Priority) -> bool:
            sent.set()
            await asyncio.sleep(0.3)
            return await acquire(key, token, priority)

        async def on_the_wire(key: FlightKey, token: str, priority: Priority) -> bool:
            # A command that was sent arrives even if its sender is cancelled.
            return await asyncio.shield(asyncio.ensure_future(late(key, token, priority)))

        monkeypatch.setattr(one, "_lease_seconds", 0.05)
        async with one.acquire("thing", never):
            monkeypatch.setattr(one._lock, "acquire", on_the_wire)
            await sent.wait()
        await asyncio.sleep(0.5)
        async with asyncio.timeout(5), other.acquire("thing", never) as is_acquired:
            assert is_acquired


async def test_unreachable_redis_leaves_one_fetch_per_process(caplog: pytest.LogCaptureFixture, redis: Redis):
    async with Redis.from_url("redis://127.0.0.1:9") as unreachable, RedisSingleFlight(unreachable) as flights:
        cache = Cache(redis, flights)
        assert sum(await asyncio.gather(*(cache.call() for _ in range(20)))) == 1
        assert await Cache(redis, flights, "another thing").call() is True
    assert caplog.text.count("each query is fetched once per process instead of once in all") == 1


async def test_release_deletes_the_lock(redis: Redis, flights: RedisSingleFlight):
    await Cache(redis, flights).call(0)
    assert await redis.keys("cache_pipeline:single_flight:*") == []


START = datetime(2026, 1, 5, tzinfo=UTC)


def hours(first: int, last: int) -> Interval:
    return Interval(START + timedelta(hours=first), START + timedelta(hours=last))


async def test_only_overlapping_intervals_exclude_each_other(redis: Redis):
    async with two_processes(redis, look_seconds=60) as (one, other), AsyncExitStack() as holding:
        for flights, part in ((one, hours(0, 4)), (other, hours(4, 8)), (one, hours(8, 9)), (other, hours(20, 24))):
            assert await asyncio.wait_for(holding.enter_async_context(flights.acquire("thing", never, part)), 20)
        for flights, part in ((one, hours(3, 5)), (other, hours(0, 24)), (one, None), (other, hours(8, 9))):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2), flights.acquire("thing", never, part):
                    pass
        assert await asyncio.wait_for(holding.enter_async_context(other.acquire("thing", never, hours(9, 20))), 20)


async def test_release_wakes_only_overlapping_waiters(redis: Redis):
    looked: list[str] = []

    async def wait(flights: RedisSingleFlight, name: str, part: Interval) -> None:
        async def is_done() -> bool:
            looked.append(name)
            return name != "none of it"

        async with flights.acquire("thing", is_done, part) as flight:
            assert (flight is not None) is (name == "none of it")

    async with two_processes(redis, look_seconds=60) as (one, other), AsyncExitStack() as others:
        await others.enter_async_context(one.acquire("thing", never, hours(10, 11)))
        # Both must be subscribed before the first release.
        await asyncio.gather(*(each._notifier.start(20) for each in (one, other)))
        async with one.acquire("thing", never, hours(0, 4)):
            here = asyncio.create_task(wait(one, "some of it", hours(3, 5)))
            there = asyncio.create_task(wait(other, "all of it", hours(0, 24)))
            nowhere = asyncio.create_task(wait(other, "none of it", hours(10, 12)))
            await asyncio.sleep(0.3)
            assert looked == []
        await asyncio.wait_for(asyncio.gather(here, there), 20)
        assert sorted(looked) == ["all of it", "some of it"]
        await others.aclose()
        await asyncio.wait_for(nowhere, 20)


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 11), st.integers(1, 6), st.integers(0, 1)).map(
            lambda each: (each[0], each[0] + each[1], each[2])
        ),
        min_size=2,
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_two_processes_fetch_every_hour_exactly_once(redis_database: str, parts: list[tuple[int, int, int]]):
    fetched: Counter[int] = Counter()
    done: set[int] = set()

    async with (
        Redis.from_pool(BlockingConnectionPool.from_url(redis_database, max_connections=32)) as redis,
        two_processes(redis, look_seconds=60) as processes,
    ):

        async def call(first: int, last: int, process: int) -> None:
            requested = set(range(first, last))

            async def is_done() -> bool:
                return requested <= done

            async with processes[process].acquire("thing", is_done, hours(first, last)) as is_acquired:
                missing = requested - done
                assert is_acquired or not missing
                fetched.update(missing)
                await asyncio.sleep(0.001)
                done.update(missing)

        await asyncio.wait_for(asyncio.gather(*(call(*part) for part in parts)), 30)
        assert set(fetched.values()) == {1}
        assert set(fetched) == {hour for first, last, _ in parts for hour in range(first, last)}
        assert await redis.keys("cache_pipeline:single_flight:*") == []


async def wait_for_lane(flight: Flight | None, lane: Lane) -> None:
    """Return when the lock has a lane."""
    assert flight is not None
    async with asyncio.timeout(20):
        while (await flight.priority()).lane is not lane:  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("is_same_process", [True, False])
async def test_waiter_raises_the_lane_of_every_lock_it_waits_for(redis: Redis, *, is_same_process: bool):
    backfill = Priority(Lane.backfill, frozenset({"a"}))
    async with two_processes(redis, look_seconds=0.05) as (one, other), AsyncExitStack() as holding:
        held = [
            await holding.enter_async_context(one.acquire("thing", never, hours(first, first + 2), priority=backfill))
            for first in (0, 2, 4)
        ]
        waiter = one if is_same_process else other

        async def wait(lane: Lane, *callers: str) -> None:
            async with waiter.acquire("thing", never, hours(1, 4), priority=Priority(lane, frozenset(callers))):
                pass

        waiting = [asyncio.create_task(wait(Lane.interactive, "b"))]
        await asyncio.gather(*(wait_for_lane(flight, Lane.interactive) for flight in held[:2]))
        waiting.append(asyncio.create_task(wait(Lane.scheduled, "b", "c")))
        await asyncio.sleep(0.2)
        priorities = [await flight.priority() for flight in held if flight is not None]
        # The query belongs to all callers that wait for it.
        raised = Priority(Lane.interactive, frozenset("abc"))
        assert priorities == [raised, raised, backfill]
        await holding.aclose()
        await asyncio.wait_for(asyncio.gather(*waiting), 20)


async def test_raised_priority_survives_the_extension_of_the_lease(redis: Redis):
    scheduled = Priority(Lane.scheduled, frozenset({"a"}))
    async with (
        RedisSingleFlight(redis, lease_seconds=0.3) as one,
        RedisSingleFlight(redis, look_seconds=0.05) as other,
        one.acquire("thing", never, priority=Priority(Lane.backfill)) as flight,
    ):

        async def wait() -> None:
            async with other.acquire("thing", never, priority=scheduled):
                pass

        waiting = asyncio.create_task(wait())
        await wait_for_lane(flight, Lane.scheduled)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0.5)
        assert flight is not None
        assert await flight.priority() == scheduled
