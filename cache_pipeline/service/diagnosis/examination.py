"""Looks at everything the settings name, side by side; one thing that cannot be looked at hides none of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial

from pydantic import SecretStr

from cache_pipeline.query.declarations import DeclarationError
from cache_pipeline.query.report import Report
from cache_pipeline.service.diagnosis.finding import Finding, Health
from cache_pipeline.service.diagnosis.stores import look_at_postgres, look_at_redis
from cache_pipeline.service.engine import declared_reports
from cache_pipeline.settings import Settings

_PATIENCE_SECONDS = 30.0


async def examine(settings: Settings, clock: Callable[[], datetime]) -> list[Finding]:
    """Everything that can be said of a deployment from this machine.

    Returns:
        Findings in a fixed order, declarations first.
    """
    reports, declarations = _declarations(settings)
    postgres = partial(look_at_postgres, reports=reports, clock=clock)
    redis = partial(look_at_redis, clock=clock)
    found = await asyncio.gather(
        _store("PostgreSQL", "CACHE_PIPELINE_POSTGRES_URL", settings.postgres_url, postgres),
        _store("Redis", "CACHE_PIPELINE_REDIS_URL", settings.redis_url, redis),
    )
    return [*declarations, *(finding for findings in found for finding in findings)]


def _declarations(settings: Settings) -> tuple[Mapping[str, Report], list[Finding]]:
    try:
        reports = declared_reports(settings)
    except DeclarationError as error:
        return {}, [Finding("declarations", Health.failed, str(mistake)) for mistake in error.mistakes]
    lacking = sorted({report.platform for report in reports.values()} - settings.accounts().keys())
    return reports, [
        Finding("declarations", Health.ok, f"{len(reports)} reports"),
        *(
            Finding(
                f"account of {platform}",
                Health.failed,
                "not set, though reports ask it",
                f"set CACHE_PIPELINE_{platform.upper()}, or remove its reports",
            )
            for platform in lacking
        ),
    ]


async def _store(
    subject: str, variable: str, url: SecretStr | None, look: Callable[[str], Awaitable[list[Finding]]]
) -> list[Finding]:
    if url is None:
        return [Finding(subject, Health.failed, "no URL is set", f"set {variable}")]
    return await looked(subject, f"check {variable} and that the server is up", lambda: look(url.get_secret_value()))


async def looked(subject: str, mend: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What a look found, or that it could not be had within half a minute."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            return await look()
    except TimeoutError:
        return [Finding(subject, Health.failed, f"no answer within {_PATIENCE_SECONDS:.0f} s", mend)]
    except Exception as error:  # noqa: BLE001 - whatever it is, the other looks go on and the person reads it
        # A driver's own words may hold the URL it was given, password and all: its kind must do.
        return [Finding(subject, Health.failed, f"cannot be used ({type(error).__name__})", mend)]
