"""The check that the tiers a reader may ask hold the same figures."""

import asyncio
from collections.abc import Iterator

import dagster as dg

from cache_pipeline.orchestration.dagster_compat import with_signature
from cache_pipeline.orchestration.drift_check import drift_result, drift_spec
from cache_pipeline.orchestration.naming import AGREEMENT_CHECK, DRIFT_CHECK, LEFT_CHECK, asset_key
from cache_pipeline.orchestration.open_partitions_check import inventory_result, inventory_spec
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.service.consistency import compare_tiers


def agreement_spec(report: Report) -> dg.AssetCheckSpec | None:
    """The check on ``edge``; None where there is nothing to compare."""
    if Tier.edge not in report.publish.tiers:
        return None
    return dg.AssetCheckSpec(
        AGREEMENT_CHECK,
        asset=asset_key("edge", report),
        additional_deps=[asset_key("hot", report)] if Tier.hot in report.publish.tiers else [],
        description="Redis, PostgreSQL and Parquet hold the same rows",
    )


def agreement_result(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Compare what history, hot and edge hold of the run's partitions."""
    intervals = list(partition_intervals(partitions, keys_of_run(partitions, context.run.tags)).values())

    async def compare() -> list[str]:
        async with engine.service() as service:
            return await compare_tiers(service, engine.edge(), report, intervals)

    disagreements = asyncio.run(compare())
    return dg.AssetCheckResult(
        asset_key=asset_key("edge", report),
        check_name=AGREEMENT_CHECK,
        passed=not disagreements,
        description="; ".join(disagreements[:3]) or None,
        metadata={"partitions": len(intervals), "disagreements": len(disagreements)},
    )


_RESULTS = {DRIFT_CHECK: drift_result, LEFT_CHECK: inventory_result, AGREEMENT_CHECK: agreement_result}


def published_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Drift, where the report has a tolerance, what is left of it, and whether the tiers agree, where there are two.

    None blocks, and each can be made alone.
    """

    @dg.multi_asset_check(
        name=f"published_checks__{report.name}",
        specs=[spec for spec in (drift_spec(report), inventory_spec(report), agreement_spec(report)) if spec],
        can_subset=True,
    )
    @with_signature
    def check(context: dg.AssetCheckExecutionContext, engine: EngineResource) -> Iterator[dg.AssetCheckResult]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        for name, result in _RESULTS.items():
            if name in chosen:
                yield result(context, engine, report, partitions)

    return check
