"""Publishing the verified partitions of a run in which others failed.

A failed step or check stops all later steps, for every partition of the run. Partitions that passed all blocking checks
are therefore written to the tiers by the step that fails, in the order of the assets, each recorded by its own event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.check_events import EventLogger, partition_evaluation
from cache_pipeline.orchestration.drift_check import find_drift
from cache_pipeline.orchestration.naming import DRIFT_CHECK, TIERS_AGREE_CHECK, asset_key
from cache_pipeline.query.report import Report, Tier

# As in resources.py, what takes long to import is imported by the function that needs it.
if TYPE_CHECKING:
    from cache_pipeline.service.report_service import ReportService
    from cache_pipeline.storage.published import EdgeTier

_MAX_DIFFERENCES = 3


async def publish_partitions(
    service: ReportService, edge: EdgeTier, report: Report, verified: Sequence[FetchedPartition], log: EventLogger
) -> list[str]:
    """Write partitions to every tier of the report, tier by tier, and log an event for each.

    Args:
        service: The report service.
        edge: The edge tier.
        report: The report.
        verified: Staged partitions that have passed every blocking check.
        log: Receives the events.

    Returns:
        The keys of the partitions.
    """
    from cache_pipeline.service.consistency import compare_tiers
    from cache_pipeline.service.publish import publish

    if not verified:
        return []
    intervals = [part.interval for part in verified]
    for tier in (Tier.history, Tier.hot, Tier.edge):
        if tier not in report.publish.tiers:
            continue
        await publish(service, lambda: edge, report, verified, {tier})
        _log_materializations(report, str(tier), verified, log)
        if tier is Tier.history:
            spans = {part.key: part.interval for part in verified}
            findings = await asyncio.to_thread(find_drift, service.history, service.series(report), spans)
            for key, finding in findings.items():
                log(partition_evaluation(asset_key("history", report), DRIFT_CHECK, key, finding, blocking=False))
    if Tier.edge in report.publish.tiers:
        differences = await compare_tiers(service, edge, report, intervals)
        log(
            dg.AssetCheckEvaluation(
                asset_key=asset_key("edge", report),
                check_name=TIERS_AGREE_CHECK,
                passed=not differences,
                description="; ".join(differences[:_MAX_DIFFERENCES]) or None,
                metadata={"partitions": len(intervals), "differences": len(differences)},
            )
        )
    return [part.key for part in verified]


def _log_materializations(report: Report, layer: str, partitions: Sequence[FetchedPartition], log: EventLogger) -> None:
    for part in partitions:
        log(
            dg.AssetMaterialization(
                asset_key(layer, report),
                partition=part.key,
                metadata={"dagster/partition_row_count": part.rows.num_rows},
            )
        )
