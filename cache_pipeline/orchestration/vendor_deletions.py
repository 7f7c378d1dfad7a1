"""Forgets once a day the people whose data the vendors have deleted on request, if the settings say so.

See https://docs.dagster.io/guides/automate/schedules
"""

import asyncio
from collections.abc import Mapping

import dagster as dg

from cache_pipeline.account_upkeep import follow_deletions
from cache_pipeline.orchestration.dagster_compat import instance_tables
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.report import Report
from cache_pipeline.service.forget import FollowedDeletion
from cache_pipeline.settings import Settings

DELETIONS_JOB = "vendor_deletions_job"
#: Before names are read and files published, so that both lack the person.
_DAILY_CRON = "30 2 * * *"


def vendor_deletion_definitions(settings: Settings, reports: Mapping[str, Report]) -> dg.Definitions:
    """Return the job and schedule, or nothing if the vendors' requests are not followed."""
    if settings.vendor_deletions == "off":
        return dg.Definitions()

    @dg.op(description="Forget whoever the vendors have deleted on request; the log names no person")
    def follow_vendor_deletions(context: dg.OpExecutionContext, cache_pipeline__engine: EngineResource) -> None:
        engine = cache_pipeline__engine
        with reported_failures(), engine.telemetry():
            followed = asyncio.run(_follow(engine.settings, reports))
        for each in followed:
            context.log.info("%s: request %s was followed", each.account, each.request)
        if left := [each.request for each in followed if not each.is_complete]:
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


async def _follow(settings: Settings, reports: Mapping[str, Report]) -> list[FollowedDeletion]:
    is_kept = settings.vendor_deletions == "pseudonymise"
    following = follow_deletions(settings, reports, pseudonymise=is_kept, dagster_tables=instance_tables())
    return [each async for each in following]
