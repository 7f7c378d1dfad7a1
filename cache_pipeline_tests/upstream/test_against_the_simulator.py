"""The transport against the simulated vendor, which enforces its sliding window and lets tokens expire."""

import asyncio

import pytest
import redis.asyncio
from pydantic import SecretStr

from cache_pipeline.query.lane import Lane
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.registry import find_vendor

pytestmark = pytest.mark.serial

SECRETS = {"alpha": SecretStr("one"), "beta": SecretStr("two")}
QUERY = "/api/v2/analytics/reportdata/query"
BODY = {
    "reportId": "queue-performance",
    "timeGrouping": "byHour",
    "interval": "2024-03-04T00:00:00Z/2024-03-05T00:00:00Z",
}
VENDOR = SimulatorSettings(
    clients=SECRETS,
    rate_limit_scope="client",
    rate_window_seconds=0.5,
    reportdata_rate_limit=20,
    token_lifetime_seconds=1.0,
    job_seconds_base=0.05,
)


def settings(url: str) -> UpstreamConfig:
    return UpstreamConfig(
        account="reportdata",
        base_url=url,
        login_url=f"{url}/oauth/token",
        clients=tuple(OAuthClient(client_id=each, client_secret=secret) for each, secret in SECRETS.items()),
        policy=QuotaPolicy(limit=20, window_seconds=0.5, default_pause_seconds=0.2),
    )


async def run_query(client: httpx.AsyncClient, lane: Lane) -> str:
    submitted = await client.post(f"{QUERY}/async", json=BODY, extensions={"lane": lane})
    raise_for_refusal(submitted)
    pinned = {"lane": lane, "oauth_client": submitted.extensions["oauth_client"]}
    job = f"{QUERY}/{submitted.json()['id']}"
    while True:
        status = await client.get(job, extensions=pinned)
        raise_for_refusal(status)
        if status.json()["status"] == "completed":
            results = await client.get(f"{job}/results", extensions=pinned)
            raise_for_refusal(results)
            return submitted.extensions["oauth_client"]
        await asyncio.sleep(0.1)


async def test_queries_of_every_lane_get_no_429_or_401(shared_redis: redis.asyncio.Redis):
    # Jobs outlive their tokens.
    vendor = VENDOR.model_copy(
        update={"token_lifetime_seconds": 2.0, "job_seconds_base": 2.0, "job_seconds_variation": 0}
    )
    with running_simulator(vendor) as url:
        async with (
            create_upstream_client(settings(url), shared_redis) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            used = await asyncio.gather(*(run_query(client, lane) for lane in Lane for _ in range(7)))
            counters = (await admin.get("/simulator/counters")).json()
    assert set(used) == set(SECRETS)
    assert counters["summary"]["rejected_429"] == 0
    assert counters["summary"]["submits"] == 21
    assert counters["summary"]["logins"] > len(SECRETS), "tokens were renewed during the queries"
    assert {call["status"] for call in counters["calls"] if "oauth" not in call["call"]} <= {200, 202}


async def test_job_longer_than_its_token_gets_no_401(shared_redis: redis.asyncio.Redis):
    # A job of twelve minutes with tokens of five minutes, 150 times as fast.
    vendor = VENDOR.model_copy(
        update={"token_lifetime_seconds": 2.0, "job_seconds_base": 4.8, "job_seconds_variation": 0}
    )
    with running_simulator(vendor) as url:
        async with (
            create_upstream_client(settings(url), shared_redis) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            await run_query(client, Lane.scheduled)
            counters = (await admin.get("/simulator/counters")).json()
    assert not [call for call in counters["calls"] if call["status"] == 401]
    assert counters["summary"]["submits"] == 1
    assert max(counters["logins"].values()) >= 3, "the token was renewed during the job"


async def test_transport_hides_the_vendors_faults(shared_redis: redis.asyncio.Redis):
    with running_simulator(VENDOR) as url:
        async with (
            create_upstream_client(settings(url), shared_redis) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):
            await run_query(client, Lane.interactive)
            await admin.post("/simulator/faults", json={"reject_with_429": 2, "unauthorized": 1})
            await run_query(client, Lane.interactive)
            counters = (await admin.get("/simulator/counters")).json()
    assert counters["summary"]["rejected_429"] == 2
    assert counters["summary"]["submits"] == 2


AVAILABILITY = "/api/v2/analytics/conversations/details/jobs/availability"


async def test_organisation_limit_is_learned_from_the_first_refusal(shared_redis: redis.asyncio.Redis) -> None:
    """Two clients of 40 in a window, and an organisation of 50."""
    window = 1.0
    vendor = SimulatorSettings(
        clients=SECRETS,
        rate_limit_scope="client",
        rate_window_seconds=window,
        genesys_rate_limit=40,
        genesys_org_rate_limit=50,
        report_limit_in_429=True,
    )
    with running_simulator(vendor) as url:
        config = settings(url).model_copy(
            update={
                "policy": QuotaPolicy(limit=40, window_seconds=window, reserve=0, default_pause_seconds=window),
                "dialect": find_vendor("genesys").dialect,
            }
        )
        async with (
            create_upstream_client(config, shared_redis) as client,
            httpx.AsyncClient(base_url=url) as admin,
        ):

            async def send(until: float) -> int:
                sent = 0
                while asyncio.get_running_loop().time() < until:
                    raise_for_refusal(await client.get(AVAILABILITY))
                    sent += 1
                return sent

            async def run(seconds: float) -> tuple[int, int]:
                await admin.delete("/simulator/counters")
                until = asyncio.get_running_loop().time() + seconds
                sent = sum(await asyncio.gather(*(send(until) for _ in range(12))))
                return sent, (await admin.get("/simulator/counters")).json()["summary"]["rejected_429"]

            _, learning = await run(2.5 * window)
            sent, refused = await run(4 * window)
    assert learning > 0
    assert refused == 0
    assert sent > 0.8 * 4 * 50
