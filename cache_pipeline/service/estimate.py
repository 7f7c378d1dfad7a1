"""Plan a backfill before anything is sent, as a query over its whole range."""

from __future__ import annotations

import asyncio

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.service.planner import Cost, Plan, QuotaHeadroom, StoredSeries, make_plan
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.coverage import Coverage


async def plan_backfill(
    service: ReportService,
    report: Report,
    span: Interval,
    room: QuotaHeadroom | None,
    *,
    staged: IntervalSet | None = None,
    refetch: bool = False,
) -> Plan:
    """How a backfill would be fetched as of now; it asks neither the hot tier nor other reports' rows, and neither does a backfill.

    Args:
        service: the engine.
        report: the declaration.
        span: from the start of the first partition to the end of the last.
        room: of the quota; without it nothing is said of waiting for it.
        staged: intervals whose proven rows lie on disk already.
        refetch: everything is asked for, whatever is held.

    Raises:
        InvalidInterval: none of it has begun.
    """
    query, series = service.query(report, span), service.series(report)
    coverage = (
        Coverage() if refetch else await asyncio.to_thread(service.history.coverage, series, query.available_interval)
    )
    besides = IntervalSet() if refetch or staged is None else staged
    held = Coverage(coverage.complete | besides, coverage.provisional - besides, coverage.watermark, coverage.fetched)
    learned = await asyncio.to_thread(service.history.chunk_cost, series)
    cost = Cost(*learned) if learned else None
    return make_plan(query, StoredSeries(report, service.columns(report), held), (), service.clock(), cost, room)
