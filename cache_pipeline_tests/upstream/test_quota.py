"""The shared quota: never above the limit, fair by weight, with exact pauses."""

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter

import pytest
import redis.asyncio

from cache_pipeline.errors import ClientUnknown
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.request_lane import RaisableLane
from cache_pipeline.upstream.dialect import LimitScope, NamedLimit
from cache_pipeline.upstream.quota import ClientState, Grant, Purpose, QuotaPolicy
from cache_pipeline.upstream.quota.model import MAX_IN_FLIGHT_SECONDS, Waiter
from cache_pipeline.upstream.quota.quota import NO_PURPOSE, Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.vendor import most_in_window

pytestmark = pytest.mark.serial

Redis = redis.asyncio.Redis
LONG = QuotaPolicy(limit=23, window_seconds=60)


async def warm_quota(
    shared: Redis,
    platform: str,
    clients: dict[str, int],
    policy: QuotaPolicy,
    max_in_flight_seconds: float = MAX_IN_FLIGHT_SECONDS,
) -> Quota:
    """Return a quota whose Redis has data of the platform; in an empty Redis it would grant one request at a time."""
    await shared.set(UpstreamKeys(platform).generation, "known")
    return Quota(shared, platform, clients, policy, max_in_flight_seconds=max_in_flight_seconds)


async def acquire_now(quota: Quota, lane: Lane = Lane.interactive, client_id: str | None = None) -> Grant | None:
    """Return a grant if there is one at once, else None; however slow the machine is, it asks once."""
    candidates = [client_id] if client_id else list(quota._clients)
    answer = await quota._try_acquire(Priority(lane), candidates, uuid.uuid4().hex, NO_PURPOSE, Waiter())
    return answer if isinstance(answer, Grant) else None


async def count_grants(quota: Quota, lane: Lane) -> int:
    count = 0
    while await acquire_now(quota, lane):
        count += 1
    return count


async def settle_answered(
    quota: Quota, grant: Grant, remaining: int | None = None, retry_after: float | None = None
) -> None:
    await quota.settle(grant, remaining=remaining, retry_after=retry_after, rejected=False)


async def test_round_robin_gives_each_client_its_share(shared_redis: Redis):
    quota = await warm_quota(
        shared_redis, "round robin", {"a": 3, "b": 1, "c": 2}, QuotaPolicy(limit=100, window_seconds=60)
    )
    chosen = [(await quota.acquire(Lane.interactive)).client_id for _ in range(60)]
    assert Counter(chosen) == {"a": 30, "b": 10, "c": 20}
    assert all(Counter(chosen[at : at + 6]) == {"a": 3, "b": 1, "c": 2} for at in range(0, 60, 6))
    assert not any(one == two == three for one, two, three in zip(chosen, chosen[1:], chosen[2:], strict=False))


async def test_all_processes_share_one_round_robin(shared_redis: Redis, redis_database: str):
    await warm_quota(shared_redis, "round robin", {"a": 1, "b": 1}, LONG)
    async with redis.asyncio.Redis.from_url(redis_database) as other_redis:
        quotas = [Quota(each, "round robin", {"a": 1, "b": 1}, LONG) for each in (shared_redis, other_redis)]
        chosen = [(await quotas[turn % 2].acquire(Lane.interactive)).client_id for turn in range(20)]
    assert Counter(chosen) == {"a": 10, "b": 10}


async def test_pinned_request_uses_only_its_client(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "pin", {"a": 1, "b": 1}, QuotaPolicy(limit=5, window_seconds=60))
    assert [(await quota.acquire(Lane.interactive, "a")).client_id for _ in range(2)] == ["a", "a"]
    assert await acquire_now(quota, client_id="a") is None
    assert [(await quota.acquire(Lane.interactive)).client_id for _ in range(2)] == ["b", "b"]
    with pytest.raises(ClientUnknown, match="OAuth client gone is not configured for pin"):
        await quota.acquire(Lane.interactive, "gone")


