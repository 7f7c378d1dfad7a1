"""The quota while Redis is away: a fixed share, said once, never free, and whole again afterwards."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import QuotaUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.quota import ClientState, Grant, Quota, QuotaPolicy
from cache_pipeline.upstream.quota.local_share import LocalShare
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.test_quota import answered, is_granted
from cache_pipeline_tests.upstream.vendor import Valkey, most_in_window

pytestmark = pytest.mark.serial

# An eighth of 24 is a local share of three.
POLICY = QuotaPolicy(limit=24, window_seconds=60, in_flight_seconds=5)


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    server = Valkey()
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def own_redis(own_valkey: Valkey) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(own_valkey.url) as client:
        yield client


class Elapsed:
    """A clock that can be pushed on, so that a probe of Redis need not be waited for."""

    def __init__(self) -> None:
        self.pushed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.pushed


async def count_at_once(quota: Quota) -> int:
    count = 0
    while grant := await is_granted(quota):
        await answered(quota, grant)
        count += 1
    return count


async def test_an_outage_leaves_a_fixed_share_is_warned_of_once_and_heals(
    own_valkey: Valkey, own_redis: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    clock = Elapsed()
    quota = Quota(own_redis, "outage", {"a": 1}, POLICY, clock=clock)
    grant = await quota.acquire(Lane.interactive)
    own_valkey.stop()

    assert await is_granted(quota) is None, "others may have filled the window until just now"
    clock.pushed += 30
    await answered(quota, grant)
    assert await is_granted(quota) is None
    clock.pushed += 31.3
    assert await count_at_once(quota) == 2, "three local slots, one answered half a window ago"
    (state,) = await quota.snapshot()
    assert (state.state, state.used, state.remaining) == (ClientState.throttled, 3, 0)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the shared quota is away" in warnings[0].message
    assert "at most 3 requests per 60 s and client" in warnings[0].message

    own_valkey.start()
    clock.pushed += 1.1
    assert await is_granted(quota) is None, "it had lost its memory: others may have filled the window"
    assert "the shared quota is back" in caplog.text
    (state,) = await quota.snapshot()
    assert state.used == 3, "what was sent before and during the outage counts in a Redis that had forgotten it"
    assert (state.state, state.remaining) == (ClientState.throttled, 0)
    assert 55 < state.throttled_for_s < 61.2


async def test_every_process_restores_its_own_requests(own_redis: redis.asyncio.Redis):
    quotas = [Quota(own_redis, "both", {"a": 1, "b": 1}, POLICY) for _ in range(2)]
    for quota in quotas:
        for _ in range(4):
            await answered(quota, await quota.acquire(Lane.interactive))
    await own_redis.flushall()
    for quota in quotas:
        assert await is_granted(quota) is None
    assert [(state.used, state.in_flight) for state in await quotas[0].snapshot()] == [(4, 0), (4, 0)]


async def test_a_redis_that_lost_its_memory_grants_again_when_nothing_forgotten_counts_any_more(
    own_redis: redis.asyncio.Redis,
):
    policy = replace(POLICY, window_seconds=0.6)
    killed, old, new = (Quota(own_redis, "lost", {"a": 1, "b": 1}, policy) for _ in range(3))
    for _ in range(20):
        await answered(killed, await killed.acquire(Lane.interactive))
    await answered(old, await old.acquire(Lane.interactive))
    await own_redis.flushall()
    began = time.monotonic()
    await answered(new, await new.acquire(Lane.interactive))
    assert time.monotonic() - began < 0.5, "an empty Redis need not have lost anything"
    await old.acquire(Lane.interactive)
    assert time.monotonic() - began > 0.55
    assert await is_granted(new)


async def test_who_comes_back_long_after_a_loss_holds_nobody_up(own_redis: redis.asyncio.Redis):
    policy = replace(POLICY, window_seconds=0.3)
    idle, busy = (Quota(own_redis, "late", {"a": 1}, policy) for _ in range(2))
    await answered(idle, await idle.acquire(Lane.interactive))
    await own_redis.flushall()
    await answered(busy, await busy.acquire(Lane.interactive))
    await asyncio.sleep(0.35)
    assert await is_granted(idle)


async def test_an_answer_during_the_outage_ends_its_time_in_flight(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = Elapsed()
    policy = QuotaPolicy(limit=24, window_seconds=60, in_flight_seconds=100)
    quota = Quota(own_redis, "answered", {"a": 1}, policy, clock=clock, redis_timeout=0.5)
    grant = await quota.acquire(Lane.interactive)
    with own_valkey.frozen():
        await answered(quota, grant)
    clock.pushed += 1.1
    await quota.acquire(Lane.interactive)
    assert (await quota.snapshot())[0].in_flight == 1


async def test_backfill_stops_while_redis_is_away(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    quota = Quota(own_redis, "closed", {"a": 1}, replace(POLICY, window_seconds=0.2))
    own_valkey.stop()
    with pytest.raises(QuotaUnavailable, match=r"shared quota of closed cannot be asked .* lane backfill stops"):
        await quota.acquire(Lane.backfill)
    assert await quota.acquire(Lane.scheduled)


async def test_a_redis_that_hangs_is_away_too(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = Elapsed()
    quota = Quota(own_redis, "hung", {"a": 1}, POLICY, redis_timeout=0.5, clock=clock)
    await answered(quota, await quota.acquire(Lane.interactive))
    with own_valkey.frozen():
        began = time.monotonic()
        with pytest.raises(QuotaUnavailable):
            await quota.acquire(Lane.backfill)
        assert 0.5 <= time.monotonic() - began < 1
        clock.pushed += 61.3
        began = time.monotonic()
        await answered(quota, await quota.acquire(Lane.interactive))
        assert time.monotonic() - began < 0.3 + 0.25, "one probe of a quarter of a second"
        began = time.monotonic()
        await quota.acquire(Lane.interactive)
        assert time.monotonic() - began < 0.3, "only the first caller waits for an answer that does not come"


async def test_a_429_during_the_outage_pauses_the_client_locally(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = Elapsed()
    quota = Quota(own_redis, "paused", {"a": 1}, POLICY, clock=clock)
    own_valkey.stop()
    assert await is_granted(quota) is None
    clock.pushed += 61.3
    grant = await quota.acquire(Lane.interactive)
    await quota.settle(grant, remaining=None, retry_after=30, rejected=True)
    assert await is_granted(quota) is None
    assert 29 < (await quota.snapshot())[0].throttled_for_s <= 30


async def test_when_redis_dies_in_a_full_window_no_vendor_gets_more_than_its_limit(
    own_valkey: Valkey, own_redis: redis.asyncio.Redis
):
    """The local shares of all processes come when that window is over, and not on top of it."""
    policy = QuotaPolicy(limit=24, window_seconds=1.0, in_flight_seconds=5)
    quotas = [Quota(own_redis, "full", {"a": 1}, policy) for _ in range(8)]
    sent: list[float] = []

    async def send(quota: Quota) -> None:
        grant = await quota.acquire(Lane.interactive)
        sent.append(time.monotonic())
        await quota.settle(grant, remaining=None, retry_after=None, rejected=False)

    await own_redis.set(UpstreamKeys("full").generation, "known")
    for number in range(policy.usable):
        await send(quotas[number % 3])
    own_valkey.stop()
    died = time.monotonic()
    await asyncio.gather(*(send(quota) for quota in quotas for _ in range(3)))
    assert most_in_window(sent, policy.window_seconds) <= policy.limit
    assert time.monotonic() - died < 3, "a window, and then all shares"


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 4), st.sampled_from(["take", "settle", "forget", "take and answer"])), max_size=60
    )
)
def test_the_local_share_is_never_exceeded_in_any_window(steps: list[tuple[float, str]]):
    now = 0.0
    policy = QuotaPolicy(limit=24, window_seconds=10, in_flight_seconds=3)
    share = LocalShare({"a": 1}, policy, lambda: now)
    open_grants: list[Grant] = []
    sent: dict[str, float] = {}
    for number, (step, action) in enumerate(steps):
        now += step
        if action.startswith("take"):
            answer = share.take(["a"], str(number))
            if isinstance(answer, Grant):
                open_grants.append(answer)
                sent[answer.grant_id] = now
            else:
                assert answer > 0
        if action in ("settle", "take and answer") and open_grants:
            share.settle(open_grants.pop(), pause_seconds=None, rejected=False)
        if action == "forget" and open_grants:
            grant = open_grants.pop()
            share.forget(grant)
            del sent[grant.grant_id]
    assert most_in_window(list(sent.values()), policy.window_seconds) <= policy.local_share


def test_the_local_share_says_exactly_how_long_to_wait():
    now = 0.0
    share = LocalShare({"a": 1}, QuotaPolicy(limit=8, window_seconds=10, guard=0), lambda: now)
    grant = share.take(["a"], "one")
    assert isinstance(grant, Grant)
    now = 2.0
    share.settle(grant, pause_seconds=None, rejected=False)
    now = 5.0
    assert share.take(["a"], "two") == 7.0
    now = 12.0
    assert isinstance(share.take(["a"], "two"), Grant)


def test_without_redis_a_client_has_one_request_under_way_at_a_time():
    share = LocalShare({"a": 1, "b": 1}, QuotaPolicy(limit=40, window_seconds=10), lambda: 0.0)
    grants = [share.take(["a", "b"], number) for number in ("one", "two")]
    assert {grant.client_id for grant in grants if isinstance(grant, Grant)} == {"a", "b"}
    assert isinstance(share.take(["a", "b"], "three"), float)
    assert isinstance(grants[0], Grant)
    share.settle(grants[0], pause_seconds=None, rejected=False)
    assert isinstance(share.take(["a", "b"], "three"), Grant)


def test_what_is_remembered_does_not_grow_with_use():
    now = 0.0
    share = LocalShare({"a": 1}, QuotaPolicy(limit=8, window_seconds=10, in_flight_seconds=5), lambda: now)
    for number in range(1000):
        now += 1.0
        grant = Grant("a", str(number))
        share.note(grant)
        if number % 2:
            share.settle(grant, pause_seconds=None, rejected=False)
    assert len(share._ledgers["a"].instants) <= 16


async def test_many_callers_without_redis_stay_within_the_share(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    policy = QuotaPolicy(limit=24, window_seconds=0.5)
    quota = Quota(own_redis, "crowd", {"a": 1}, policy)
    own_valkey.stop()
    sent: list[float] = []

    async def send() -> None:
        grant = await quota.acquire(Lane.interactive)
        sent.append(time.monotonic())
        await asyncio.sleep(0.01)
        await answered(quota, grant)

    await asyncio.gather(*(send() for _ in range(9)))
    assert most_in_window(sent, 0.5) <= 3
