"""What the vendors let this deployment do: the permissions that its reports need, and the quota as it stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from redis.asyncio import Redis

from cache_pipeline.bootstrap import VendorConnection
from cache_pipeline.doctor.finding import Finding, Health
from cache_pipeline.errors import LoginRefused, UpstreamError, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.upstream.client import create_upstream_quota
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import ClientQuota, ClientState
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.permissions import PermissionMissing, permissions_needed

_REDIS_SECONDS = 5.0
#: Somebody waits: what does not answer is told of, not repeated.
_ONCE = RetryPolicy(max_attempts=1, rate_limit_timeout_seconds=10.0)
#: Asked for so as to learn whether it may be asked for.
_ASKED_FOR = timedelta(minutes=30)
_PROBED_AGO = timedelta(days=2)
_FORBIDDEN = 403


async def check_permissions(
    link: VendorConnection, reports: Mapping[str, Report], redis_url: str, clock: Callable[[], datetime]
) -> list[Finding]:
    """Whether each client of an account may ask for what the reports need.

    Of Genesys one request for each kind and client, of CXone one for the tenant; they go through the shared quota like any
    other. The guide's contract says nothing of permissions before a report is asked for.
    """
    kinds: dict[tuple[str, ...], list[Report]] = {}
    for report in reports.values():
        if report.platform == link.config.platform:
            kinds.setdefault(permissions_needed(report), []).append(report)
    if kinds and link.platform is CxoneAdapter:
        return [await _extraction(link, redis_url)]
    if not kinds or link.platform is not GenesysAdapter:
        return []
    # To the hour, so that no granularity of the vendor's is too coarse for it.
    end = (clock() - _PROBED_AGO).replace(minute=0, second=0, microsecond=0)
    interval = Interval(end - _ASKED_FOR, end)
    async with _client(link, redis_url) as client:
        looks = [
            _permission(GenesysAdapter(client), each.client_id, needed, wanting, interval)
            for each in link.config.clients
            for needed, wanting in kinds.items()
        ]
        return [finding for finding in await asyncio.gather(*looks) if finding is not None]


@asynccontextmanager
async def _client(link: VendorConnection, redis_url: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with _redis(redis_url) as redis, link.door(redis, _ONCE) as client:
        yield client


def _redis(redis_url: str) -> Redis:
    return Redis.from_url(redis_url, socket_connect_timeout=_REDIS_SECONDS, socket_timeout=_REDIS_SECONDS)


async def _extraction(link: VendorConnection, redis_url: str) -> Finding:
    """Whether the access key may use Data Extraction, by a list of its jobs: the one call that a tenant has in 30 s."""
    subject = f"extraction by {link.config.clients[0].client_id} ({link.config.platform})"
    again = "run it again in half a minute, with no extraction under way"
    async with _redis(redis_url) as redis:
        standing = await create_upstream_quota(link.config, redis).snapshot()
    if any(each.used >= link.config.policy.limit for each in standing):
        return Finding(subject, Health.warning, "not asked: the tenant's one call in 30 s was just made", again)
    try:
        async with _client(link, redis_url) as client:
            jobs = await CxoneAdapter(client).probe(Lane.interactive)
    except LoginRefused:
        return Finding(subject, Health.warning, "not asked: the login was refused", "mend the login first")
    except UpstreamRefused as error:
        # The tenant may be busy with somebody else's call, which is answered with 403 too.
        health = Health.warning if error.status == _FORBIDDEN else Health.failed
        mend = f"{again}; where it stays so, give the access key's user the permission Extract Interaction Metadata"
        return Finding(subject, health, str(error), mend)
    except UpstreamError as error:
        return Finding(subject, Health.warning, str(error).partition("; ")[0], "try again")
    return Finding(
        subject,
        Health.ok,
        f"{jobs} jobs are listed; not tried, for it costs a job: the permission to extract, and which columns an extract has",
    )


async def _permission(
    genesys: GenesysAdapter, client_id: str, needed: tuple[str, ...], wanting: list[Report], interval: Interval
) -> Finding | None:
    subject = f"permissions of {client_id} (genesys)"
    named = ", ".join(report.report for report in wanting[:3]) + (
        f" and {len(wanting) - 3} more" if len(wanting) > 3 else ""
    )
    permission = " or ".join(needed)
    try:
        await genesys.probe(wanting[0], interval, Lane.interactive, client_id)
    except PermissionMissing as error:
        mend = f"give the OAuth client a role with {permission}, in every division whose figures you want"
        return Finding(
            subject, Health.failed, f"{' or '.join(error.permissions) or permission} is missing: {named}", mend
        )
    except LoginRefused:
        # Told of with the logins.
        return None
    except UpstreamRefused as error:
        return Finding(subject, Health.failed, f"{named}: {error}", "mend the declaration, or ask the vendor about it")
    except UpstreamError as error:
        return Finding(subject, Health.warning, f"{named}: {str(error).partition('; ')[0]}", "try again")
    return Finding(subject, Health.ok, f"{permission}: {named}")


async def check_quota(link: VendorConnection, redis_url: str) -> list[Finding]:
    """How each client stands in the quota that all processes share.

    Raises:
        redis.exceptions.RedisError: it cannot be read.
    """
    async with _redis(redis_url) as redis:
        await redis.ping()
        return [
            _standing(link.config.platform, each) for each in await create_upstream_quota(link.config, redis).snapshot()
        ]


def _standing(platform: str, client: ClientQuota) -> Finding:
    subject = f"quota of {client.client_id} ({platform})"
    answers = sum(client.answers_total.values())
    told = f"{client.used} requests in the window, {client.rejected_total} of {answers} answers were 429"
    if client.state is ClientState.throttled and client.rejected_total:
        mend = "wait; where it stays so, somebody else uses this OAuth client too: give this deployment one of its own"
        return Finding(subject, Health.warning, f"paused for {client.throttled_for_s:.0f} s more; {told}", mend)
    if client.rejected_total > answers / 100:
        mend = "lower requests_per_window to what the vendor allows, and give this deployment OAuth clients of its own"
        return Finding(subject, Health.warning, told, mend)
    return Finding(subject, Health.ok, told)