async def test_excluded_clients_are_not_chosen(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "exclude", {"a": 1, "b": 1}, LONG)
    assert {(await quota.acquire(Lane.interactive, exclude={"a"})).client_id for _ in range(5)} == {"b"}
    with pytest.raises(ValueError, match="every OAuth client is excluded"):
        await quota.acquire(Lane.interactive, exclude={"a", "b"})


async def test_backfill_and_scheduled_leave_slots_for_interactive(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "lanes", {"a": 1}, LONG)
    assert await count_grants(quota, Lane.backfill) == 16
    assert await count_grants(quota, Lane.scheduled) == 2
    assert await count_grants(quota, Lane.backfill) == 0
    assert await count_grants(quota, Lane.interactive) == 2


@pytest.mark.parametrize("lane", Lane)
def test_every_lane_gets_one_slot_of_the_smallest_limit(lane: Lane):
    assert QuotaPolicy(limit=1, window_seconds=30, reserve=0).slots(lane) == 1


async def test_slot_is_free_one_guarded_window_after_the_answer(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "exact", {"a": 1}, QuotaPolicy(limit=1, window_seconds=0.4, reserve=0))
    grant = await quota.acquire(Lane.interactive)
    await asyncio.sleep(0.1)
    await settle_answered(quota, grant)
    answered_at = time.monotonic()
    await quota.acquire(Lane.interactive)
    assert 0.408 - 0.005 <= time.monotonic() - answered_at <= 0.408 + 0.1


async def test_low_remaining_pauses_client_for_retry_after(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "low", {"a": 1, "b": 1}, LONG)
    await settle_answered(quota, await quota.acquire(Lane.interactive, "a"), remaining=2, retry_after=0.5)
    paused_at = time.monotonic()
    assert {(await quota.acquire(Lane.interactive)).client_id for _ in range(3)} == {"b"}
    states = {each.client_id: each for each in await quota.snapshot()}
    assert states["a"].state is ClientState.throttled
    assert 0.3 < states["a"].throttled_for_s <= 0.5
    assert states["a"].remaining == 0
    assert states["b"].state is ClientState.available
    await quota.acquire(Lane.interactive, "a")
    assert 0.495 <= time.monotonic() - paused_at <= 0.6


async def test_pause_without_retry_after_is_the_default(shared_redis: Redis):
    quota = await warm_quota(
        shared_redis, "default", {"a": 1}, QuotaPolicy(limit=23, window_seconds=60, default_pause_seconds=0.3)
    )
    await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=0)
    paused_at = time.monotonic()
    await quota.acquire(Lane.interactive)
    assert 0.295 <= time.monotonic() - paused_at <= 0.4
    assert LONG.default_pause_seconds == 60


async def test_three_remaining_requests_cause_no_pause(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "three", {"a": 1}, LONG)
    for _ in range(20):
        await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=3 + 20)
    assert (await quota.snapshot())[0].used == 20
    quota = await warm_quota(shared_redis, "three more", {"a": 1}, QuotaPolicy(limit=4, window_seconds=0.2))
    await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=3)
    async with asyncio.timeout(0.5):
        await quota.acquire(Lane.interactive)


async def test_retry_after_replaces_default_pause_in_either_order(shared_redis: Redis):
    for platform, order in (("retry after first", (0.3, None)), ("retry after last", (None, 0.3))):
        quota = await warm_quota(shared_redis, platform, {"a": 1}, LONG)
        grants = [await quota.acquire(Lane.interactive) for _ in order]
        for grant, retry_after in zip(grants, order, strict=True):
            await settle_answered(quota, grant, remaining=1, retry_after=retry_after)
        assert (await quota.snapshot())[0].throttled_for_s <= 0.3


async def test_429_pauses_its_client_and_stays_counted(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "429", {"a": 1}, LONG)
    grant = await quota.acquire(Lane.interactive)
    await quota.settle(grant, remaining=None, retry_after=7.0, rejected=True)
    (state,) = await quota.snapshot()
    assert (state.used, state.in_flight, state.granted_total, state.rejected_total) == (1, 0, 1, 1)
    assert 6.8 < state.throttled_for_s <= 7.0


