"""The checks on published figures, as one step: drift, open partitions, and whether the tiers agree. None of them blocks.

``drift`` and ``no_open_partitions`` have modules of their own; ``tiers_agree`` is defined here.
"""

import asyncio
from collections.abc import Iterator

import dagster as dg

from cache_pipeline.orchestration.dagster_compat import cache_signature
from cache_pipeline.orchestration.drift_check import drift_spec, evaluate_drift
from cache_pipeline.orchestration.naming import DRIFT_CHECK, OPEN_PARTITIONS_CHECK, TIERS_AGREE_CHECK, asset_key
from cache_pipeline.orchestration.open_partitions_check import evaluate_open_partitions, open_partitions_spec
from cache_pipeline.orchestration.partitions import keys_of_run, partition_intervals
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.report import Report, Tier

_MAX_DIFFERENCES = 3


def published_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Return the definition of the checks that apply to a report; each can be run alone."""
    specs = (drift_spec(report), open_partitions_spec(report), tiers_agree_spec(report))

    @dg.multi_asset_check(
        name=f"published_checks__{report.name}", specs=[spec for spec in specs if spec], can_subset=True
    )
    @cache_signature
    def check(
        context: dg.AssetCheckExecutionContext, cache_pipeline__engine: EngineResource
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {key.name for key in context.selected_asset_check_keys}
        for name, evaluate in _EVALUATORS.items():
            if name in selected:
                yield evaluate(context, cache_pipeline__engine, report, partitions)

    return check


def tiers_agree_spec(report: Report) -> dg.AssetCheckSpec | None:
    """Return the spec of the check on ``edge``, or None for a report without the edge tier."""
    if Tier.edge not in report.publish.tiers:
        return None
    return dg.AssetCheckSpec(
        TIERS_AGREE_CHECK,
        asset=asset_key("edge", report),
        additional_deps=[asset_key("hot", report)] if Tier.hot in report.publish.tiers else [],
        description="Redis, PostgreSQL and Parquet hold the same rows",
    )


def evaluate_tiers_agree(
    context: dg.AssetCheckExecutionContext,
    engine: EngineResource,
    report: Report,
    partitions: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetCheckResult:
    """Compare what history, hot and edge hold of the run's partitions."""
    # As in resources.py, imported by what needs it.
    from cache_pipeline.service.consistency import compare_tiers

    intervals = list(partition_intervals(partitions, keys_of_run(partitions, context.run.tags)).values())

    async def compare() -> list[str]:
        async with engine.service() as service:
            return await compare_tiers(service, engine.edge(), report, intervals)

    differences = asyncio.run(compare())
    return dg.AssetCheckResult(
        asset_key=asset_key("edge", report),
        check_name=TIERS_AGREE_CHECK,
        passed=not differences,
        description="; ".join(differences[:_MAX_DIFFERENCES]) or None,
        metadata={"partitions": len(intervals), "differences": len(differences)},
    )


_EVALUATORS = {
    DRIFT_CHECK: evaluate_drift,
    OPEN_PARTITIONS_CHECK: evaluate_open_partitions,
    TIERS_AGREE_CHECK: evaluate_tiers_agree,
}
