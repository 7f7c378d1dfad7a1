"""Publishing the verified partitions of a run in which others failed.

A failed step or check stops all later steps, for every partition of the run. Partitions that passed all blocking checks
are therefore written to the tiers by the step that fails, in the order of the assets, each recorded by its own event.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import dagster as dg
import pyarrow as pa

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.check_events import EventLogger, partition_evaluation
from cache_pipeline.orchestration.drift_check import find_drift
from cache_pipeline.orchestration.naming import DRIFT_CHECK, TIERS_AGREE_CHECK, asset_key
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.service.consistency import compare_tiers
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import publishable_rows

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
    if not verified:
        return []
    intervals = [part.interval for part in verified]
    await service.store(report, verified)
    _log_materializations(report, "history", verified, log)
    spans = {part.key: part.interval for part in verified}
    findings = await asyncio.to_thread(find_drift, service.history, service.series(report), spans)
    for key, finding in findings.items():
        log(partition_evaluation(asset_key("history", report), DRIFT_CHECK, key, finding, blocking=False))
    if Tier.hot in report.publish.tiers:
        await service.hot.put(
            await service.cached_answers.render_many(service.series(report), intervals), service.clock()
        )
        _log_materializations(report, "hot", verified, log)
    if Tier.edge in report.publish.tiers:
        rows, provisional_from = await asyncio.to_thread(read_edge_rows, service, report, intervals)
        await asyncio.to_thread(edge.publish, report, rows, provisional_from)
        _log_materializations(report, "edge", verified, log)
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


def read_edge_rows(
    service: ReportService, report: Report, intervals: Sequence[Interval]
) -> tuple[dict[Interval, pa.Table], datetime | None]:
    """Read from history what the edge tier publishes: rows by interval, and the start of the provisional part if any."""
    history, series = service.history, service.series(report)
    provisional = history.coverage(series).provisional & IntervalSet(intervals)
    stored = history.rows(series, IntervalSet(intervals), service.columns(report))
    rows = {interval: publishable_rows(report, stored.within(interval)) for interval in intervals}
    return rows, next((part.start for part in provisional), None)


def _log_materializations(report: Report, layer: str, partitions: Sequence[FetchedPartition], log: EventLogger) -> None:
    for part in partitions:
        log(
            dg.AssetMaterialization(
                asset_key(layer, report),
                partition=part.key,
                metadata={"dagster/partition_row_count": part.rows.num_rows},
            )
        )