async def test_released_grant_frees_its_slot(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "release", {"a": 1}, QuotaPolicy(limit=1, window_seconds=60, reserve=0))
    grant = await quota.acquire(Lane.interactive)
    assert await acquire_now(quota) is None
    await quota.release(grant)
    assert await acquire_now(quota)


async def test_slot_of_dead_sender_expires(shared_redis: Redis):
    policy = QuotaPolicy(limit=1, window_seconds=0.2, reserve=0)
    quota = await warm_quota(shared_redis, "dead", {"a": 1}, policy, max_in_flight_seconds=0.3)
    await quota.acquire(Lane.interactive)
    died_at = time.monotonic()
    assert (await quota.snapshot())[0].in_flight == 1
    await quota.acquire(Lane.interactive)
    assert 0.5 <= time.monotonic() - died_at <= 0.85


async def test_cancelled_waiter_leaves_no_slot_used(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "cancel", {"a": 1}, QuotaPolicy(limit=5, window_seconds=60, reserve=0))
    for delay in (0, 0.0001, 0.0005, 0.001):
        waiter = asyncio.create_task(quota.acquire(Lane.interactive))
        await asyncio.sleep(delay)
        if waiter.cancel():
            with pytest.raises(asyncio.CancelledError):
                await waiter
        else:
            await quota.release(waiter.result())
    assert (await quota.snapshot())[0].used == 0


async def test_foreign_requests_reduce_our_share(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "foreign", {"a": 1}, LONG)
    await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=23 - 1 - 15)
    assert (await quota.snapshot())[0].remaining == 23 - 3 - 1 - 15
    assert await count_grants(quota, Lane.interactive) == 4


async def test_own_requests_never_count_as_foreign(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "own", {"a": 1}, LONG)
    grants = [await quota.acquire(Lane.interactive) for _ in range(12)]
    for number, grant in enumerate(reversed(grants), start=1):
        await settle_answered(quota, grant, remaining=23 - number)
    assert (await quota.snapshot())[0].remaining == 23 - 3 - 12


async def test_all_keys_share_a_cluster_slot_and_all_but_one_expire(shared_redis: Redis):
    quota = Quota(shared_redis, "genesys", {"a": 1, "b": 1}, LONG)
    for _ in range(2):
        await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=1)
    keys = [key.decode() for key in await shared_redis.keys("*")]
    assert len(keys) == 9
    assert all(key.startswith("cache_pipeline:quota:{genesys}:") for key in keys)
    # The one that shows whether Redis has lost its data outlasts a quiet day.
    assert [key for key in keys if await shared_redis.pttl(key) <= 0] == [UpstreamKeys("genesys").generation]


async def test_empty_redis_grants_one_request_at_a_time_first(
    shared_redis: Redis,
):
    quota = Quota(shared_redis, "empty", {"a": 1, "b": 1}, LONG)
    first, second = await quota.acquire(Lane.interactive), await quota.acquire(Lane.interactive)
    assert {first.client_id, second.client_id} == {"a", "b"}
    assert await acquire_now(quota) is None
    await settle_answered(quota, first)
    third = await acquire_now(quota)
    assert third is not None, "a vendor that reports nothing gets one request at a time"
    assert await acquire_now(quota) is None
    await settle_answered(quota, third, remaining=21)
    assert await acquire_now(quota, client_id=third.client_id)
    assert await acquire_now(quota, client_id=third.client_id)


