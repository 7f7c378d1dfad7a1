"""Everything in Redis works on a cluster, also while slots move and after a primary is killed."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.check_result import CheckStatus
from cache_pipeline.doctor.databases import check_redis
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.redis_cluster import ClusterClient
from cache_pipeline.redis_connection import check_writable, open_redis, server_time
from cache_pipeline.storage.answer import Answer, Completeness
from cache_pipeline.storage.ports.hot import MAX_HOT_BYTES
from cache_pipeline.storage.redis.counters import RedisMetricCounts, RedisRequestCounts
from cache_pipeline.storage.redis.demand import RedisDemandCounter
from cache_pipeline.storage.redis.heartbeats import RedisWorkerHeartbeats
from cache_pipeline.storage.redis.hot import RedisHotTier
from cache_pipeline.storage.redis.idempotency import RedisIdempotencyKeys
from cache_pipeline.storage.redis.job_events import RedisJobEvents
from cache_pipeline.storage.redis.single_flight import RedisSingleFlight
from cache_pipeline.upstream.config import OAuthClient
from cache_pipeline.upstream.dialect import LimitScope, NamedLimit
from cache_pipeline.upstream.fact_store import FactStore
from cache_pipeline.upstream.oauth import SharedTokens
from cache_pipeline.upstream.polling.duration_store import DurationStore
from cache_pipeline.upstream.quota import Purpose, QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.storage.redis.test_failover import wait_for_writes
from cache_pipeline_tests.storage.redis.valkey_servers import ClusteredRedis, clustered_redis
from cache_pipeline_tests.storage.sample_rows import NOW, SERIES, hours

pytestmark = pytest.mark.serial

CLIENTS = {"a": 1, "b": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusteredRedis]:
    with clustered_redis(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
async def redis(cluster: ClusteredRedis) -> AsyncIterator[Redis]:
    for each in cluster.primaries:
        with each.client() as client:
            client.flushall()
    async with open_redis(cluster.url) as client:
        yield client


async def test_hot_answers_are_spread_over_the_primaries(redis: Redis, cluster: ClusteredRedis):
    tier = RedisHotTier(redis)
    completeness = Completeness(NOW, None, NOW, None)
    queries = [CanonicalQuery(SERIES, hours(0, 6 + number)) for number in range(50)]
    await tier.put([(query, Answer(str(query.interval).encode(), "etag", completeness)) for query in queries], NOW)
    for query in queries:
        found = await tier.get(query)
        assert found is not None
        assert found.body == str(query.interval).encode()
    for each in cluster.primaries:
        with each.client() as client:
            assert client.dbsize() > 0


async def test_answer_of_any_size_is_stored(redis: Redis):
    tier = RedisHotTier(redis)
    answer = Answer(b"x" * (MAX_HOT_BYTES + 1), "etag", Completeness(NOW, None, NOW, None))
    await tier.put_for("cache_pipeline:rendered:large", answer, timedelta(seconds=30))
    found = await tier.get_entry("cache_pipeline:rendered:large")
    assert found is not None
    assert found.answer.body == answer.body


async def test_one_of_many_callers_fetches(redis: Redis, cluster: ClusteredRedis):
    """Over two processes' clients; a release wakes the waiters, wherever the lock and the subscription are."""
    fetched = list[str]()
    async with (
        open_redis(cluster.url) as other,
        RedisSingleFlight(redis, look_seconds=30) as here,
        RedisSingleFlight(other, look_seconds=30) as there,
    ):

        async def call(flights: RedisSingleFlight, name: str) -> None:
            async def is_done() -> bool:
                return name in fetched

            async with flights.acquire(name, is_done) as flight:
                if flight is not None and not await is_done():
                    await asyncio.sleep(0.2)
                    fetched.append(name)

        names = [f"series {number}" for number in range(6)]
        started = time.monotonic()
        await asyncio.gather(*(call(flights, name) for name in names for flights in (here, there, here, there)))
        assert time.monotonic() - started < 15
    assert sorted(fetched) == names


