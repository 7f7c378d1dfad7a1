"""This project's contender: its HTTP client, whose quota all processes share."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import redis.asyncio

from benchmarks.quota.setup import Send, Setup
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.registry import find_vendor


@asynccontextmanager
async def ours(setup: Setup, transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Send]:
    """Open the upstream client as the product does. Only settings relative to the window are scaled with it."""
    config = UpstreamConfig(
        account="bench",
        base_url=setup.vendor_url,
        login_url=f"{setup.vendor_url}/oauth/token",
        clients=tuple(OAuthClient(client_id=each, client_secret=secret) for each, secret in setup.clients.items()),
        policy=QuotaPolicy(
            limit=setup.limit,
            window_seconds=setup.window,
            reserve=setup.reserve,
            default_pause_seconds=setup.window,
        ),
        dialect=find_vendor("genesys").dialect,
    )
    async with (
        redis.asyncio.Redis.from_url(setup.redis_url.get_secret_value()) as shared,
        create_upstream_client(config, shared, transport=transport) as client,
    ):

        async def send(_: int) -> None:
            await client.get(setup.path)

        yield send
