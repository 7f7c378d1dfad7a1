"""Publishes what is proven of a run in which something failed.

A failed step or check stops everything behind it, for every partition of the run. What passed all blocking checks is
written to the tiers all the same, in the same run and in the order of the assets, each partition recorded for itself.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import dagster as dg
import pyarrow as pa

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.orchestration.check_events import Log, partition_evaluation
from cache_pipeline.orchestration.drift_check import drift_findings
from cache_pipeline.orchestration.naming import DRIFT_CHECK, asset_key
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.service.consistency import compare_tiers
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import is_publishable


async def publish(
    service: ReportService, edge: EdgeTier, report: Report, proven: Sequence[FetchedPartition], log: Log
) -> list[str]:
    """Write partitions to every tier of the report, tier by tier.

    Args:
        service: the engine.
        edge: the edge store.
        report: the declaration.
        proven: staged partitions that have passed every blocking check.
        log: takes what happened to each partition.

    Returns:
        Their keys.
    """
    if not proven:
        return []
    intervals = [part.interval for part in proven]
    await service.store(report, proven)
    _record(report, "history", proven, log)
    spans = {part.key: part.interval for part in proven}
    findings = await asyncio.to_thread(drift_findings, service.history, service.series(report), spans)
    for key, finding in findings.items():
        log(partition_evaluation(asset_key("history", report), DRIFT_CHECK, key, finding, blocking=False))
    if Tier.hot in report.publish.tiers:
        await service.hot.put(
            await service.cached_answers.render_many(service.series(report), intervals), service.clock()
        )
        _record(report, "hot", proven, log)
    if Tier.edge in report.publish.tiers:
        rows, provisional_from = await asyncio.to_thread(edge_cut, service, report, intervals)
        await asyncio.to_thread(edge.publish, report, rows, provisional_from)
        _record(report, "edge", proven, log)
        disagreements = await compare_tiers(service, edge, report, intervals)
        log(
            dg.AssetCheckEvaluation(
                asset_key=asset_key("edge", report),
                check_name="compare_tiers",
                passed=not disagreements,
                description="; ".join(disagreements[:3]) or None,
                metadata={"partitions": len(intervals), "disagreements": len(disagreements)},
            )
        )
    return [part.key for part in proven]


def edge_cut(
    service: ReportService, report: Report, intervals: Sequence[Interval]
) -> tuple[dict[Interval, pa.Table], datetime | None]:
    """What the edge tier publishes of some intervals: their rows as history holds them, and since when provisional."""
    history, series = service.history, service.series(report)
    provisional = history.coverage(series).provisional & IntervalSet(intervals)
    held = history.rows(series, IntervalSet(intervals), service.columns(report))
    rows = {interval: is_publishable(report, held.within(interval)) for interval in intervals}
    return rows, next((part.start for part in provisional), None)


def _record(report: Report, layer: str, proven: Sequence[FetchedPartition], log: Log) -> None:
    for part in proven:
        log(
            dg.AssetMaterialization(
                asset_key(layer, report),
                partition=part.key,
                metadata={"dagster/partition_row_count": part.rows.num_rows},
            )
        )
