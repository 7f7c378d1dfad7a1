"""Checks what the vendors allow this deployment to do: the permissions that its reports need, and the shared quota."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from cache_pipeline.bootstrap.accounts import VendorConnection
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.upstream.client import create_upstream_quota
from cache_pipeline.upstream.config import RetryPolicy
from cache_pipeline.upstream.quota import ClientQuota, ClientState
from cache_pipeline.vendors.spec import DoctorContext

#: A person waits for the result, so a request that fails is reported, not repeated.
_NO_RETRIES = RetryPolicy(max_attempts=1, rate_limit_timeout_seconds=10.0)


async def check_permissions(
    connection: VendorConnection,
    reports: Mapping[str, Report],
    live_reports: Mapping[str, LiveReport],
    redis_url: str,
    clock: Callable[[], datetime],
) -> list[CheckResult]:
    """Check that each client of an account has the permissions that the account's reports need.

    The vendor's checks send as few requests as possible, through the shared quota like any other.
    """
    fetched = [report for report in reports.values() if report.account_id == connection.config.account]
    live = [report for report in live_reports.values() if report.account_id == connection.config.account]
    if not fetched and not live:
        return []
    async with open_redis(redis_url) as redis, connection.open_client(redis, _NO_RETRIES) as client:
        clients = await create_upstream_quota(connection.config, redis).snapshot()
        context = DoctorContext(
            account_id=connection.config.account,
            account=connection.account,
            client=client,
            reports=fetched,
            live_reports=live,
            now=clock(),
            is_quota_used=any(each.used >= connection.config.policy.limit for each in clients),
        )
        return await connection.vendor.check_permissions(context)


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


def _check_client_quota(account_id: str, client: ClientQuota) -> CheckResult:
    subject = f"quota of {client.client_id} ({account_id})"
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
