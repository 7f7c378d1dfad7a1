"""What the vendors let this deployment do: the permissions that its reports need, and the quota as it stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from redis.asyncio import Redis

from cache_pipeline.bootstrap import VendorConnection
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
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
#: Somebody waits: what does not answer is detail of, not repeated.
_ONCE = RetryPolicy(max_attempts=1, rate_limit_timeout_seconds=10.0)
#: Asked for so as to learn whether it may be asked for.
_ASKED_FOR = timedelta(minutes=30)
_PROBED_AGO = timedelta(days=2)
_FORBIDDEN = 403


async def check_permissions(
    link: VendorConnection, reports: Mapping[str, Report], redis_url: str, clock: Callable[[], datetime]
) -> list[CheckResult]:
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
        return [result for result in await asyncio.gather(*looks) if result is not None]


@asynccontextmanager
async def _client(link: VendorConnection, redis_url: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with _redis(redis_url) as redis, link.open_client(redis, _ONCE) as client:
        yield client


def _redis(redis_url: str) -> Redis:
    return Redis.from_url(redis_url, socket_connect_timeout=_REDIS_SECONDS, socket_timeout=_REDIS_SECONDS)


async def _extraction(link: VendorConnection, redis_url: str) -> CheckResult:
    """Whether the access key may use Data Extraction, by a list of its jobs: the one call that a tenant has in 30 s."""
    subject = f"extraction by {link.config.clients[0].client_id} ({link.config.platform})"
    again = "run it again in half a minute, with no extraction under way"
    async with _redis(redis_url) as redis:
        standing = await create_upstream_quota(link.config, redis).snapshot()
    if any(each.used >= link.config.policy.limit for each in standing):
        return CheckResult(
            subject, CheckStatus.warning, "not asked: the tenant's one call in 30 s was just made", again
        )
    try:
        async with _client(link, redis_url) as client:
            jobs = await CxoneAdapter(client).probe(Lane.interactive)
    except LoginRefused:
        return CheckResult(subject, CheckStatus.warning, "not asked: the login was refused", "remedy the login first")
    except UpstreamRefused as error:
        # The tenant may be busy with somebody else's call, which is answered with 403 too.
        status = CheckStatus.warning if error.status == _FORBIDDEN else CheckStatus.failed
        remedy = f"{again}; where it stays so, give the access key's user the permission Extract Interaction Metadata"
        return CheckResult(subject, status, str(error), remedy)
    except UpstreamError as error:
        return CheckResult(subject, CheckStatus.warning, str(error).partition("; ")[0], "try again")
    return CheckResult(
        subject,
        CheckStatus.ok,
        f"{jobs} jobs are listed; not tried, for it costs a job: the permission to extract, and which columns an extract has",
    )


async def _permission(
    genesys: GenesysAdapter, client_id: str, needed: tuple[str, ...], wanting: list[Report], interval: Interval
) -> CheckResult | None:
    subject = f"permissions of {client_id} (genesys)"
    named = ", ".join(report.name for report in wanting[:3]) + (
        f" and {len(wanting) - 3} more" if len(wanting) > 3 else ""
    )
    permission = " or ".join(needed)
    try:
        await genesys.probe(wanting[0], interval, Lane.interactive, client_id)
    except PermissionMissing as error:
        remedy = f"give the OAuth client a role with {permission}, in every division whose figures you want"
        return CheckResult(
            subject, CheckStatus.failed, f"{' or '.join(error.permissions) or permission} is missing: {named}", remedy
        )
    except LoginRefused:
        # Told of with the logins.
        return None
    except UpstreamRefused as error:
        return CheckResult(
            subject, CheckStatus.failed, f"{named}: {error}", "remedy the declaration, or ask the vendor about it"
        )
    except UpstreamError as error:
        return CheckResult(subject, CheckStatus.warning, f"{named}: {str(error).partition('; ')[0]}", "try again")
    return CheckResult(subject, CheckStatus.ok, f"{permission}: {named}")


async def check_quota(link: VendorConnection, redis_url: str) -> list[CheckResult]:
    """How each client stands in the quota that all processes share.

    Raises:
        redis.exceptions.RedisError: it cannot be read.
    """
    async with _redis(redis_url) as redis:
        await redis.ping()
        return [
            _standing(link.config.platform, each) for each in await create_upstream_quota(link.config, redis).snapshot()
        ]


def _standing(platform: str, client: ClientQuota) -> CheckResult:
    subject = f"quota of {client.client_id} ({platform})"
    answers = sum(client.answers_total.values())
    detail = f"{client.used} requests in the window, {client.rejected_total} of {answers} answers were 429"
    if client.state is ClientState.throttled and client.rejected_total:
        remedy = (
            "wait; where it stays so, somebody else uses this OAuth client too: give this deployment one of its own"
        )
        return CheckResult(
            subject, CheckStatus.warning, f"paused for {client.throttled_for_s:.0f} s more; {detail}", remedy
        )
    if client.rejected_total > answers / 100:
        remedy = (
            "lower requests_per_window to what the vendor allows, and give this deployment OAuth clients of its own"
        )
        return CheckResult(subject, CheckStatus.warning, detail, remedy)
    return CheckResult(subject, CheckStatus.ok, detail)
