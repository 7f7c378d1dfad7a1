"""Program of a test: send requests to the simulated vendor as fast as the shared quota allows, until killed."""

import asyncio
import sys
from dataclasses import dataclass

import redis.asyncio
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, UpstreamConfig
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota

CLIENTS = {f"client-{number}": SecretStr(f"secret-{number}") for number in (1, 2, 3)}
WINDOW, LIMIT = 1.2, 40
VENDOR = SimulatorSettings(
    clients=CLIENTS,
    rate_limit_scope="client",
    rate_window_seconds=WINDOW,
    reportdata_rate_limit=LIMIT,
    genesys_rate_limit=LIMIT,
    job_seconds_base=0.0,
)


@dataclass(frozen=True)
class Api:
    """One platform of the simulated vendor: how to create a job to request, and the reserve that suits its rate headers."""

    submit: str
    job: str
    id_field: str
    body: dict[str, object]
    reserve: int


_DAY = "2024-03-04T00:00:00Z/2024-03-05T00:00:00Z"
_REPORTDATA = "/api/v2/analytics/reportdata/query"
_GENESYS = "/api/v2/analytics/conversations/aggregates/jobs"
APIS = {
    "reports remaining": Api(
        f"{_REPORTDATA}/async",
        _REPORTDATA,
        "id",
        {"reportId": "queue-performance", "timeGrouping": "byDay", "interval": _DAY},
        reserve=3,
    ),
    "reports nothing": Api(
        _GENESYS, _GENESYS, "jobId", {"interval": _DAY, "granularity": "P1D", "metrics": ["nOffered"]}, reserve=0
    ),
}


def config(url: str, api: Api) -> UpstreamConfig:
    return UpstreamConfig(
        account="load",
        base_url=url,
        login_url=f"{url}/oauth/token",
        clients=tuple(OAuthClient(client_id=each, client_secret=secret) for each, secret in CLIENTS.items()),
        policy=QuotaPolicy(
            limit=LIMIT,
            reserve=api.reserve,
            window_seconds=WINDOW,
            default_pause_seconds=WINDOW,
        ),
        retries=RetryPolicy(max_attempts=3, first_wait_seconds=0.05, max_wait_seconds=0.2),
    )


async def send_requests(vendor_url: str, redis_url: str, path: str, tasks: int, api: Api) -> None:
    settings = config(vendor_url, api)
    async with redis.asyncio.Redis.from_url(redis_url) as shared:
        # The requests of killed processes count for five seconds instead of two minutes.
        quota = Quota(shared, settings.account, settings.weights, settings.policy, max_in_flight_seconds=5.0)
        async with create_upstream_client(settings, shared, quota=quota) as client:
            await _send_until_killed(client, path, tasks)


async def _send_until_killed(client: httpx.AsyncClient, path: str, tasks: int) -> None:
    async def send() -> None:
        while True:
            (await client.get(path)).raise_for_status()

    # Wait for the test, so that all processes begin together however long their start took.
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(send() for _ in range(tasks)))


if __name__ == "__main__":
    asyncio.run(send_requests(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), APIS[sys.argv[5]]))
