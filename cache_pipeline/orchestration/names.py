"""Names for ids: an asset for each listing that a declared report needs, read once a day."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from cache_pipeline.account_upkeep import lookups_by_account, refresh_names
from cache_pipeline.orchestration.resources import EngineResource, reported_failures
from cache_pipeline.query.report import Report
from cache_pipeline.vendors.spec import Lookup

if TYPE_CHECKING:
    from cache_pipeline.service.names import LookupResult

#: Before edge maintenance, which publishes the names with the page.
_DAILY_CRON = "0 3 * * *"


def names_job(account_id: str) -> str:
    """Return the name of the job that reads the listings of an account."""
    return f"names_{account_id.replace('/', '_')}_job"


def name_definitions(reports: Mapping[str, Report]) -> dg.Definitions:
    """Return the assets, jobs and schedules of names; nothing for vendors without listings."""
    return dg.Definitions.merge(
        *(_account_definitions(account_id, lookups) for account_id, lookups in lookups_by_account(reports).items())
    )


def _account_definitions(account_id: str, lookups: list[Lookup]) -> dg.Definitions:
    assets = [_names_asset(account_id, lookup) for lookup in lookups]
    job = dg.define_asset_job(
        names_job(account_id),
        selection=dg.AssetSelection.assets(*(asset.key for asset in assets)),
        description=f"Reads the names of what reports of {account_id} hold the ids of",
    )
    schedule = dg.ScheduleDefinition(
        name=names_job(account_id).removesuffix("_job") + "_schedule",
        job=job,
        cron_schedule=_DAILY_CRON,
        execution_timezone="UTC",
        description="Reads the names once a day",
    )
    return dg.Definitions(assets=assets, jobs=[job], schedules=[schedule])


def _names_asset(account_id: str, lookup: Lookup) -> dg.AssetsDefinition:
    vendor, _, account = account_id.partition("/")
    permission = f"; needs {lookup.permission}" if lookup.permission else ""

    @dg.asset(
        key=dg.AssetKey(["names", vendor, account, lookup.name]),
        group_name="names",
        description=f"Names of {lookup.name} of {account_id}, with the time for which each was valid{permission}",
        kinds={"postgres"},
        metadata={"dagster/storage_kind": "postgres", "dagster/table_name": "cache_pipeline_state.entity_name"},
        pool=f"{vendor}_api",
    )
    def names(context: dg.AssetExecutionContext, cache_pipeline__engine: EngineResource) -> dg.MaterializeResult[Any]:
        engine = cache_pipeline__engine
        with reported_failures(), engine.telemetry():
            result = asyncio.run(refresh_names(engine.settings, account_id, [lookup], engine.now()))[lookup.name]
        if result.is_new_problem:
            context.log.warning("%s: names are not updated: %s", lookup.name, result.problem)
        return dg.MaterializeResult(metadata=_metadata(result))

    return names


def _metadata(result: "LookupResult") -> dict[str, int | str]:
    if result.changes is None:
        return {"problem": result.problem or ""}
    return {
        "names": result.names,
        "requests": result.pages,
        "new or renamed": len(result.changes.opened),
        "no longer valid": len(result.changes.closed),
    }
