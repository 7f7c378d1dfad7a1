"""Tests of the hot tier: stored answers, lifetimes and replacement."""

import json
import random
import statistics
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.answer import Answer, Completeness, render
from cache_pipeline.storage.redis.hot import RedisHotTier
from cache_pipeline.storage.ttl import HOT_TTL_TIER, is_refresh_due, report_freshness
from cache_pipeline_tests.storage.sample_rows import NOW, SERIES, hours, table

QUERY = CanonicalQuery(SERIES, hours(0, 6))
FRESHNESS = report_freshness(SERIES.report)
ANSWER = Answer(b'{"rows":[]}', '"abc"', Completeness(NOW, NOW, NOW, NOW + FRESHNESS))


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        replace(ANSWER, completeness=Completeness(NOW, None, None)),
        replace(ANSWER, completeness=Completeness(NOW.replace(microsecond=123456), NOW, NOW)),
        replace(ANSWER, body=bytes(range(256)) * 10),
        replace(ANSWER, body=b"\n\n{}\n"),
        replace(ANSWER, body=b""),
        replace(ANSWER, body="日本語".encode()),
    ],
)
async def test_answer_survives_byte_for_byte(redis: Redis, answer: Answer):
    tier = RedisHotTier(redis)
    await tier.put([(QUERY, answer)], NOW)
    assert await tier.get(QUERY) == answer


async def test_unstored_queries_have_no_answer(redis: Redis):
    tier = RedisHotTier(redis)
    await tier.put([(QUERY, ANSWER)], NOW)
    assert await tier.get(CanonicalQuery(SERIES, hours(0, 7))) is None
    assert await tier.get(CanonicalQuery(replace(SERIES, tenant="other"), hours(0, 6))) is None


@pytest.mark.parametrize(("chance", "least", "most"), [(0.0, 4800, 4900), (0.999999, 4300, 4411)])
async def test_ttl_is_below_five_seconds_with_jitter(redis: Redis, chance: float, least: int, most: int):
    """G8 and G21."""
    await RedisHotTier(redis, lambda: chance).put([(QUERY, ANSWER)], NOW)
    [key] = await redis.keys("*")
    assert key.decode() == QUERY.cache_key("5s")
    assert least <= await redis.pttl(key) <= most


@pytest.mark.parametrize(
    ("age", "most"),
    [(timedelta(0), 4900), (FRESHNESS - timedelta(seconds=3), 3000), (FRESHNESS - timedelta(milliseconds=1), 1000),
     # It was the best available, and other processes wait for it here.
     (FRESHNESS + timedelta(seconds=1), 4900)],
)  # fmt: skip
async def test_ttl_never_exceeds_the_remaining_freshness(redis: Redis, age: timedelta, most: int):
    """G11."""
    await RedisHotTier(redis, lambda: 0.0).put([(QUERY, ANSWER)], NOW + age)
    assert most - 100 <= await redis.pttl(QUERY.cache_key("5s")) <= most


async def test_final_answers_do_not_age(redis: Redis):
    final = replace(ANSWER, completeness=Completeness(NOW, None, NOW))
    await RedisHotTier(redis, lambda: 0.0).put([(QUERY, final)], NOW + FRESHNESS - timedelta(seconds=2))
    assert await redis.pttl(QUERY.cache_key("5s")) > 4000


async def test_each_answer_has_its_own_jitter(redis: Redis):
    chances = iter([0.0, 0.9])
    other = CanonicalQuery(SERIES, hours(0, 7))
    await RedisHotTier(redis, lambda: next(chances)).put([(QUERY, ANSWER), (other, ANSWER)], NOW)
    lives = [await redis.pttl(each.cache_key("5s")) for each in (QUERY, other)]
    assert 400 <= lives[0] - lives[1] <= 480


async def test_newer_answer_replaces_the_old(redis: Redis):
    tier = RedisHotTier(redis)
    await tier.put([(QUERY, ANSWER)], NOW)
    await tier.put([(QUERY, replace(ANSWER, body=b"new"))], NOW)
    answer = await tier.get(QUERY)
    assert answer
    assert answer.body == b"new"


async def test_putting_nothing_is_allowed(redis: Redis):
    await RedisHotTier(redis).put([], NOW)
    assert await redis.dbsize() == 0


