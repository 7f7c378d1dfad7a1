"""Looks at everything the settings name, side by side; one thing that cannot be looked at hides none of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pydantic import SecretStr

from cache_pipeline.bootstrap import connect_vendor, load_reports
from cache_pipeline.doctor.check_result import CheckResult, CheckStatus
from cache_pipeline.doctor.databases import check_postgres, check_redis
from cache_pipeline.doctor.logins import check_logins
from cache_pipeline.doctor.published_store import check_public_url, check_store
from cache_pipeline.doctor.vendor_accounts import check_permissions, check_quota
from cache_pipeline.errors import SettingsError
from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings

_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Check:
    """One thing to be looked at.

    Attributes:
        subject: what it is.
        remedy: what to do where it cannot be looked at.
        take: looks.
    """

    subject: str
    remedy: str
    take: Callable[[], Awaitable[list[CheckResult]]]


async def run_checks(
    settings: Settings, clock: Callable[[], datetime], more: Iterable[Check] = ()
) -> list[CheckResult]:
    """Everything that can be said of a deployment from this machine, each thing within twenty seconds and side by side.

    Args:
        settings: what it stands on.
        clock: the time, in UTC.
        more: what floors above this one have to look at.

    Returns:
        Findings in a fixed order, declarations first.
    """
    reports, declarations = _declarations(settings)
    postgres = partial(check_postgres, reports=reports, clock=clock)
    redis = partial(check_redis, clock=clock)
    address = "check CACHE_PIPELINE_EDGE_URL"
    readers = "check CACHE_PIPELINE_EDGE_PUBLIC_URL"
    looks = [
        *_vendors(settings, reports, clock),
        Check("edge store", address, lambda: check_store(settings)),
        Check("edge readers", readers, lambda: check_public_url(settings, clock)),
        *more,
    ]
    found = await asyncio.gather(
        _store("PostgreSQL", "CACHE_PIPELINE_POSTGRES_URL", settings.postgres_url, postgres),
        _store("Redis", "CACHE_PIPELINE_REDIS_URL", settings.redis_url, redis),
        *(looked(look.subject, look.remedy, look.take) for look in looks),
    )
    return [*declarations, *(result for results in found for result in results)]


def _vendors(settings: Settings, reports: Mapping[str, Report], clock: Callable[[], datetime]) -> list[Check]:
    """What there is to be seen of each account."""
    looks: list[Check] = []
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    for name in settings.accounts():
        account = f"check CACHE_PIPELINE_{name.upper()}"
        try:
            link = connect_vendor(settings, name)
        except SettingsError as error:
            result = CheckResult(f"account of {name}", CheckStatus.failed, str(error), account)
            looks.append(Check(f"account of {name}", account, partial(_found, result)))
            continue
        looks.append(Check(f"logins of {name}", account, partial(check_logins, link)))
        if redis_url is not None:
            permissions = partial(check_permissions, link, reports, redis_url, clock)
            looks.append(Check(f"permissions of {name}", account, permissions))
            looks.append(Check(f"quota of {name}", "check Redis", partial(check_quota, link, redis_url)))
    return looks


async def _found(result: CheckResult) -> list[CheckResult]:
    return [result]


def _declarations(settings: Settings) -> tuple[Mapping[str, Report], list[CheckResult]]:
    try:
        reports = load_reports(settings)
    except DeclarationError as error:
        return {}, [CheckResult("declarations", CheckStatus.failed, str(mistake)) for mistake in error.mistakes]
    lacking = sorted({report.platform for report in reports.values()} - settings.accounts().keys())
    return reports, [
        CheckResult("declarations", CheckStatus.ok, f"{len(reports)} reports"),
        *(
            CheckResult(
                f"account of {platform}",
                CheckStatus.failed,
                "not set, though reports ask it",
                f"set CACHE_PIPELINE_{platform.upper()}, or remove its reports",
            )
            for platform in lacking
        ),
    ]


async def _store(
    subject: str, variable: str, url: SecretStr | None, look: Callable[[str], Awaitable[list[CheckResult]]]
) -> list[CheckResult]:
    if url is None:
        return [CheckResult(subject, CheckStatus.failed, "no URL is set", f"set {variable}")]
    return await looked(subject, f"check {variable} and that the server is up", lambda: look(url.get_secret_value()))


async def looked(subject: str, remedy: str, look: Callable[[], Awaitable[list[CheckResult]]]) -> list[CheckResult]:
    """What a look found, or that it could not be had in time."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await look()
    except TimeoutError:
        return [CheckResult(subject, CheckStatus.failed, f"no answer within {_PATIENCE_SECONDS:.0f} s", remedy)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other looks go on and the person reads it
        # A driver's own words may hold the URL it was given, password and all: its kind must do.
        return [CheckResult(subject, CheckStatus.failed, f"cannot be used ({type(error).__name__})", remedy)]
