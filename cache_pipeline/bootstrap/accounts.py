"""The vendor accounts of the settings: their connections and quotas."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings, VendorAccount, account_ids
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.registry import find_vendor, read_account, read_accounts
from cache_pipeline.vendors.spec import VendorSpec

# The stores and the upstream client take most of a second to import, so each is imported by the function that opens it.
if TYPE_CHECKING:
    from redis.asyncio import Redis

    from cache_pipeline.service.plan import QuotaHeadroom
    from cache_pipeline.upstream.config import RetryPolicy, UpstreamConfig
    from cache_pipeline.upstream.polling import JobPoller
    from cache_pipeline.upstream.quota import QuotaPolicy
    from cache_pipeline.upstream.quota.quota import Quota
    from cache_pipeline.vendors.base import VendorAdapter

logger = logging.getLogger(__name__)

#: Requests of the vendor's limit that are never sent.
_QUOTA_RESERVE = 3


def _upstream_config(account_id: str, account: VendorAccount, vendor: VendorSpec[Any]) -> UpstreamConfig:
    from cache_pipeline.upstream.config import OAuthClient, UpstreamConfig
    from cache_pipeline.upstream.quota import QuotaPolicy

    addresses, capabilities = vendor.addresses(account), vendor.adapter.capabilities
    return UpstreamConfig(
        account=account_id,
        base_url=addresses.base_url,
        login_url=addresses.login_url,
        issuer=addresses.issuer,
        clients=tuple(
            OAuthClient(client_id=client.client_id, client_secret=client.client_secret, weight=client.weight)
            for client in account.clients
        ),
        dialect=vendor.dialect,
        policy=QuotaPolicy(
            limit=account.rate_limit or capabilities.requests,
            window_seconds=account.window_seconds or capabilities.window_seconds,
            # The reserve keeps the vendor's own remaining count above the mark at which a client pauses (G16).
            reserve=_QUOTA_RESERVE if capabilities.has_remaining_header else 0,
            default_pause_seconds=account.pause_seconds,
            organisation_limit=account.organisation_rate_limit,
            concurrent_jobs=account.concurrent_jobs,
            monthly_requests=account.monthly_requests,
            job_seconds=account.job_deadline_seconds,
        ),
        proxy=account.proxy,
        organisation=account.organisation,
    )


@dataclass(frozen=True)
class VendorConnection:
    """How to reach one vendor account and log in to it.

    Attributes:
        config: The address, OAuth clients and limits.
        vendor: The vendor.
        account: The account's settings.
    """

    config: UpstreamConfig
    vendor: VendorSpec[Any]
    account: VendorAccount

    def open_client(self, redis: Redis, retries: RetryPolicy | None = None) -> httpx.AsyncClient:
        """Return an HTTP client of the vendor; the caller closes it.

        Args:
            redis: The connection for quota and shared tokens.
            retries: How often to retry; the account's policy by default.
        """
        from cache_pipeline.upstream.client import create_upstream_client

        config = self.config if retries is None else self.config.model_copy(update={"retries": retries})
        return create_upstream_client(
            config, redis, login_request=self.vendor.find_login_request(), discover=self.vendor.discover
        )


def connect_vendor(settings: Settings, account_id: str) -> VendorConnection:
    """Return the connection of an account in the settings.

    Args:
        settings: The settings of the deployment.
        account_id: Vendor and name of the account, such as ``vendor/main``.

    Raises:
        SettingsError: The account is wrong; the message names the environment variable.
    """
    name, _, account_name = account_id.partition("/")
    vendor, account = find_vendor(name), read_account(account_id, settings.accounts[name][account_name])
    return VendorConnection(_upstream_config(account_id, account, vendor), vendor, account)


def open_cookieless_client(settings: Settings, account_id: str, redis: Redis) -> httpx.AsyncClient:
    """Return an HTTP client of an account that keeps none of the vendor's cookies; the caller closes it."""
    from http.cookiejar import DefaultCookiePolicy

    client = connect_vendor(settings, account_id).open_client(redis)
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


