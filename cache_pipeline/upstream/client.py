"""Puts one vendor connection together: an HTTP client whose every request goes through the shared quota."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version

import redis.asyncio

from cache_pipeline.upstream.config import UpstreamConfig
from cache_pipeline.upstream.discovery import (
    DiscoverAddresses,
    DiscoveringTransport,
    VendorAddresses,
    configured_addresses,
)
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import LoginRequest, Send, SharedTokens, TokenSource, client_credentials_login
from cache_pipeline.upstream.quota import Quota
from cache_pipeline.upstream.transport import QuotaTransport


class _QueryStringHider(logging.Filter):
    """Cuts the query string out of the HTTP library's own log lines: a pre-signed result URL is a secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record and lets it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                each.copy_with(query=None) if isinstance(each, httpx.URL) else each for each in record.args
            )
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _QueryStringHider)

    def __hash__(self) -> int:
        return hash(type(self))


def create_upstream_quota(config: UpstreamConfig, redis: redis.asyncio.Redis) -> Quota:
    """Builds the platform's quota, for a client and for whoever shows its state."""
    return Quota(redis, config.platform, config.weights, config.policy)


def create_upstream_client(
    config: UpstreamConfig,
    redis: redis.asyncio.Redis,
    *,
    quota: Quota | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    login_request: LoginRequest = client_credentials_login,
    discover: DiscoverAddresses | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> httpx.AsyncClient:
    """Builds the client that platforms talk through; close it with `async with` or `aclose`.

    Args:
        config: Address, OAuth clients, limits and timeouts.
        redis: Where the shared quota and the access tokens live.
        quota: The same quota as elsewhere in this process, if there is one; else one is made.
        transport: What really sends; by default a pool of at most `config.max_connections` connections with TLS verified.
        login_request: Builds the login request, for vendors with a form of their own.
        discover: Finds out the addresses, for vendors with discovery.
        clock: Seconds that only grow; the age of tokens is measured by it.
        sleep: Waits so many seconds between repeats.
    """
    logging.getLogger("httpx").addFilter(_QueryStringHider())
    timeout = httpx.Timeout(**asdict(config.timeouts))
    wire = transport or httpx.AsyncHTTPTransport(
        verify=True,
        limits=httpx.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
            keepalive_expiry=5.0,
        ),
    )
    agent = f"cache-pipeline/{version('cache-pipeline')}"
    shared = quota or create_upstream_quota(config, redis)

    async def send_uncounted(request: httpx.Request) -> httpx.Response:
        request.headers.setdefault("User-Agent", agent)
        request.extensions = {**request.extensions, "timeout": timeout.as_dict()}
        return await wire.handle_async_request(request)

    def door(addresses: VendorAddresses) -> QuotaTransport:
        tokens = {
            client.client_id: TokenSource(
                client,
                addresses.login_url,
                send_uncounted,
                retries=config.retries,
                store=SharedTokens(redis, config.platform, client, addresses.login_url, clock=clock),
                clock=clock,
                sleep=sleep,
                login_request=login_request,
            )
            for client in config.clients
        }
        return QuotaTransport(
            wire,
            origin=httpx.URL(addresses.base_url),
            platform=config.platform,
            quota=shared,
            tokens=tokens,
            retries=config.retries,
            sleep=sleep,
            clock=clock,
        )

    return httpx.AsyncClient(
        transport=_way_to(config, discover, send_uncounted, door, wire),
        base_url=config.base_url,
        timeout=timeout,
        headers={"User-Agent": agent},
        follow_redirects=False,
        trust_env=False,
    )


def _way_to(
    config: UpstreamConfig,
    discover: DiscoverAddresses | None,
    send: Send,
    door: Callable[[VendorAddresses], httpx.AsyncBaseTransport],
    wire: httpx.AsyncBaseTransport,
) -> httpx.AsyncBaseTransport:
    if config.issuer and discover:
        return DiscoveringTransport(httpx.URL(config.base_url), lambda: discover(config, send), door, wire.aclose)
    return door(configured_addresses(config))
