from dataclasses import replace
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.redis import demand
from cache_pipeline.storage.redis.demand import DemandCounter
from cache_pipeline_tests.storage.sample_rows import NOW, SERIES, hours

HOUR = timedelta(hours=1)
QUERY = CanonicalQuery(SERIES, hours(0, 6))


async def test_requests_are_counted_by_interval_with_those_that_nothing_kept_could_answer(redis: Redis):
    counter = DemandCounter(redis, "default", lambda: NOW)
    for kept in (False, True, True):
        await counter.note(QUERY, kept=kept)
    await counter.note(CanonicalQuery(SERIES, hours(0, 7)), kept=True)
    first, second = await counter.recent()
    assert (first.series, first.report, first.interval) == (SERIES.id, SERIES.report.name, hours(0, 6))
    assert (first.asked, first.missed) == (3, 1)
    assert (second.interval, second.asked, second.missed) == (hours(0, 7), 1, 0)


async def test_hours_add_up_as_far_back_as_one_looks(redis: Redis):
    now = NOW
    counter = DemandCounter(redis, "default", lambda: now)
    await counter.note(QUERY, kept=False)
    now = NOW + HOUR
    await counter.note(QUERY, kept=False)
    assert [found.missed for found in await counter.recent()] == [2]
    now = NOW + 2 * HOUR
    assert [found.missed for found in await counter.recent()] == [1]
    assert await counter.recent(hours=0) == []


async def test_every_count_is_forgotten_after_a_day(redis: Redis):
    await DemandCounter(redis, "default", lambda: NOW).note(QUERY, kept=False)
    lives = [await redis.ttl(key) for key in await redis.keys()]
    assert len(lives) == 2
    assert all(23 * 3600 < life <= 24 * 3600 for life in lives)


async def test_a_tenants_demand_is_not_anothers(redis: Redis):
    await DemandCounter(redis, "one", lambda: NOW).note(
        CanonicalQuery(replace(SERIES, tenant="one"), hours(0, 6)), kept=False
    )
    assert await DemandCounter(redis, "two", lambda: NOW).recent() == []


async def test_made_up_intervals_fill_no_memory_and_keep_nobody_from_being_counted(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(demand, "_MOST_QUERIES", 3)
    counter = DemandCounter(redis, "default", lambda: NOW)
    for end in range(1, 9):
        await counter.note(CanonicalQuery(SERIES, hours(0, end)), kept=False)
    await counter.note(CanonicalQuery(SERIES, hours(0, 2)), kept=False)
    assert {(found.interval, found.missed) for found in await counter.recent()} == {
        (hours(0, 1), 1),
        (hours(0, 2), 2),
        (hours(0, 3), 1),
    }