@dataclass(frozen=True)
class OpenAccounts:
    """The vendor accounts of the settings, ready to be asked, by vendor and name such as ``vendor/main``.

    Attributes:
        clients: The HTTP clients.
        adapters: What speaks each vendor's API.
        job_pollers: What waits for an account's asynchronous jobs.
        retention: How long a vendor keeps figures, where that is known.
    """

    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict[str, "httpx.AsyncClient"])
    adapters: dict[str, VendorAdapter] = field(default_factory=dict[str, "VendorAdapter"])
    job_pollers: dict[str, JobPoller] = field(default_factory=dict[str, "JobPoller"])
    retention: dict[str, timedelta] = field(default_factory=dict[str, timedelta])


async def open_accounts(settings: Settings, redis: Redis, stack: AsyncExitStack) -> OpenAccounts:
    """Open every vendor account; the stack closes them.

    Raises:
        SettingsError: An account is wrong; the message names the environment variable.
    """
    from cache_pipeline.upstream.polling import GuideSchedule, JobPoller, PollPolicy
    from cache_pipeline.upstream.polling.duration_store import DurationStore

    opened = OpenAccounts()
    for account_id, account in read_accounts(settings).items():
        if account.is_insecure:
            logger.warning(
                "%s: allow_insecure_http is set, so client secrets and access tokens go unencrypted", account_id
            )
        connection = connect_vendor(settings, account_id)
        client = await stack.enter_async_context(connection.open_client(redis))
        if retention := await _find_retention(redis, connection, account):
            opened.retention[account_id] = retention
        opened.clients[account_id] = client
        opened.adapters[account_id] = connection.vendor.create_adapter(client, account)
        opened.job_pollers[account_id] = JobPoller(
            PollPolicy(account.poll_policy),
            DurationStore(redis, account_id),
            GuideSchedule(),
            deadline_seconds=account.job_deadline_seconds,
        )
    return opened


async def _find_retention(redis: Redis, connection: VendorConnection, account: VendorAccount) -> timedelta | None:
    """Return how long a vendor keeps figures: as the settings declare it or, without that, as the vendor reported it."""
    from cache_pipeline.redis_errors import REDIS_ERRORS
    from cache_pipeline.upstream.fact_store import FactStore

    days = account.retention_days
    if days is None and connection.vendor.read_facts is not None:
        try:
            days = await FactStore(redis, connection.config.keys).retention_days()
        except REDIS_ERRORS as error:
            logger.warning("%s: its retention could not be read: %s", connection.config.account, error)
    return None if days is None else timedelta(days=days)


@asynccontextmanager
async def open_quotas(settings: Settings) -> AsyncGenerator[dict[str, tuple[QuotaPolicy, Quota]]]:
    """Open the shared quota of each account, with its policy, by vendor and name.

    Raises:
        SettingsError: No Redis URL is set, or an account is wrong.
    """
    from cache_pipeline.redis_connection import open_redis
    from cache_pipeline.upstream.client import create_upstream_quota

    async with open_redis(settings.required_redis_url()) as redis:
        configs = {account_id: connect_vendor(settings, account_id).config for account_id in account_ids(settings)}
        yield {name: (config.policy, create_upstream_quota(config, redis)) for name, config in configs.items()}


async def quota_headroom(settings: Settings, report: Report, lane: Lane) -> QuotaHeadroom | None:
    """Return what a lane may send now, over all clients of the report's account; None if it is not set.

    Raises:
        SettingsError: No Redis URL is set.
    """
    from cache_pipeline.service.plan import QuotaHeadroom

    async with open_quotas(settings) as quotas:
        if report.account_id not in quotas:
            return None
        policy, quota = quotas[report.account_id]
        return QuotaHeadroom.of(
            policy, await quota.snapshot(), lane, await quota.shared_limits(), await quota.allotment(utc_now())
        )
