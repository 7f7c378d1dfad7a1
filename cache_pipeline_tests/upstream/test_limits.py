"""Limits beyond a client's own one: of the organisation, of an endpoint, of running jobs; each is learned and kept alone."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.dialect import LimitScope, NamedLimit, find_endpoint
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import Grant, Purpose, QuotaPolicy
from cache_pipeline.upstream.quota.local_share import LocalShare
from cache_pipeline.upstream.quota.model import Waiter
from cache_pipeline.upstream.quota.quota import NO_PURPOSE, Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline_tests.upstream.test_against_the_simulator import SECRETS

pytestmark = pytest.mark.serial

Redis = redis.asyncio.Redis
LONG = QuotaPolicy(limit=23, window_seconds=60)
SEARCH = Purpose(endpoint="POST /search")
SUBMIT = Purpose(endpoint="jobs", starts_job=True)
ENDPOINT_LIMIT = NamedLimit("search.rate.per.minute", LimitScope.endpoint, 4)
JOBS_LIMIT = NamedLimit("jobs.concurrent.max", LimitScope.jobs, 2)


async def warm_quota(shared: Redis, clients: tuple[str, ...] = ("a", "b"), policy: QuotaPolicy = LONG) -> Quota:
    """Return a quota whose Redis has data already; in an empty Redis it would grant one request at a time."""
    await shared.set(UpstreamKeys("limits").generation, "known")
    return Quota(shared, "limits", dict.fromkeys(clients, 1), policy)


async def acquire_now(
    quota: Quota, purpose: Purpose = NO_PURPOSE, lane: Lane = Lane.interactive, client_id: str | None = None
) -> Grant | None:
    candidates = [client_id] if client_id else list(quota._clients)
    answer = await quota._try_acquire(Priority(lane), candidates, uuid.uuid4().hex, purpose, Waiter())
    return answer if isinstance(answer, Grant) else None


async def count_grants(quota: Quota, purpose: Purpose = NO_PURPOSE, lane: Lane = Lane.interactive) -> int:
    count = 0
    while await acquire_now(quota, purpose, lane):
        count += 1
    return count


async def refuse(quota: Quota, limit: NamedLimit, purpose: Purpose = NO_PURPOSE, client_id: str | None = None) -> None:
    grant = await quota.acquire(Lane.interactive, client_id, purpose=purpose)
    await quota.settle(grant, remaining=None, retry_after=1, rejected=True, status=429, limit=limit)


async def accept(quota: Quota, grant: Grant, job_id: str) -> None:
    await quota.settle(grant, remaining=None, retry_after=None, rejected=False, status=202)
    await quota.name_job(grant, job_id)


async def test_limit_of_an_endpoint_leaves_other_endpoints_alone(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    await refuse(quota, ENDPOINT_LIMIT, SEARCH)
    assert await acquire_now(quota, SEARCH) is None, "it pauses as long as the vendor says"
    assert await acquire_now(quota, Purpose(endpoint="GET /other")) is not None
    await asyncio.sleep(1.1)
    assert await count_grants(quota, SEARCH) == 4 - 1
    assert await count_grants(quota) == 2 * 20 - 1 - 1 - 3
    assert {each.throttled_total_s for each in await quota.snapshot()} == {0}


async def test_limit_of_an_endpoint_leaves_room_for_people(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    await refuse(quota, NamedLimit("search.rate.per.minute", LimitScope.endpoint, 10), SEARCH)
    await asyncio.sleep(1.1)
    assert await count_grants(quota, SEARCH, Lane.backfill) == 8 - 1
    assert await count_grants(quota, SEARCH) == 2


async def test_named_limit_of_a_client_corrects_that_client_alone(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    await refuse(quota, NamedLimit("token.rate.per.minute", LimitScope.client, 13), client_id="a")
    await asyncio.sleep(1.1)
    free = dict.fromkeys("ab", 0)
    for client_id in free:
        while await acquire_now(quota, client_id=client_id):
            free[client_id] += 1
    assert free == {"a": 13 - 3 - 1, "b": 20}


async def test_several_windows_of_one_organisation_hold_at_once(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    await quota.learn(
        [
            NamedLimit("org.rate.per.second", LimitScope.organisation, 5, 1.0),
            NamedLimit("org.rate.per.minute", LimitScope.organisation, 12, 60.0),
        ]
    )
    assert await count_grants(quota) == 5
    for grant_id in await shared_redis.zrange(UpstreamKeys("limits").organisation_log, 0, -1):
        for client_id in "ab":
            if await shared_redis.zscore(UpstreamKeys("limits").log(client_id), grant_id):
                await quota.settle(
                    Grant(client_id, grant_id.decode()), remaining=None, retry_after=None, rejected=False, status=200
                )
    await asyncio.sleep(1.1)
    assert await count_grants(quota) == 5
    assert [(each.name, each.counts, each.limit, each.used) for each in await quota.shared_limits()] == [
        ("org.rate.per.minute", "organisation", 12, 10),
        ("org.rate.per.second", "organisation", 5, 5),
    ]


async def test_job_counts_until_any_process_sees_its_end(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    other = Quota(shared_redis, "limits", {"a": 1, "b": 1}, LONG)
    await refuse(quota, JOBS_LIMIT, SUBMIT)
    assert await acquire_now(quota) is not None, "polls and pages go on"
    await asyncio.sleep(1.1)
    for number in range(2):
        grant = await acquire_now(quota, SUBMIT)
        assert grant is not None
        await accept(quota, grant, f"job-{number}")
    assert await acquire_now(other, SUBMIT) is None
    await other.end_job("job-0")
    assert await acquire_now(quota, SUBMIT) is not None


async def test_limit_of_jobs_pauses_a_request_that_starts_none_too(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis)
    await refuse(quota, JOBS_LIMIT, SEARCH, client_id="a")
    assert await acquire_now(quota, SEARCH, client_id="a") is None, "it would be refused again at once"
    assert await acquire_now(quota, SUBMIT, client_id="b") is not None
    assert await quota.shared_limits() == []


async def test_limit_named_without_redis_pauses_the_client_locally(shared_redis: Redis) -> None:
    policy = QuotaPolicy(limit=80, window_seconds=0.1)
    local = LocalShare({"a": 1}, policy, time.monotonic)
    grant = local.try_acquire(["a"], "1")
    assert isinstance(grant, Grant)
    quota = Quota(shared_redis, "limits", {"a": 1}, policy)
    quota._local = local
    await quota.settle(grant, remaining=None, retry_after=30, rejected=True, status=429, limit=ENDPOINT_LIMIT)
    wait = local.try_acquire(["a"], "2")
    assert isinstance(wait, float)
    assert wait > 20


async def test_refused_or_unsent_submit_is_no_job(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis, policy=QuotaPolicy(limit=23, window_seconds=60, concurrent_jobs=1))
    grant = await quota.acquire(Lane.interactive, purpose=SUBMIT)
    assert await acquire_now(quota, SUBMIT) is None
    await quota.settle(grant, remaining=None, retry_after=None, rejected=False, status=400)
    grant = await quota.acquire(Lane.interactive, purpose=SUBMIT)
    await quota.release(grant)
    assert await acquire_now(quota, SUBMIT) is not None


async def test_declared_organisation_limit_holds_before_any_refusal(shared_redis: Redis) -> None:
    quota = await warm_quota(shared_redis, policy=QuotaPolicy(limit=23, window_seconds=60, organisation_limit=10))
    assert await count_grants(quota) == 10
    (shown,) = await quota.shared_limits()
    assert (shown.name, shown.limit, shown.used, shown.window_seconds) == ("declared", 10, 10, 60)


async def test_all_keys_of_limits_share_a_cluster_slot(cluster_redis: Redis) -> None:
    quota = Quota(cluster_redis, "clustered limits", {"a": 1}, LONG)
    await refuse(quota, ENDPOINT_LIMIT, SEARCH)
    grant = await quota.acquire(Lane.interactive, purpose=SUBMIT)
    await accept(quota, grant, "job")
    await quota.learn([JOBS_LIMIT])
    await quota.end_job("job")
    assert [each.counts for each in await quota.shared_limits()] == ["POST /search", "jobs"]


def account(*client_ids: str, url: str = "https://api.example.com", name: str = "acme/main") -> UpstreamConfig:
    return UpstreamConfig(
        account=name,
        base_url=url,
        login_url=f"{url}/oauth/token",
        clients=tuple(OAuthClient.model_validate({"client_id": each, "client_secret": "s"}) for each in client_ids),
        policy=LONG,
    )


async def test_same_client_shares_one_window_whatever_account_names_it(shared_redis: Redis) -> None:
    """The vendor counts a client's requests wherever they come from."""
    tenants = [account("a"), account("a", name="acme/other"), account("a", url="https://API.example.com:443")]
    quotas = [Quota(shared_redis, each.account, each.weights, each.policy, keys=each.keys) for each in tenants]
    await shared_redis.set(tenants[0].keys.generation, "known")
    assert await count_grants(quotas[0]) == 20
    assert [await count_grants(quota) for quota in quotas[1:]] == [0, 0]


