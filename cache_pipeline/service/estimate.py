"""Estimates a backfill before anything is sent, by planning it as one query over its whole range."""

from __future__ import annotations

import asyncio

from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.service.plan import Cost, Plan, QuotaHeadroom, StoredSeries, make_plan
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.coverage import Coverage


async def plan_backfill(
    service: ReportService,
    report: Report,
    span: Interval,
    headroom: QuotaHeadroom | None,
    *,
    staged: IntervalSet | None = None,
    refetch: bool = False,
) -> Plan:
    """Plan a backfill as of now.

    Like the backfill itself, the plan reads neither the hot tier nor the rows of other reports.

    Args:
        service: The service that would run it.
        report: The report.
        span: From the start of the first partition to the end of the last.
        headroom: What the quota has left; without it the plan has no waiting time.
        staged: Intervals whose verified rows are staged on disk already.
        refetch: Whether everything is fetched, including what is stored.

    Raises:
        InvalidInterval: No part of the interval has begun.
    """
    query, series = service.query(report, span), service.series(report)
    coverages, measured = await asyncio.to_thread(
        service.history.coverages_with_cost, [series], query.available_interval, cost_of=series
    )
    coverage = Coverage() if refetch else coverages[series.id]
    stored = coverage.with_final(IntervalSet() if refetch or staged is None else staged)
    cost = Cost(*measured) if measured else None
    plan = make_plan(query, StoredSeries(report, service.columns(report), stored), (), service.clock(), cost)
    return plan.with_headroom(headroom)