def test_rendered_answer_states_its_completeness():
    completeness = Completeness(hours(0, 4).end, hours(0, 4).end, datetime(2026, 1, 5, 6, 30, tzinfo=UTC))
    answer = render(QUERY, table(hours(0, 2)), completeness)
    document = json.loads(answer.body)
    assert {name: document[name] for name in document if name not in ("columns", "rows")} == {
        "report": "queue_hour",
        "interval": "2026-01-05T00:00:00Z/2026-01-05T06:00:00Z",
        "granularity": "PT1H",
        "timeZone": "UTC",
        "completeThrough": "2026-01-05T04:00:00Z",
        "provisionalFrom": "2026-01-05T04:00:00Z",
        "fetchedAt": "2026-01-05T06:30:00Z",
    }
    assert document["columns"] == ["interval_start", "interval_end", "queue_id", "answered", "offered", "longest"]
    assert document["rows"][0] == ["2026-01-05T00:00:00Z", "2026-01-05T01:00:00Z", "q1", 1, 1, 0.0]
    assert len(document["rows"]) == 4


def test_etag_changes_only_with_the_body():
    completeness = Completeness(NOW, None, NOW)
    one, same = (render(QUERY, table(hours(0, 2)), completeness) for _ in range(2))
    assert one == same
    assert render(QUERY, table(hours(0, 2), offered=2), completeness).etag != one.etag
    assert one.etag.startswith('"')
    assert one.etag.endswith('"')


def test_answer_may_have_no_rows():
    document = json.loads(render(QUERY, table(hours(0, 2)).slice(0, 0), Completeness(NOW, None, None)).body)
    assert document["rows"] == []
    assert document["columns"][0] == "interval_start"


@dataclass
class Clock:
    """A clock in seconds since the epoch that the test sets."""

    at: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


async def is_due_after(redis: Redis, age: float, chance: float, cost: float = 0.0) -> bool:
    clock = Clock()
    await RedisHotTier(redis, lambda: 0.0, clock).put([(QUERY, ANSWER)], NOW, cost)
    clock.at += age
    entry = await RedisHotTier(redis, lambda: chance, clock).get_entry(QUERY.cache_key(HOT_TTL_TIER))
    assert entry
    assert entry.answer == ANSWER
    return entry.is_refresh_due


async def test_expensive_answers_are_refreshed_earlier(redis: Redis):
    assert not await is_due_after(redis, age=0.5, chance=0.999)
    assert not await is_due_after(redis, age=4.0, chance=0.5)
    assert await is_due_after(redis, age=4.0, chance=0.5, cost=1.0)
    assert await is_due_after(redis, age=4.89, chance=0.5)
    assert not await is_due_after(redis, age=4.89, chance=0.0)


@pytest.mark.parametrize("age", [-3.0, 9.0])
async def test_clock_skew_causes_no_refresh(redis: Redis, age: float):
    assert not await is_due_after(redis, age=age, chance=0.9999, cost=1.0)


@given(st.floats(0, 4.9), st.floats(0, 60), st.floats(0, 1, exclude_max=True))
def test_no_refresh_in_first_half_of_life(age: float, cost: float, chance: float):
    if is_refresh_due(age, 4.9, cost, chance):
        assert age >= 4.9 / 2 - 1e-9


@pytest.mark.parametrize("cost", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("every", [0.001, 0.02])
def test_one_of_many_readers_refreshes_in_time(cost: float, every: float):
    """Simulate a thousand lifetimes of a key: nearly all are refreshed in time, and late in life."""
    chances = random.Random(4711)
    refreshed_at: list[float] = []
    for _ in range(1000):
        age = 2.0
        while age < 4.9 and not is_refresh_due(age, 4.9, cost, chances.random()):
            age += every
        refreshed_at.append(age)
    assert sum(age + cost <= 4.9 for age in refreshed_at) >= 970
    assert statistics.median(refreshed_at) > 4.9 - 10 * max(cost, 0.05)


async def test_unreachable_redis_holds_nothing_and_warns_once(caplog: pytest.LogCaptureFixture):
    async with Redis.from_url("redis://127.0.0.1:9") as unreachable:
        tier = RedisHotTier(unreachable)
        for _ in range(3):
            await tier.put([(QUERY, ANSWER)], NOW)
            assert await tier.get(QUERY) is None
    assert caplog.text.count("the hot tier holds nothing, and history answers") == 1
