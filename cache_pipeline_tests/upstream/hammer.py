"""Run as a process of its own: sends as fast as the shared quota lets it, for a while."""

import asyncio
import sys

import redis.asyncio

from cache_pipeline.upstream.client import upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.quota import QuotaPolicy

POLICY = QuotaPolicy(limit=40, window_seconds=1.0, in_flight_seconds=5.0)
CLIENTS = ("one", "two")


async def hammer(vendor_url: str, redis_url: str, tasks: int, seconds: float) -> None:
    config = UpstreamConfig(
        platform="stress",
        base_url=vendor_url,
        login_url=f"{vendor_url}/login",
        clients=tuple(OAuthClient.model_validate({"client_id": each, "client_secret": "x"}) for each in CLIENTS),
        policy=POLICY,
    )
    async with redis.asyncio.Redis.from_url(redis_url) as shared, upstream_client(config, shared) as client:

        async def send() -> None:
            while True:
                (await client.get("/data")).raise_for_status()

        async with asyncio.timeout(seconds):
            await asyncio.gather(*(send() for _ in range(tasks)))


if __name__ == "__main__":
    try:
        asyncio.run(hammer(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    except TimeoutError:
        sys.exit(0)