async def test_data_loss_pauses_all_clients_for_one_window(shared_redis: Redis):
    quota = Quota(shared_redis, "lost", {"a": 1}, QuotaPolicy(limit=40, window_seconds=30))
    await settle_answered(quota, await quota.acquire(Lane.interactive))
    await quota.settle(await quota.acquire(Lane.interactive), remaining=None, retry_after=2, rejected=True)
    assert (await quota.snapshot())[0].throttled_for_s <= 2, "an empty Redis has not necessarily lost data"
    grant = await quota.acquire(Lane.interactive)
    await shared_redis.flushall()
    assert await acquire_now(quota) is None
    await quota.settle(grant, remaining=None, retry_after=2, rejected=True)
    assert 29 < (await quota.snapshot())[0].throttled_for_s <= 30.6, "a shorter Retry-After does not end it"


async def test_second_429_in_empty_redis_pauses_one_window(
    shared_redis: Redis,
):
    """A vendor without rate headers, and processes that start just after Redis was emptied: two 429s, and then no more."""
    quota = Quota(shared_redis, "started", {"a": 1, "b": 1}, QuotaPolicy(limit=40, window_seconds=30, reserve=0))
    for pause in (0.05, 30.6):
        for client in ("a", "b"):
            grant = await quota.acquire(Lane.interactive, client)
            await quota.settle(grant, remaining=None, retry_after=0.05, rejected=True)
        states = await quota.snapshot()
        assert all(state.throttled_for_s <= pause for state in states)
        await asyncio.sleep(0.05)
    assert all(state.throttled_for_s > 28 for state in await quota.snapshot())


@pytest.mark.parametrize(("retry_after", "pause"), [(0.0, 1.0), (7.0, 7.0), (1e9, 900.0), (1e300, 900.0)])
async def test_extreme_retry_after_is_bounded(shared_redis: Redis, retry_after: float, pause: float):
    quota = await warm_quota(shared_redis, "bounded", {"a": 1}, LONG)
    await quota.settle(await quota.acquire(Lane.interactive), remaining=None, retry_after=retry_after, rejected=True)
    assert pause - 0.5 < (await quota.snapshot())[0].throttled_for_s <= pause


async def test_answers_count_by_class_and_pauses_by_length(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "counted", {"a": 1}, LONG)
    for status, retry_after in (
        (200, None),
        (202, None),
        (404, None),
        (503, None),
        (None, None),
        (429, 5.0),
        (429, 8.0),
    ):
        grant = Grant("a", f"{status}-{retry_after}")
        rejected = status == 429
        await quota.settle(grant, remaining=None, retry_after=retry_after, rejected=rejected, status=status)
    (state,) = await quota.snapshot()
    assert state.answers_total == {"2xx": 2, "4xx": 1, "429": 2, "5xx": 1, "none": 1}
    assert 7.9 < state.throttled_total_s <= 8.1, "the longer pause includes the shorter one"


async def test_scripts_run_on_redis_cluster(cluster_redis: Redis):
    quota = Quota(cluster_redis, "clustered", {"a": 1, "b": 1}, LONG)
    for _ in range(30):
        await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=20)
    await cluster_redis.flushall()
    assert await acquire_now(quota) is None
    states = await quota.snapshot()
    assert sum(each.used for each in states) == 30
    assert all(each.throttled_for_s > 50 for each in states)


async def test_random_use_never_exceeds_the_window(shared_redis: Redis):
    policy = QuotaPolicy(limit=13, window_seconds=0.25)
    quotas = [
        await warm_quota(shared_redis, "random", {"a": 2, "b": 1}, policy, max_in_flight_seconds=0.15) for _ in range(3)
    ]
    sent: dict[str, list[float]] = {"a": [], "b": []}
    rng = random.Random(7)

    async def caller(quota: Quota) -> None:
        while True:
            grant = await quota.acquire(rng.choice(list(Lane)), rng.choice([None, None, "a", "b"]))
            fate = rng.random()
            if fate < 0.1:
                await quota.release(grant)
                continue
            await asyncio.sleep(rng.uniform(0, 0.02))
            sent[grant.client_id].append(time.monotonic())
            await asyncio.sleep(rng.uniform(0, 0.02))
            if fate > 0.2:
                await settle_answered(quota, grant)

    async def impatient(quota: Quota) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 0.05)):
                    await quota.release(await quota.acquire(Lane.interactive))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.2):
            await asyncio.gather(*(work(quota) for quota in quotas for work in (caller, caller, caller, impatient)))
    for instants in sent.values():
        assert len(instants) > 20
        assert most_in_window(instants, policy.window_seconds) <= policy.usable_slots