@pytest.mark.parametrize(
    "other",
    [account("b"), account("a", url="https://api.example.eu"), account("a", url="https://api.example.com:8443")],
)
async def test_other_clients_and_addresses_share_nothing(shared_redis: Redis, other: UpstreamConfig) -> None:
    ours = account("a")
    quotas = [Quota(shared_redis, each.account, each.weights, each.policy, keys=each.keys) for each in (ours, other)]
    for each in (ours, other):
        await shared_redis.set(each.keys.generation, "known")
    await quotas[0].learn([NamedLimit("org.rate.per.minute", LimitScope.organisation, 5)])
    assert await count_grants(quotas[0]) == 5
    assert await count_grants(quotas[1]) == 20
    assert await quotas[1].shared_limits() == []


async def test_named_organisation_is_shared_by_accounts_of_other_clients(shared_redis: Redis) -> None:
    accounts = [each.model_copy(update={"organisation": "north"}) for each in (account("a"), account("b"))]
    quotas = [Quota(shared_redis, each.account, each.weights, each.policy, keys=each.keys) for each in accounts]
    await shared_redis.set(accounts[0].keys.generation, "known")
    await quotas[0].learn([NamedLimit("org.rate.per.minute", LimitScope.organisation, 5)])
    assert await count_grants(quotas[0]) == 5
    assert await count_grants(quotas[1]) == 0


