"""Runs all checks of a deployment concurrently. A check that fails or hangs does not hide the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pydantic import SecretStr
from redis.exceptions import RedisError

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.bootstrap.database import pending_migrations
from cache_pipeline.bootstrap.reports import load_all_reports
from cache_pipeline.check_result import CheckResult, CheckStatus
from cache_pipeline.doctor.databases import check_postgres, check_redis, check_replica
from cache_pipeline.doctor.logins import check_logins
from cache_pipeline.doctor.published_store import check_public_url, check_store
from cache_pipeline.doctor.vendor_accounts import check_permissions, check_quota
from cache_pipeline.errors import QuotaUnavailable, SettingsError
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.query.report import Report, account_setting
from cache_pipeline.settings import Settings, account_ids

_CHECK_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        subject: What it checks.
        remedy: What to do if the check itself fails or hangs.
        run: Runs the check.
    """

    subject: str
    remedy: str
    run: Callable[[], Awaitable[list[CheckResult]]]


async def run_checks(
    settings: Settings, clock: Callable[[], datetime], more: Iterable[Check] = ()
) -> list[CheckResult]:
    """Check everything the settings name, concurrently, each thing within twenty seconds.

    Args:
        settings: The settings of the deployment.
        clock: The current time, in UTC.
        more: Checks of the layers above this one.

    Returns:
        The results in a fixed order, declarations first.
    """
    reports, live_reports, declarations = _check_declarations(settings)
    postgres = partial(
        check_postgres, pending=partial(pending_migrations, settings, reports), reports=len(reports), clock=clock
    )
    redis = partial(check_redis, clock=clock)
    checks = [
        *_vendor_checks(settings, reports, live_reports, clock),
        Check("edge store", "check CACHE_PIPELINE_EDGE_URL", lambda: check_store(settings)),
        Check("edge readers", "check CACHE_PIPELINE_EDGE_PUBLIC_URL", lambda: check_public_url(settings, clock)),
        *more,
    ]
    found = await asyncio.gather(
        _check_server("PostgreSQL", "CACHE_PIPELINE_POSTGRES_URL", settings.postgres_url, postgres),
        *(
            [_check_server("PostgreSQL's read replica", "CACHE_PIPELINE_POSTGRES_READ_URL", replica, check_replica)]
            if (replica := settings.postgres_read_url)
            else []
        ),
        _check_server("Redis", "CACHE_PIPELINE_REDIS_URL", settings.redis_url, redis),
        *(run_check(check.subject, check.remedy, check.run) for check in checks),
    )
    return [*declarations, *(result for results in found for result in results)]


def _vendor_checks(
    settings: Settings,
    reports: Mapping[str, Report],
    live_reports: Mapping[str, LiveReport],
    clock: Callable[[], datetime],
) -> list[Check]:
    """Return the checks of each vendor account."""
    checks: list[Check] = []
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    for account_id in account_ids(settings):
        account = f"check {account_setting(account_id)}"
        try:
            connection = connect_vendor(settings, account_id)
        except SettingsError as error:
            result = CheckResult(f"account of {account_id}", CheckStatus.failed, str(error), account)
            checks.append(Check(f"account of {account_id}", account, partial(_return, result)))
            continue
        checks.append(Check(f"logins of {account_id}", account, partial(check_logins, connection)))
        if redis_url is not None:
            permissions = partial(check_permissions, connection, reports, live_reports, redis_url, clock)
            quota = partial(check_quota, connection, redis_url)
            for subject, remedy, check in (("permissions", account, permissions), ("quota", "check Redis", quota)):
                named = f"{subject} of {account_id}"
                checks.append(Check(named, remedy, partial(_check_through_redis, named, check)))
    return checks


async def _check_through_redis(subject: str, check: Callable[[], Awaitable[list[CheckResult]]]) -> list[CheckResult]:
    """Run a check that needs the shared quota. Without Redis nothing is known of what it would have checked."""
    try:
        return await check()
    except (RedisError, QuotaUnavailable):
        return [CheckResult(subject, CheckStatus.failed, "not checked: Redis cannot be used", "fix Redis first")]


async def _return(result: CheckResult) -> list[CheckResult]:
    return [result]


def _check_declarations(
    settings: Settings,
) -> tuple[Mapping[str, Report], Mapping[str, LiveReport], list[CheckResult]]:
    try:
        reports, live_reports = load_all_reports(settings)
    except DeclarationError as error:
        return {}, {}, [CheckResult("declarations", CheckStatus.failed, str(mistake)) for mistake in error.mistakes]
    needed = {report.account_id for report in (*reports.values(), *live_reports.values())}
    return (
        reports,
        live_reports,
        [
            CheckResult("declarations", CheckStatus.ok, f"{len(reports) + len(live_reports)} reports"),
            *(
                CheckResult(
                    f"account of {account_id}",
                    CheckStatus.failed,
                    "not set, but reports need it",
                    f"set {account_setting(account_id)}, or remove its reports",
                )
                for account_id in sorted(needed - set(account_ids(settings)))
            ),
        ],
    )


async def _check_server(
    subject: str, variable: str, url: SecretStr | None, check: Callable[[str], Awaitable[list[CheckResult]]]
) -> list[CheckResult]:
    if url is None:
        return [CheckResult(subject, CheckStatus.failed, "no URL is set", f"set {variable}")]
    return await run_check(
        subject, f"check {variable}, and that the server is running", lambda: check(url.get_secret_value())
    )


async def run_check(subject: str, remedy: str, check: Callable[[], Awaitable[list[CheckResult]]]) -> list[CheckResult]:
    """Run one check, and return its results or the reason why it has none."""
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            return await check()
    except TimeoutError:
        return [CheckResult(subject, CheckStatus.failed, f"no answer within {_CHECK_TIMEOUT_SECONDS:.0f} s", remedy)]
    except Exception as error:  # noqa: BLE001 - the other checks must run whatever this one raises
        # The driver's message may contain the URL with its password, so only the class is shown.
        return [CheckResult(subject, CheckStatus.failed, f"cannot be used ({type(error).__name__})", remedy)]