async def test_many_cancelled_callers_leave_nothing_in_flight(shared_redis: Redis, caplog: pytest.LogCaptureFixture):
    quota = await warm_quota(
        shared_redis, "cancelled callers", {"a": 1, "b": 1}, QuotaPolicy(limit=5000, window_seconds=60)
    )
    rng = random.Random(11)

    async def request() -> None:
        grant = await quota.acquire(Lane.interactive)
        try:
            await asyncio.sleep(rng.uniform(0, 0.001))
        finally:
            await settle_answered(quota, grant)

    for _ in range(60):
        callers = [asyncio.create_task(request()) for _ in range(10)]
        await asyncio.sleep(rng.uniform(0, 0.004))
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert sum(each.in_flight for each in await quota.snapshot()) == 0
    assert caplog.records == []


async def test_decoding_redis_client_works(redis_database: str, shared_redis: Redis):
    async with redis.asyncio.Redis.from_url(redis_database, decode_responses=True) as decoding:
        quota = Quota(decoding, "decoded", {"a": 1}, LONG)
        await settle_answered(quota, await quota.acquire(Lane.interactive), remaining=1, retry_after=0.01)
        await quota.acquire(Lane.interactive)
        assert (await quota.snapshot())[0].granted_total == 2


async def test_waiters_of_one_process_are_served_in_order(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "order", {"a": 1}, QuotaPolicy(limit=2, window_seconds=0.1, reserve=0))
    served: list[int] = []

    async def send(number: int) -> None:
        grant = await quota.acquire(Lane.interactive)
        served.append(number)
        await settle_answered(quota, grant)

    await asyncio.gather(*(send(number) for number in range(8)))
    assert served == sorted(served)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"limit": 3, "window_seconds": 60}, "reserve 3 must be 0 or more and below limit 3"),
        ({"limit": 60, "window_seconds": 0}, "window_seconds must be above 0"),
        ({"limit": 60, "window_seconds": 60, "default_pause_seconds": -1}, "default_pause_seconds 0 or more"),
    ],
)
def test_invalid_policy_is_rejected(invalid: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        QuotaPolicy(**invalid)


def test_window_counter_detects_an_overrun():
    assert most_in_window([0.0, 0.1, 0.2, 1.05], 1.0) == 3
    assert most_in_window([0.0, 1.0], 1.0) == 1


def of_organisation(value: int) -> NamedLimit:
    return NamedLimit("org.rate.per.minute", LimitScope.organisation, value)


async def test_named_organisation_limit_is_shared_by_all_clients(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "organisation", {"a": 1, "b": 1}, LONG)
    for _ in range(4):
        await settle_answered(quota, await quota.acquire(Lane.interactive))
    grant = await quota.acquire(Lane.interactive, "a")
    await quota.settle(grant, remaining=None, retry_after=0.05, rejected=True, status=429, limit=of_organisation(10))
    await asyncio.sleep(1.1)
    assert await count_grants(quota, Lane.interactive) == 10 - 5
    states = {client.client_id: client for client in await quota.snapshot()}
    assert states["a"].rejected_total == 1
    assert states["a"].throttled_total_s == 0, "its own limit was not reached"


async def test_organisation_limit_leaves_room_for_interactive_requests(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "organisation", {"a": 1, "b": 1}, LONG)
    grant = await quota.acquire(Lane.interactive, "a")
    await quota.settle(grant, remaining=None, retry_after=0.05, rejected=True, status=429, limit=of_organisation(20))
    await asyncio.sleep(1.1)
    assert await count_grants(quota, Lane.backfill) == 16 - 1
    assert await count_grants(quota, Lane.interactive) == 4


async def test_released_grant_frees_the_organisations_slot(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "organisation", {"a": 1, "b": 1}, LONG)
    grant = await quota.acquire(Lane.interactive, "a")
    await quota.settle(grant, remaining=None, retry_after=0.05, rejected=True, status=429, limit=of_organisation(2))
    await asyncio.sleep(1.1)
    held = await quota.acquire(Lane.interactive, "b")
    assert await acquire_now(quota) is None
    await quota.release(held)
    assert await acquire_now(quota) is not None


async def test_refusal_without_a_named_limit_pauses_the_client_alone(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "organisation", {"a": 1, "b": 1}, LONG)
    await quota.settle(
        await quota.acquire(Lane.interactive, "a"), remaining=None, retry_after=30, rejected=True, status=429
    )
    assert await acquire_now(quota, client_id="a") is None
    assert await count_grants(quota, Lane.interactive) == 20


async def test_quiet_day_is_not_taken_for_a_loss(shared_redis: Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache_pipeline.upstream.quota.quota_store._IDLE_SECONDS", 0.05)
    policy = QuotaPolicy(limit=20, window_seconds=0.2)
    quota = Quota(shared_redis, "quiet", {"a": 1}, policy, max_in_flight_seconds=0.2)
    await settle_answered(quota, await quota.acquire(Lane.interactive))
    keys = UpstreamKeys("quiet")
    async with asyncio.timeout(30):
        while await shared_redis.exists(keys.state("a"), keys.log("a"), keys.cold_start):  # noqa: ASYNC110 - Redis tells no event
            await asyncio.sleep(0.02)
    assert await acquire_now(quota) is not None
    assert await acquire_now(quota) is not None, "two at a time: nothing was lost"


async def test_waiting_request_gets_the_slot_of_its_raised_lane(shared_redis: Redis):
    """An interactive caller may wait for what backfill has begun to ask."""
    quota = await warm_quota(shared_redis, "raise", {"a": 1}, LONG)
    await count_grants(quota, Lane.backfill)
    lane = RaisableLane(Priority(Lane.backfill))
    waiting = asyncio.create_task(quota.acquire(lane))
    behind = asyncio.create_task(quota.acquire(Lane.backfill))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    lane.raise_to(Priority(Lane.scheduled))
    async with asyncio.timeout(20):
        await waiting
    assert not behind.done()
    behind.cancel()
    await asyncio.gather(behind, return_exceptions=True)
    assert (await quota.snapshot())[0].in_flight == LONG.slots(Lane.backfill) + 1


async def test_cancelled_request_of_a_raisable_lane_leaves_no_grant(shared_redis: Redis):
    quota = await warm_quota(shared_redis, "raise and cancel", {"a": 1}, LONG)
    held = await count_grants(quota, Lane.backfill)
    waiting = asyncio.create_task(quota.acquire(RaisableLane(Priority(Lane.backfill))))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (await quota.snapshot())[0].in_flight == held


async def test_follow_up_gets_a_slot_that_submits_leave(shared_redis: Redis):
    """A poll of a backfill's job, while scheduled submits take whatever they can."""
    quota = await warm_quota(shared_redis, "follow up", {"a": 1}, QuotaPolicy(limit=60, window_seconds=60))
    await count_grants(quota, Lane.scheduled)
    assert await acquire_now(quota, Lane.backfill) is None
    async with asyncio.timeout(20):
        for _ in range(2):
            await quota.acquire(Lane.backfill, "a", purpose=Purpose(is_follow_up=True))
    assert await acquire_now(quota, Lane.interactive) is not None, "people still come first"


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9, 60, 300])
def test_follow_up_share_is_between_scheduled_and_interactive(limit: int):
    policy = QuotaPolicy(limit=limit, window_seconds=30, reserve=0)
    shares = [
        policy.slots(Lane.scheduled),
        policy.slots(Lane.backfill, is_follow_up=True),
        policy.slots(Lane.interactive),
    ]
    assert shares == sorted(shares)
    assert limit == 1 or shares[0] < shares[1]
