"""A real Redis and a clock that stands still."""

from collections.abc import AsyncIterator

import pytest
import redis.asyncio


@pytest.fixture
async def shared_redis(redis_database: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_database) as client:
        yield client


class Clock:
    """Seconds that pass only when a test says so, or when something sleeps."""

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
