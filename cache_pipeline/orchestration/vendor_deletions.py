"""Forgets once a day the people whose data the vendors have deleted on request, if the settings say so.

See https://docs.dagster.io/guides/automate/schedules
"""

import asyncio
from collections.abc import Mapping

import dagster as dg

from cache_pipeline.followed_deletions import follow_deletions
from cache_pipeline.orchestration.dagster_compat import instance_tables
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.report import Report
from cache_pipeline.settings import Settings

DELETIONS_JOB = "vendor_deletions_job"
#: Before names are read and files published, so that both lack the person.
_DAILY_CRON = "30 2 * * *"


def vendor_deletion_definitions(settings: Settings, reports: Mapping[str, Report]) -> dg.Definitions:
    """Return the job and schedule, or nothing if the vendors' requests are not followed."""
    if settings.vendor_deletions == "off":
        return dg.Definitions()

    @dg.op(description="Forget the people whose data the vendors have deleted on request; the log names no person")
    def follow_vendor_deletions(context: dg.OpExecutionContext, cache_pipeline__engine: EngineResource) -> None:
        engine = cache_pipeline__engine
        with reported_failures(), engine.telemetry():
            left = asyncio.run(_follow(context, engine.settings, reports))
        if left:
            raise dg.Failure(
                f"something still names the person of request {', '.join(left)}: run cache-pipeline forget --from-vendor, whose receipt "
                "says what"
            )

    @dg.job(name=DELETIONS_JOB, description="Follow the vendors' requests to delete a person's data, each once")
    def job() -> None:
        follow_vendor_deletions()

    schedule = dg.ScheduleDefinition(
        name="vendor_deletions_schedule",
        job=job,
        cron_schedule=_DAILY_CRON,
        execution_timezone="UTC",
        description="Follows the vendors' requests once a day",
    )
    return dg.Definitions(jobs=[job], schedules=[schedule])


async def _follow(context: dg.OpExecutionContext, settings: Settings, reports: Mapping[str, Report]) -> list[str]:
    """Follow the requests, and log each before the next one is begun. Return the ids of those that are not complete."""
    left: list[str] = []
    is_kept = settings.vendor_deletions == "pseudonymise"
    following = follow_deletions(settings, reports, pseudonymise=is_kept, dagster_tables=instance_tables())
    async for each in following:
        state = "was followed" if each.is_complete else "is not complete"
        skipped = f"; {each.skipped} of its ids cannot be searched for" if each.skipped else ""
        context.log.info(f"{each.account}: request {each.request} {state}{skipped}")
        if not each.is_complete:
            left.append(each.request)
    return left
