"""The checks on what is published, in one step: of what a code location costs to load, most is its steps."""

from collections.abc import Iterator

import dagster as dg

from cache_pipeline.orchestration.agreement_check import agreement_result, agreement_spec
from cache_pipeline.orchestration.drift_check import drift_result, drift_spec
from cache_pipeline.orchestration.inventory_check import inventory_result, inventory_spec
from cache_pipeline.orchestration.naming import AGREEMENT_CHECK, DRIFT_CHECK, LEFT_CHECK
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.orchestration.signatures import signed
from cache_pipeline.query.report import Report

_RESULTS = {DRIFT_CHECK: drift_result, LEFT_CHECK: inventory_result, AGREEMENT_CHECK: agreement_result}


def published_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Drift, where the report has a tolerance, what is left of it, and whether the tiers agree, where there are two.

    None blocks, and each can be made alone.
    """

    @dg.multi_asset_check(
        name=f"published_checks__{report.report}",
        specs=[spec for spec in (drift_spec(report), inventory_spec(report), agreement_spec(report)) if spec],
        can_subset=True,
    )
    @signed
    def check(context: dg.AssetCheckExecutionContext, engine: EngineResource) -> Iterator[dg.AssetCheckResult]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        for name, result in _RESULTS.items():
            if name in chosen:
                yield result(context, engine, report, partitions)

    return check