async def test_metrics_and_requests_are_counted(redis: Redis):
    counts = RedisMetricCounts(redis, lambda: NOW)
    for _ in range(2):
        await counts.add({"hits": 2, "misses": 1}, {"seconds": 0.5})
    assert await counts.read() == {"hits": 4, "misses": 2, "seconds": 1.0}
    assert await counts.read_today() == {"hits": 4, "misses": 2}
    requests = RedisRequestCounts(redis)
    keys = {f"key-{number}": number + 1 for number in range(20)}
    await requests.add(7, keys)
    assert await requests.add(7, keys) == {key: 2 * count for key, count in keys.items()}


async def test_demand_is_counted(redis: Redis):
    demand = RedisDemandCounter(redis, "default", lambda: NOW)
    await demand.add([(CanonicalQuery(SERIES, hours(0, 6 + number)), 3, number) for number in range(5)])
    assert [each.misses for each in await demand.recent()] == [4, 3, 2, 1, 0]


async def test_workers_are_counted(redis: Redis):
    heartbeats = RedisWorkerHeartbeats(redis, lease_seconds=30)
    beating = asyncio.create_task(heartbeats.heartbeat("worker"))
    async with asyncio.timeout(10):
        while (await heartbeats.count()).alive == 0:  # noqa: ASYNC110 - the heartbeat sends no event
            await asyncio.sleep(0.05)
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating
    await heartbeats.deregister("worker")
    assert (await heartbeats.count()).alive == 0


async def test_idempotency_key_leads_to_its_job(redis: Redis):
    keys, job = RedisIdempotencyKeys(redis), uuid4()
    assert await keys.find_job("caller", "key", "query") is None
    await keys.store_job("caller", "key", "query", job)
    assert await keys.find_job("caller", "key", "query") == job


async def test_job_events_reach_other_processes(redis: Redis, cluster: ClusteredRedis):
    job = uuid4()
    async with open_redis(cluster.url) as other:
        here, there = RedisJobEvents(redis), RedisJobEvents(other)
        listening = asyncio.create_task(there.listen())
        async with there.subscribe(job) as changed, asyncio.timeout(10):
            while not changed.is_set():
                await here.publish(job)
                await asyncio.sleep(0.05)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


async def test_quota_and_upstream_state_are_shared(redis: Redis, cluster: ClusteredRedis):
    keys = UpstreamKeys("https://vendor.example.com", "acme")
    await redis.set(keys.generation, "known")
    policy = QuotaPolicy(limit=10, window_seconds=60, reserve=2, organisation_limit=14, concurrent_jobs=3)
    async with open_redis(cluster.url) as other:
        quotas = [Quota(each, "reportdata", CLIENTS, policy, keys=keys) for each in (redis, other)]
        grants = [
            await quotas[number % 2].acquire(
                Lane.interactive, purpose=Purpose(endpoint="/jobs", starts_job=number == 0)
            )
            for number in range(12)
        ]
        for number, grant in enumerate(grants):
            await quotas[number % 2].settle(grant, remaining=None, retry_after=None, rejected=False)
        await quotas[0].name_job(grants[0], "job-1")
        await quotas[1].learn([NamedLimit("jobs", LimitScope.jobs, 5)])
        limits = {each.counts: each.used for each in await quotas[1].shared_limits()}
        assert limits[LimitScope.organisation] == 12
        assert limits[LimitScope.jobs] == 1
        assert sum(each.used for each in await quotas[0].snapshot()) == 12
        await quotas[1].end_job("job-1")
        assert {each.counts: each.used for each in await quotas[0].shared_limits()}[LimitScope.jobs] == 0
        assert quotas[0].outage_reason is None

    client = OAuthClient(client_id="a", client_secret=SecretStr("example-secret"))
    tokens = SharedTokens(redis, keys, client, "https://login.example.com")
    claim = await tokens.claim("")
    assert claim.may_log_in
    await tokens.store(claim, "token", 3600)
    assert (await tokens.claim("")).token is not None

    durations = DurationStore(redis, "reportdata/main")
    await durations.record("async", after=1, by=2)
    assert (await durations.get("async")).weights
    facts = FactStore(redis, keys)
    assert await facts.claim_reading()
    await facts.store_retention(400)
    assert await facts.retention_days() == 400


