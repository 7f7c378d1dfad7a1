"""Checks what the vendors allow this deployment to do: the permissions that its reports need, and the shared quota."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from cache_pipeline.bootstrap import VendorConnection
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
from cache_pipeline.errors import LoginRefused, UpstreamError, UpstreamRefused
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.upstream.client import create_upstream_quota
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import ClientQuota, ClientState
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter
from cache_pipeline.vendors.genesys.adapter import GenesysAdapter
from cache_pipeline.vendors.genesys.permissions import PermissionMissing, permissions_needed

#: A person waits for the result, so a request that fails is reported, not repeated.
_NO_RETRIES = RetryPolicy(max_attempts=1, rate_limit_timeout_seconds=10.0)
#: The interval of the query that shows whether a client may query at all.
_PROBE_LENGTH = timedelta(minutes=30)
_PROBE_AGE = timedelta(days=2)
_FORBIDDEN = 403


async def check_permissions(
    connection: VendorConnection, reports: Mapping[str, Report], redis_url: str, clock: Callable[[], datetime]
) -> list[CheckResult]:
    """Check that each client of an account has the permissions that the reports need.

    This sends one request for each kind of query and client to Genesys, and one request for the tenant to CXone, through the
    shared quota like any other. The guide's contract has no way to check permissions before a report is queried.
    """
    kinds: dict[tuple[str, ...], list[Report]] = {}
    for report in reports.values():
        if report.platform == connection.config.account:
            kinds.setdefault(permissions_needed(report), []).append(report)
    if kinds and connection.platform is CxoneAdapter:
        return [await _check_extraction(connection, redis_url)]
    if not kinds or connection.platform is not GenesysAdapter:
        return []
    # On the hour, so that the interval is valid for every granularity.
    end = (clock() - _PROBE_AGE).replace(minute=0, second=0, microsecond=0)
    interval = Interval(end - _PROBE_LENGTH, end)
    async with _client(connection, redis_url) as client:
        checks = [
            _check_permission(GenesysAdapter(client), each.client_id, needed, affected, interval)
            for each in connection.config.clients
            for needed, affected in kinds.items()
        ]
        return [result for result in await asyncio.gather(*checks) if result is not None]


@asynccontextmanager
async def _client(connection: VendorConnection, redis_url: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with open_redis(redis_url) as redis, connection.open_client(redis, _NO_RETRIES) as client:
        yield client


async def _check_extraction(connection: VendorConnection, redis_url: str) -> CheckResult:
    """Check that the access key may use Data Extraction, by listing its jobs: the one call that a tenant has in 30 s."""
    subject = f"extraction by {connection.config.clients[0].client_id} ({connection.config.account})"
    retry = "run doctor again in half a minute, while no extraction runs"
    async with open_redis(redis_url) as redis:
        clients = await create_upstream_quota(connection.config, redis).snapshot()
    if any(each.used >= connection.config.policy.limit for each in clients):
        return CheckResult(
            subject, CheckStatus.warning, "not checked: the tenant's one call in 30 s was just made", retry
        )
    try:
        async with _client(connection, redis_url) as client:
            jobs = await CxoneAdapter(client).probe(Lane.interactive)
    except LoginRefused:
        return CheckResult(subject, CheckStatus.warning, "not checked: the login was refused", "fix the login first")
    except UpstreamRefused as error:
        # The vendor also answers 403 if another call of the tenant is running.
        status = CheckStatus.warning if error.status == _FORBIDDEN else CheckStatus.failed
        remedy = f"{retry}; if it fails again, give the access key's user the permission Extract Interaction Metadata"
        return CheckResult(subject, status, str(error), remedy)
    except UpstreamError as error:
        return CheckResult(subject, CheckStatus.warning, str(error).partition("; ")[0], "try again")
    return CheckResult(
        subject,
        CheckStatus.ok,
        f"{jobs} jobs listed; not checked, because it would cost a job: the permission to extract, and the extract's columns",
    )


async def _check_permission(
    genesys: GenesysAdapter, client_id: str, needed: tuple[str, ...], affected: list[Report], interval: Interval
) -> CheckResult | None:
    subject = f"permissions of {client_id} (genesys)"
    named = ", ".join(report.name for report in affected[:3]) + (
        f" and {len(affected) - 3} more" if len(affected) > 3 else ""
    )
    permission = " or ".join(needed)
    try:
        await genesys.probe(affected[0], interval, Lane.interactive, client_id)
    except PermissionMissing as error:
        remedy = f"give the OAuth client a role with {permission}, in every division whose figures you need"
        return CheckResult(
            subject, CheckStatus.failed, f"{' or '.join(error.permissions) or permission} is missing: {named}", remedy
        )
    except LoginRefused:
        # The check of the logins reports this.
        return None
    except UpstreamRefused as error:
        return CheckResult(
            subject, CheckStatus.failed, f"{named}: {error}", "correct the report's declaration, or ask the vendor"
        )
    except UpstreamError as error:
        return CheckResult(subject, CheckStatus.warning, f"{named}: {str(error).partition('; ')[0]}", "try again")
    return CheckResult(subject, CheckStatus.ok, f"{permission}: {named}")


async def check_quota(connection: VendorConnection, redis_url: str) -> list[CheckResult]:
    """Check the state of each client in the quota that all processes share.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    async with open_redis(redis_url) as redis:
        await redis.ping()
        return [
            _check_client_quota(connection.config.account, each)
            for each in await create_upstream_quota(connection.config, redis).snapshot()
        ]


def _check_client_quota(platform: str, client: ClientQuota) -> CheckResult:
    subject = f"quota of {client.client_id} ({platform})"
    answers = sum(client.answers_total.values())
    detail = f"{client.used} requests in the window, {client.rejected_total} of {answers} answers were 429"
    if client.state is ClientState.throttled and client.rejected_total:
        remedy = "wait; if it happens again, another application uses this OAuth client too: give this deployment its own client"
        return CheckResult(
            subject, CheckStatus.warning, f"paused for another {client.throttled_for_s:.0f} s; {detail}", remedy
        )
    if client.rejected_total > answers / 100:
        remedy = "lower rate_limit to what the vendor allows, and give this deployment its own OAuth clients"
        return CheckResult(subject, CheckStatus.warning, detail, remedy)
    return CheckResult(subject, CheckStatus.ok, detail)
