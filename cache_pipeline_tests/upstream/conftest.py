"""Fixtures: a real Redis, a Redis Cluster node, and a clock that tests control."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from cache_pipeline_tests.upstream.vendor import Valkey, free_port


@pytest.fixture
async def shared_redis(redis_database: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_database) as client:
        yield client


@pytest.fixture
async def cluster_redis() -> AsyncIterator[redis.asyncio.Redis]:
    """A node with every slot of a Redis Cluster; it rejects a script whose keys are in different slots."""
    node = Valkey()
    node.start(*cluster_options())
    try:
        async with redis.asyncio.Redis.from_url(node.url) as client:
            await take_all_slots(client)
            yield client
    finally:
        node.stop()


def cluster_options() -> tuple[str, ...]:
    """Return the options of a node of a Redis Cluster."""
    return "--cluster-enabled", "yes", "--cluster-port", str(free_port())


async def take_all_slots(node: redis.asyncio.Redis) -> None:
    """Make a new node a cluster of its own."""
    await node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    await wait_for_slots(node)


async def wait_for_slots(node: redis.asyncio.Redis) -> None:
    """Wait until a node answers for its slots."""
    while b"cluster_state:ok" not in await node.execute_command("CLUSTER", "INFO"):  # noqa: ASYNC110 - the server sends no event
        await asyncio.sleep(0.01)


class Clock:
    """A clock that advances only when a test sets it, or when something sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