async def test_health_writes_to_every_primary(redis: Redis, cluster: ClusteredRedis):
    await check_writable(redis)
    for each in cluster.primaries:
        with each.client() as client:
            assert [key for key in client.keys("*") if b"health" in key]
    found = {each.subject: each for each in await check_redis(cluster.url, utc_now)}
    assert found["Redis"].status is CheckStatus.ok
    assert "a cluster of 3 primaries" in found["Redis"].detail
    with cluster.primaries[1].client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(RedisError):
                await check_writable(redis)
            found = {each.subject: each for each in await check_redis(cluster.url, utc_now)}
            assert "memory is full" in found["Redis"].detail
        finally:
            client.config_set("maxmemory", "0")


async def test_more_callers_than_connections_wait(cluster: ClusteredRedis):
    async with open_redis(cluster.url, max_connections=4) as client:
        await asyncio.gather(*(client.set(f"key{number}", number) for number in range(300)))
        assert await client.get("key299") == b"299"


async def test_absent_cluster_is_an_ordinary_failure():
    async with open_redis("redis+cluster://127.0.0.1:1,127.0.0.1:2") as client:
        with pytest.raises(RedisConnectionError):
            await client.get("key")
        with pytest.raises(RedisError):
            await server_time(client, "key")


async def test_slots_move_under_load(redis: Redis, cluster: ClusteredRedis):
    """Nothing fails and nothing is granted twice while all slots in use move to the next primary."""
    keys = UpstreamKeys("moving")
    await redis.set(keys.generation, "known")
    policy = QuotaPolicy(limit=100_000, window_seconds=60)
    quota = Quota(redis, "moving", CLIENTS, policy, keys=keys)
    granted, fetched, has_moved = 0, 0, asyncio.Event()

    async def send() -> None:
        nonlocal granted
        while not has_moved.is_set():
            grant = await quota.acquire(Lane.interactive)
            granted += 1
            await quota.settle(grant, remaining=None, retry_after=None, rejected=False)
            assert quota.outage_reason is None

    async def fetch(number: int) -> None:
        nonlocal fetched
        async with RedisSingleFlight(redis) as flights:
            while not has_moved.is_set():
                async with flights.acquire(f"series {number}", never):
                    fetched += 1

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(send())
            tasks.create_task(fetch(number))
        for turn in range(3):
            await asyncio.sleep(0.3)
            for slot in cluster.slots_in_use():
                owner = cluster.primaries.index(cluster.owner(slot))
                await asyncio.to_thread(cluster.move_slot, slot, cluster.primaries[(owner + 1) % 3])
            assert cluster.slots_in_use(), turn
        has_moved.set()
    assert granted > 100
    assert fetched > 100
    assert sum(each.granted_total for each in await quota.snapshot()) == granted
    assert sum(each.used for each in await quota.snapshot()) == granted


async def never() -> bool:
    return False


async def test_killed_primary_is_replaced_by_its_replica(tmp_path_factory: pytest.TempPathFactory):
    """The quota of a window is not exceeded, subscriptions are renewed, and no process restarts."""
    with clustered_redis(tmp_path_factory.mktemp("failover")) as cluster:
        keys = UpstreamKeys("killed")
        async with open_redis(cluster.url) as redis, open_redis(cluster.url) as other:
            assert isinstance(redis, ClusterClient)
            await redis.set(keys.generation, "known")
            policy = QuotaPolicy(limit=40, window_seconds=60, reserve=0)
            quotas = [Quota(each, "killed", CLIENTS, policy, keys=keys, redis_timeout=0.5) for each in (redis, other)]
            for number in range(30):
                grant = await quotas[number % 2].acquire(Lane.interactive)
                await quotas[number % 2].settle(grant, remaining=None, retry_after=None, rejected=False)
            victim = cluster.owner(redis.keyslot(keys.generation))
            replica = cluster.replica_of(victim)
            await asyncio.to_thread(victim.kill)
            with pytest.raises(RedisError):
                await check_writable(redis)
            await asyncio.to_thread(cluster.wait_until_promoted, replica)
            for client in (redis, other):
                await wait_for_writes(client)
            more = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    while True:
                        await quotas[more % 2].acquire(Lane.interactive)
                        more += 1
            assert 0 < more <= 2 * 40 - 30
            async with RedisSingleFlight(redis) as flights:
                assert await flights._notifier.start(10)
                async with flights.acquire("series", never) as flight:
                    assert flight is not None
