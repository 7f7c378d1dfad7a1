"""Turns within a lane: the API keys that wait for a scarce quota get equal shares, however many requests each of them sends."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.upstream.quota import Grant, Purpose, QuotaPolicy
from cache_pipeline.upstream.quota.model import Waiter
from cache_pipeline.upstream.quota.quota import NO_PURPOSE, Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys

pytestmark = pytest.mark.serial

Redis = redis.asyncio.Redis
#: Twenty requests a second.
SCARCE = QuotaPolicy(limit=10, window_seconds=0.5, reserve=0)
#: One request every two milliseconds.
SINGLE = QuotaPolicy(limit=1, window_seconds=0.002, reserve=0)
WILD, MODEST = Priority(Lane.interactive, frozenset({"wild"})), Priority(Lane.interactive, frozenset({"modest"}))


async def quotas_of_processes(
    stack: AsyncExitStack, url: str, processes: int, policy: QuotaPolicy = SCARCE
) -> list[Quota]:
    """Return the quotas of some processes that share an account, each with connections of its own."""
    clients = [await stack.enter_async_context(Redis.from_url(url)) for _ in range(processes)]
    await clients[0].set(UpstreamKeys("fair").generation, "known")
    return [Quota(client, "fair", {"a": 1}, policy) for client in clients]


async def send(quota: Quota, priority: Priority, purpose: Purpose, granted: list[Priority]) -> None:
    grant = await quota.acquire(priority, purpose=purpose)
    granted.append(priority)
    await quota.settle(grant, remaining=None, retry_after=None, rejected=False)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("endpoints", [1, 3])
async def test_modest_key_gets_every_other_grant(redis_database: str, processes: int, endpoints: int):
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        quotas = await quotas_of_processes(stack, redis_database, processes)
        granted: list[Priority] = []
        wild = [
            asyncio.create_task(
                send(quotas[number % processes], WILD, Purpose(endpoint=str(number % endpoints)), granted)
            )
            for number in range(120)
        ]
        while len(granted) < SCARCE.limit:  # noqa: ASYNC110 - the quota sends no event
            await asyncio.sleep(0.01)
        before = len(granted)
        # All in the last process: half of one process's grants would be too few.
        await asyncio.gather(*(send(quotas[-1], MODEST, NO_PURPOSE, granted) for _ in range(20)))
        meanwhile = Counter(granted[before:])
        await cancel_and_wait(wild)
    assert meanwhile[MODEST] == 20
    # As many for the wild key, and what becomes free in one moment, which it may get before the other asks again.
    assert meanwhile[WILD] <= 20 + SCARCE.limit


async def test_query_of_both_keys_is_not_delayed_by_either(redis_database: str):
    both = MODEST | WILD
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        (quota,) = await quotas_of_processes(stack, redis_database, 1)
        granted: list[Priority] = []
        wild = [asyncio.create_task(send(quota, WILD, NO_PURPOSE, granted)) for _ in range(100)]
        while len(granted) < SCARCE.limit:  # noqa: ASYNC110 - the quota sends no event
            await asyncio.sleep(0.01)
        before = len(granted)
        await asyncio.gather(*(send(quota, both, NO_PURPOSE, granted) for _ in range(5)))
        meanwhile = Counter(granted[before:])
        await cancel_and_wait(wild)
    assert meanwhile[WILD] <= 5 + 4


async def test_key_that_left_delays_the_others_only_briefly(redis_database: str):
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        quotas = await quotas_of_processes(
            stack, redis_database, 2, QuotaPolicy(limit=1, window_seconds=0.2, reserve=0)
        )
        granted: list[Priority] = []
        await send(quotas[0], WILD, NO_PURPOSE, granted)
        await send(quotas[0], WILD, NO_PURPOSE, granted)
        leaving = asyncio.create_task(send(quotas[1], MODEST, NO_PURPOSE, granted))
        await asyncio.sleep(0.05)
        await cancel_and_wait([leaving])
        async with asyncio.timeout(1.5):
            await asyncio.gather(*(send(quotas[0], WILD, NO_PURPOSE, granted) for _ in range(2)))


async def test_what_others_get_while_a_key_yields_is_made_up_to_it(redis_database: str):
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        plenty = QuotaPolicy(limit=1000, window_seconds=60, reserve=0)
        (quota,) = await quotas_of_processes(stack, redis_database, 1, plenty)
        waiters = {WILD: Waiter(requests=2), MODEST: Waiter(requests=2)}
        served = Counter[Priority]()

        async def ask_until_it_yields(priority: Priority, times: int) -> None:
            for _ in range(times):
                number = str(served.total())
                answer = await quota._try_acquire(priority, ["a"], number, NO_PURPOSE, waiters[priority])
                if not isinstance(answer, Grant):
                    return
                await quota.settle(answer, remaining=None, retry_after=None, rejected=False)
                served[priority] += 1

        for _ in range(20):
            # While the one that yields waits to ask again, it is not ready, and the other one is served several times.
            await ask_until_it_yields(WILD, 5)
            await ask_until_it_yields(MODEST, 100)
    assert served[MODEST] >= served[WILD] - 5, served


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    waiting=st.lists(
        st.frozensets(st.sampled_from("abcd"), min_size=1, max_size=3), min_size=2, max_size=5, unique=True
    ),
    seed=st.integers(0, 2**32),
)
async def test_every_key_gets_its_share_in_any_order(redis_database: str, waiting: list[frozenset[str]], seed: int):
    """A key's share are the grants of all queries that it waits for, alone or with others."""
    grants = 20
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        await (await stack.enter_async_context(Redis.from_url(redis_database))).flushdb()
        (quota,) = await quotas_of_processes(stack, redis_database, 1, SINGLE)
        # Each waiter always has more requests.
        waiters = {Priority(Lane.interactive, keys): Waiter(requests=2) for keys in waiting}
        order, served = random.Random(seed), Counter[str]()

        async def ask(priority: Priority, number: int) -> bool:
            answer = await quota._try_acquire(priority, ["a"], str(number), NO_PURPOSE, waiters[priority])
            if isinstance(answer, Grant):
                await quota.settle(answer, remaining=None, retry_after=None, rejected=False)
                served.update(priority.callers)
            return isinstance(answer, Grant)

        for number in range(len(waiters)):
            while not await ask(list(waiters)[number], number):
                pass
        served.clear()
        for number in range(grants):
            while True:
                (priority,) = order.sample(list(waiters), 1)
                if await ask(priority, 100 + number):
                    break
    assert min(served[key] for keys in waiting for key in keys) >= grants // len(frozenset().union(*waiting)) - 1
