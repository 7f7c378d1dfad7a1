"""Tests of the counters of requested and missed intervals."""

from dataclasses import replace
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.redis import demand as demand_module
from cache_pipeline.storage.redis.demand import RedisDemandCounter
from cache_pipeline_tests.storage.sample_rows import NOW, SERIES, hours

HOUR = timedelta(hours=1)
QUERY = CanonicalQuery(SERIES, hours(0, 6))


async def test_requests_and_misses_are_counted_by_interval(redis: Redis):
    counter = RedisDemandCounter(redis, "default", lambda: NOW)
    for misses in (1, 0, 0):
        await counter.add([(QUERY, 1, misses)])
    await counter.add([(CanonicalQuery(SERIES, hours(0, 7)), 1, 0)])
    first, second = await counter.recent()
    assert (first.series, first.report, first.interval) == (SERIES.id, SERIES.report.name, hours(0, 6))
    assert (first.requests, first.misses) == (3, 1)
    assert (second.interval, second.requests, second.misses) == (hours(0, 7), 1, 0)


async def test_hours_add_up(redis: Redis):
    now = NOW
    counter = RedisDemandCounter(redis, "default", lambda: now)
    await counter.add([(QUERY, 1, 1)])
    now = NOW + HOUR
    await counter.add([(QUERY, 1, 1)])
    assert [demand.misses for demand in await counter.recent()] == [2]
    now = NOW + 2 * HOUR
    assert [demand.misses for demand in await counter.recent()] == [1]
    assert await counter.recent(hours=0) == []


async def test_counts_expire_after_a_day(redis: Redis):
    await RedisDemandCounter(redis, "default", lambda: NOW).add([(QUERY, 1, 1)])
    ttls = [await redis.ttl(key) for key in await redis.keys()]
    assert len(ttls) == 2
    assert all(23 * 3600 < ttl <= 24 * 3600 for ttl in ttls)


async def test_tenants_have_separate_counts(redis: Redis):
    await RedisDemandCounter(redis, "one", lambda: NOW).add(
        [(CanonicalQuery(replace(SERIES, tenant="one"), hours(0, 6)), 1, 1)]
    )
    assert await RedisDemandCounter(redis, "two", lambda: NOW).recent() == []


async def test_number_of_counted_queries_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demand_module, "_MAX_QUERIES_PER_HOUR", 3)
    counter = RedisDemandCounter(redis, "default", lambda: NOW)
    for end in range(1, 9):
        await counter.add([(CanonicalQuery(SERIES, hours(0, end)), 1, 1)])
    await counter.add([(CanonicalQuery(SERIES, hours(0, 2)), 1, 1)])
    assert {(demand.interval, demand.misses) for demand in await counter.recent()} == {
        (hours(0, 1), 1),
        (hours(0, 2), 2),
        (hours(0, 3), 1),
    }