@pytest.mark.parametrize("status", [httpx.Response(200, json={"state": "FULFILLED"}), httpx.Response(404)])
async def test_end_of_a_job_is_seen_in_a_streamed_answer(shared_redis: Redis, status: httpx.Response) -> None:
    jobs = "/api/v2/analytics/conversations/details/jobs"

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/oauth/token":
            return httpx.Response(200, json={"access_token": "token"})
        if request.url.path == jobs:
            return httpx.Response(202, json={"jobId": "1"})
        return httpx.Response(status.status_code, content=_parts(status.content))

    policy = QuotaPolicy(limit=23, window_seconds=60, concurrent_jobs=1)
    settings = account("a").model_copy(update={"dialect": find_vendor("genesys").dialect, "policy": policy})
    quota = Quota(shared_redis, settings.account, settings.weights, policy, keys=settings.keys)
    opening = create_upstream_client(settings, shared_redis, quota=quota, transport=httpx.MockTransport(answer))
    async with opening as client:
        await client.post(jobs, json={})
        assert [each.used for each in await quota.shared_limits()] == [1]
        async with client.stream("GET", f"{jobs}/1", extensions={"streamed": True}) as response:
            assert await response.aread() == status.content
        assert [each.used for each in await quota.shared_limits()] == [0]


async def _parts(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("GET", "/api/v2/jobs/6f1c-77/results", "GET /api/*/jobs/*/results"),
        ("POST", "/figures", "POST /figures"),
        ("GET", "/", "GET /"),
    ],
)
def test_endpoint_is_a_path_without_ids(method: str, path: str, endpoint: str) -> None:
    assert find_endpoint(method, path) == endpoint


async def test_limits_of_jobs_are_learned_from_the_simulated_vendor(shared_redis: Redis) -> None:
    """Three jobs at once, four submits a second; after the first refusals both are kept."""
    vendor = SimulatorSettings(
        clients=SECRETS,
        genesys_concurrent_jobs=3,
        genesys_submits_per_second=4,
        job_seconds_base=0.3,
        job_seconds_per_1000_cells=0,
    )
    day = "2024-03-04T00:00:00Z/2024-03-05T00:00:00Z"
    jobs = "/api/v2/analytics/conversations/details/jobs"
    with running_simulator(vendor) as url:
        config = UpstreamConfig(
            account="genesys/main",
            base_url=url,
            login_url=f"{url}/oauth/token",
            clients=tuple(OAuthClient(client_id=each, client_secret=secret) for each, secret in SECRETS.items()),
            policy=QuotaPolicy(limit=300, window_seconds=60, reserve=0, default_pause_seconds=1),
            dialect=find_vendor("genesys").dialect,
        )
        async with create_upstream_client(config, shared_redis) as client, httpx.AsyncClient(base_url=url) as admin:

            async def run() -> int:
                submitted = await client.post(jobs, json={"interval": day})
                path = f"{jobs}/{submitted.json()['jobId']}"
                pinned = {"oauth_client": submitted.extensions["oauth_client"]}
                while True:
                    if (await client.get(path, extensions=pinned)).json()["state"] == "FULFILLED":
                        return submitted.status_code
                    await asyncio.sleep(0.1)

            async def refused() -> int:
                return (await admin.get("/simulator/counters")).json()["summary"]["rejected_429"]

            # One refusal names one limit, so each is learned by itself.
            for _ in range(2):
                await asyncio.gather(*(run() for _ in range(8)))
            learning = await refused()
            assert learning > 0
            assert set(await asyncio.gather(*(run() for _ in range(10)))) == {202}
            assert await refused() == learning
            names = {
                each.name
                for each in await Quota(shared_redis, "", {"alpha": 1}, LONG, keys=config.keys).shared_limits()
            }
    assert "details.jobs.concurrent.access.max" in names
