"""The checks on ``history``, in one step: of what a code location costs to load, most is its steps."""

from collections.abc import Iterator

import dagster as dg

from cache_pipeline.orchestration.drift_check import drift_result, drift_spec
from cache_pipeline.orchestration.inventory_check import inventory_result, inventory_spec
from cache_pipeline.orchestration.naming import DRIFT_CHECK, LEFT_CHECK
from cache_pipeline.orchestration.resources import EngineResource
from cache_pipeline.query.report import Report

_RESULTS = {DRIFT_CHECK: drift_result, LEFT_CHECK: inventory_result}


def history_checks(report: Report, partitions: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Drift, where the report has a tolerance, and what is left of it; neither blocks, and each can be made alone."""

    @dg.multi_asset_check(
        name=f"history_checks__{report.report}",
        specs=[spec for spec in (drift_spec(report), inventory_spec(report)) if spec],
        can_subset=True,
    )
    def check(context: dg.AssetCheckExecutionContext, engine: EngineResource) -> Iterator[dg.AssetCheckResult]:
        chosen = {key.name for key in context.selected_asset_check_keys}
        for name, result in _RESULTS.items():
            if name in chosen:
                yield result(context, engine, report, partitions)

    return check
