"""The quota while Redis is unavailable: a fixed share, one warning, and full recovery afterwards."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.errors import QuotaUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.quota import ClientState, Grant, QuotaPolicy
from cache_pipeline.upstream.quota.local_share import LocalShare
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.conftest import cluster_options, take_all_slots, wait_for_slots
from cache_pipeline_tests.upstream.test_quota import acquire_now, settle_answered
from cache_pipeline_tests.upstream.vendor import Valkey, most_in_window

pytestmark = pytest.mark.serial

# An eighth of 24 is a local share of three.
POLICY = QuotaPolicy(limit=24, window_seconds=60)
create_quota = partial(Quota, max_in_flight_seconds=5)


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


class OffsetClock:
    """A clock that tests can move forward, so that they need not wait for the next probe of Redis."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset


async def count_answered_grants(quota: Quota) -> int:
    count = 0
    while grant := await acquire_now(quota):
        await settle_answered(quota, grant)
        count += 1
    return count


async def test_outage_leaves_a_fixed_share_and_recovers(
    own_valkey: Valkey, own_redis: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    clock = OffsetClock()
    quota = create_quota(own_redis, "outage", {"a": 1}, POLICY, clock=clock)
    grant = await quota.acquire(Lane.interactive)
    own_valkey.stop()

    assert await acquire_now(quota) is None, "other processes may just have filled the window"
    clock.offset += 30
    await settle_answered(quota, grant)
    assert await acquire_now(quota) is None
    clock.offset += 31.3
    assert await count_answered_grants(quota) == 2, "three local slots, one answered half a window ago"
    (state,) = await quota.snapshot()
    assert (state.state, state.used, state.remaining) == (ClientState.throttled, 3, 0)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the shared quota is unavailable" in warnings[0].message
    assert "at most 3 requests per 60 s and client" in warnings[0].message

    own_valkey.start()
    clock.offset += 1.1
    assert await acquire_now(quota) is None, "Redis lost its data: other processes may have filled the window"
    assert "the shared quota is available again" in caplog.text
    (state,) = await quota.snapshot()
    assert state.used == 3, "requests from before and during the outage are restored in the empty Redis"
    assert (state.state, state.remaining) == (ClientState.throttled, 0)
    assert 55 < state.throttled_for_s < 61.2


async def test_every_process_restores_its_own_requests(own_redis: redis.asyncio.Redis):
    quotas = [create_quota(own_redis, "both", {"a": 1, "b": 1}, POLICY) for _ in range(2)]
    for quota in quotas:
        for _ in range(4):
            await settle_answered(quota, await quota.acquire(Lane.interactive))
    await own_redis.flushall()
    for quota in quotas:
        assert await acquire_now(quota) is None
    assert [(state.used, state.in_flight) for state in await quotas[0].snapshot()] == [(4, 0), (4, 0)]


async def test_redis_with_data_loss_grants_again_after_one_window(
    own_redis: redis.asyncio.Redis,
):
    policy = replace(POLICY, window_seconds=0.6)
    killed, old, new = (create_quota(own_redis, "lost", {"a": 1, "b": 1}, policy) for _ in range(3))
    for _ in range(20):
        await settle_answered(killed, await killed.acquire(Lane.interactive))
    await settle_answered(old, await old.acquire(Lane.interactive))
    await own_redis.flushall()
    began = time.monotonic()
    await settle_answered(new, await new.acquire(Lane.interactive))
    assert time.monotonic() - began < 0.5, "an empty Redis has not necessarily lost data"
    await old.acquire(Lane.interactive)
    assert time.monotonic() - began > 0.55
    assert await acquire_now(new)


@pytest.mark.parametrize("is_cluster", [False, True])
async def test_redis_restarted_from_an_old_dump_grants_nothing_on_top_of_what_it_forgot(
    tmp_path: Path, is_cluster: bool
):
    server = Valkey()
    kept = ["--dir", str(tmp_path), *(cluster_options() if is_cluster else ())]
    server.start(*kept)
    try:
        async with (
            redis.asyncio.Redis.from_url(server.url) as client,
            redis.asyncio.Redis.from_url(server.url) as other,
        ):
            if is_cluster:
                await take_all_slots(client)
            busy, idle = (create_quota(each, "dump", {"a": 1}, POLICY) for each in (client, other))
            await settle_answered(busy, await busy.acquire(Lane.interactive))
            await settle_answered(idle, await idle.acquire(Lane.interactive))
            await client.save()
            assert await count_answered_grants(busy) == POLICY.usable_slots - 2
            server.stop()
            server.start(*kept)
            # The connections of before are dead, and a driver that opens new ones by itself shows no outage.
            await client.connection_pool.disconnect()
            await other.connection_pool.disconnect()
            if is_cluster:
                await wait_for_slots(client)
            assert await acquire_now(idle) is None, "the window is full of what the dump lacks"
            assert await acquire_now(busy) is None
            (state,) = await idle.snapshot()
            assert (state.used, state.state) == (POLICY.usable_slots, ClientState.throttled)
    finally:
        server.stop()


async def test_slot_that_moved_to_a_young_node_has_lost_nothing(cluster_redis: redis.asyncio.Redis):
    quota = create_quota(cluster_redis, "moved", {"a": 1}, POLICY)
    await settle_answered(quota, await quota.acquire(Lane.interactive))
    key = UpstreamKeys("moved").generation
    stamped = await cluster_redis.get(key)
    generation, run, node = re.fullmatch(rb"(\S+) (\w+)@(\w+)", stamped).groups()
    await cluster_redis.set(key, b"%b %b@%b" % (generation, b"0" * len(run), b"0" * len(node)))
    assert await acquire_now(quota)
    assert await cluster_redis.get(key) == stamped


async def test_another_server_that_has_run_for_long_has_lost_nothing(own_redis: redis.asyncio.Redis):
    policy = replace(POLICY, window_seconds=0.1)
    quota = Quota(own_redis, "promoted", {"a": 1}, policy, max_in_flight_seconds=0.1)
    await settle_answered(quota, await quota.acquire(Lane.interactive))
    key = UpstreamKeys("promoted").generation
    generation, _, run = (await own_redis.get(key)).partition(b" ")
    while int((await own_redis.info("server"))["uptime_in_seconds"]) < 1:  # noqa: ASYNC110 - the server sends no event
        await asyncio.sleep(0.05)
    await own_redis.set(key, generation + b" " + b"0" * len(run))
    assert await acquire_now(quota)
    assert await own_redis.get(key) == generation + b" " + run


async def test_late_restore_delays_no_other_process(own_redis: redis.asyncio.Redis):
    policy = replace(POLICY, window_seconds=0.3)
    idle, busy = (create_quota(own_redis, "late", {"a": 1}, policy) for _ in range(2))
    await settle_answered(idle, await idle.acquire(Lane.interactive))
    await own_redis.flushall()
    await settle_answered(busy, await busy.acquire(Lane.interactive))
    await asyncio.sleep(0.35)
    assert await acquire_now(idle)


async def test_answer_during_outage_ends_its_time_in_flight(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = OffsetClock()
    quota = Quota(own_redis, "answered", {"a": 1}, POLICY, clock=clock, redis_timeout=0.5, max_in_flight_seconds=100)
    grant = await quota.acquire(Lane.interactive)
    with own_valkey.frozen():
        await settle_answered(quota, grant)
    clock.offset += 1.1
    await quota.acquire(Lane.interactive)
    assert (await quota.snapshot())[0].in_flight == 1


async def test_backfill_stops_without_redis(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    quota = create_quota(own_redis, "closed", {"a": 1}, replace(POLICY, window_seconds=0.2))
    own_valkey.stop()
    with pytest.raises(QuotaUnavailable, match=r"shared quota of closed is unavailable .* lane backfill stops"):
        await quota.acquire(Lane.backfill)
    assert await quota.acquire(Lane.scheduled)


async def test_hanging_redis_counts_as_unavailable(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = OffsetClock()
    quota = create_quota(own_redis, "hung", {"a": 1}, POLICY, redis_timeout=0.5, clock=clock)
    await settle_answered(quota, await quota.acquire(Lane.interactive))
    with own_valkey.frozen():
        began = time.monotonic()
        with pytest.raises(QuotaUnavailable):
            await quota.acquire(Lane.backfill)
        assert 0.5 <= time.monotonic() - began < 1
        clock.offset += 61.3
        began = time.monotonic()
        await settle_answered(quota, await quota.acquire(Lane.interactive))
        assert time.monotonic() - began < 0.3 + 0.25, "one probe of a quarter of a second"
        began = time.monotonic()
        await quota.acquire(Lane.interactive)
        assert time.monotonic() - began < 0.3, "only the first caller waits for the probe"


async def test_429_during_outage_pauses_the_client_locally(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    clock = OffsetClock()
    quota = create_quota(own_redis, "paused", {"a": 1}, POLICY, clock=clock)
    own_valkey.stop()
    assert await acquire_now(quota) is None
    clock.offset += 61.3
    grant = await quota.acquire(Lane.interactive)
    await quota.settle(grant, remaining=None, retry_after=30, rejected=True)
    assert await acquire_now(quota) is None
    assert 29 < (await quota.snapshot())[0].throttled_for_s <= 30


async def test_outage_in_full_window_never_exceeds_the_limit(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    """All processes use their local shares only after that window, not on top of it."""
    policy = QuotaPolicy(limit=24, window_seconds=1.0)
    quotas = [create_quota(own_redis, "full", {"a": 1}, policy) for _ in range(8)]
    sent: list[float] = []

    async def send(quota: Quota) -> None:
        grant = await quota.acquire(Lane.interactive)
        sent.append(time.monotonic())
        await quota.settle(grant, remaining=None, retry_after=None, rejected=False)

    await own_redis.set(UpstreamKeys("full").generation, "known")
    for number in range(policy.usable_slots):
        await send(quotas[number % 3])
    own_valkey.stop()
    stopped_at = time.monotonic()
    await asyncio.gather(*(send(quota) for quota in quotas for _ in range(3)))
    assert most_in_window(sent, policy.window_seconds) <= policy.limit
    assert time.monotonic() - stopped_at < 3, "one window, and then all local shares"


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 4), st.sampled_from(["acquire", "settle", "discard", "acquire and settle"])), max_size=60
    )
)
def test_local_share_is_never_exceeded_in_any_window(steps: list[tuple[float, str]]):
    now = 0.0
    policy = QuotaPolicy(limit=24, window_seconds=10)
    share = LocalShare({"a": 1}, policy, lambda: now, max_in_flight_seconds=3)
    open_grants: list[Grant] = []
    sent: dict[str, float] = {}
    for number, (step, action) in enumerate(steps):
        now += step
        if action.startswith("acquire"):
            answer = share.try_acquire(["a"], str(number))
            if isinstance(answer, Grant):
                open_grants.append(answer)
                sent[answer.grant_id] = now
            else:
                assert answer > 0
        if action in ("settle", "acquire and settle") and open_grants:
            share.settle(open_grants.pop(), pause_seconds=None, rejected=False)
        if action == "discard" and open_grants:
            grant = open_grants.pop()
            share.discard(grant)
            del sent[grant.grant_id]
    assert most_in_window(list(sent.values()), policy.window_seconds) <= policy.local_share


def test_local_share_returns_the_exact_wait():
    now = 0.0
    share = LocalShare({"a": 1}, QuotaPolicy(limit=8, window_seconds=10), lambda: now)
    grant = share.try_acquire(["a"], "one")
    assert isinstance(grant, Grant)
    now = 2.0
    share.settle(grant, pause_seconds=None, rejected=False)
    now = 5.0
    wait = share.try_acquire(["a"], "two")
    # The window begins when the answer arrived, and ends later by what the clocks may differ.
    assert isinstance(wait, float)
    assert 7.0 < wait < 7.3
    now = 5.0 + wait
    assert isinstance(share.try_acquire(["a"], "two"), Grant)


def test_client_has_one_request_in_flight_without_redis():
    share = LocalShare({"a": 1, "b": 1}, QuotaPolicy(limit=40, window_seconds=10), lambda: 0.0)
    grants = [share.try_acquire(["a", "b"], number) for number in ("one", "two")]
    assert {grant.client_id for grant in grants if isinstance(grant, Grant)} == {"a", "b"}
    assert isinstance(share.try_acquire(["a", "b"], "three"), float)
    assert isinstance(grants[0], Grant)
    share.settle(grants[0], pause_seconds=None, rejected=False)
    assert isinstance(share.try_acquire(["a", "b"], "three"), Grant)


def test_recorded_grants_do_not_grow_with_use():
    now = 0.0
    share = LocalShare({"a": 1}, QuotaPolicy(limit=8, window_seconds=10), lambda: now, max_in_flight_seconds=5)
    for number in range(1000):
        now += 1.0
        grant = Grant("a", str(number))
        share.record(grant)
        if number % 2:
            share.settle(grant, pause_seconds=None, rejected=False)
    assert len(share._windows["a"].counted_from) <= 16


async def test_many_callers_stay_within_the_local_share(own_valkey: Valkey, own_redis: redis.asyncio.Redis):
    policy = QuotaPolicy(limit=24, window_seconds=0.5)
    quota = Quota(own_redis, "crowd", {"a": 1}, policy)
    own_valkey.stop()
    sent: list[float] = []

    async def send() -> None:
        grant = await quota.acquire(Lane.interactive)
        sent.append(time.monotonic())
        await asyncio.sleep(0.01)
        await settle_answered(quota, grant)

    await asyncio.gather(*(send() for _ in range(9)))
    assert most_in_window(sent, 0.5) <= 3
