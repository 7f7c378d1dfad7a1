"""Creates the HTTP client of one vendor account, whose every request goes through the shared quota."""

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
from cache_pipeline.upstream.oauth import LoginRequest, SharedTokens, TokenSource, client_credentials_login
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.transport import QuotaTransport


class _QueryStringFilter(logging.Filter):
    """Removes the query string from the HTTP library's own log lines: a pre-signed result URL is a secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record, and always let it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                each.copy_with(query=None) if isinstance(each, httpx.URL) else each for each in record.args
            )
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _QueryStringFilter)

    def __hash__(self) -> int:
        return hash(type(self))


def create_upstream_quota(config: UpstreamConfig, redis: redis.asyncio.Redis) -> Quota:
    """Create the account's quota, for a client or for showing its state."""
    return Quota(redis, config.account, config.weights, config.policy, keys=config.keys)


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
    """Create the client that vendor adapters use; close it with `async with` or `aclose`.

    Args:
        config: Address, OAuth clients, limits and timeouts.
        redis: Holds the shared quota and the access tokens.
        quota: The quota object that this process already uses, if there is one; by default one is created.
        transport: Sends the requests; by default a pool of at most `config.max_connections` connections with TLS verified, through
            the proxy of `config` if it has one.
        login_request: Builds the login request, for vendors with their own kind of login.
        discover: Finds the addresses, for vendors with discovery.
        clock: Monotonic seconds; measures the age of tokens.
        sleep: Waits for the given seconds between retries.
    """
    logging.getLogger("httpx").addFilter(_QueryStringFilter())
    timeout = httpx.Timeout(**asdict(config.timeouts))
    wire = transport or _open_transport(config)
    agent = f"cache-pipeline/{version('cache-pipeline')}"
    shared_quota = quota or create_upstream_quota(config, redis)

    async def send_without_quota(request: httpx.Request) -> httpx.Response:
        request.headers.setdefault("User-Agent", agent)
        request.extensions = {**request.extensions, "timeout": timeout.as_dict()}
        return await wire.handle_async_request(request)

    def create_transport(addresses: VendorAddresses) -> QuotaTransport:
        tokens = {
            client.client_id: TokenSource(
                client,
                addresses.login_url,
                send_without_quota,
                retries=config.retries,
                store=SharedTokens(redis, config.keys, client, addresses.login_url, clock=clock),
                clock=clock,
                sleep=sleep,
                login_request=login_request,
            )
            for client in config.clients
        }
        return QuotaTransport(
            wire,
            origin=httpx.URL(addresses.base_url),
            account=config.account,
            quota=shared_quota,
            tokens=tokens,
            retries=config.retries,
            dialect=config.dialect,
            sleep=sleep,
            clock=clock,
        )

    client_transport: httpx.AsyncBaseTransport
    if config.issuer and discover:
        client_transport = DiscoveringTransport(
            httpx.URL(config.base_url),
            lambda: discover(config, send_without_quota),
            create_transport,
            wire.aclose,
        )
    else:
        client_transport = create_transport(configured_addresses(config))
    return httpx.AsyncClient(
        transport=client_transport,
        base_url=config.base_url,
        timeout=timeout,
        headers={"User-Agent": agent},
        follow_redirects=False,
        trust_env=False,
    )


def _open_transport(config: UpstreamConfig) -> httpx.AsyncHTTPTransport:
    """Open a pool of connections with TLS verified, through the proxy of the account if it has one."""
    return httpx.AsyncHTTPTransport(
        verify=True,
        proxy=config.proxy.get_secret_value() if config.proxy else None,
        limits=httpx.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
            keepalive_expiry=5.0,
        ),
    )
