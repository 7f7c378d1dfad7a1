"""Compares the figures that hot, history and edge hold for the same intervals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.publication import published_report
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.service.publish import Availability
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import publishable_rows
from cache_pipeline.storage.published.files import restrict_rows


async def compare_tiers(
    service: ReportService, edge: EdgeTier, report: Report, intervals: Sequence[Interval]
) -> list[str]:
    """Compare hot and edge with history for some intervals.

    Args:
        service: Reads hot and history.
        edge: The edge tier.
        report: The report.
        intervals: What to compare.

    Returns:
        One sentence for each difference; empty if the tiers agree.
    """
    differences: list[str] = []
    # A day of single rows is too large to render in memory, unless dashboards are served it.
    expected = (
        await service.cached_answers.render_many(service.series(report), intervals)
        if report.rows is None or Tier.hot in report.publish.tiers
        else None
    )
    if expected is not None and len(expected) < len(intervals):
        differences.append(f"history holds only {len(expected)} of {len(intervals)} intervals")
    for query, answer in expected or ():
        # This read goes through Redis and fills it, so the comparison sees what a dashboard would get.
        served = await service.answer(report, query.interval)
        if json.loads(served.body)["rows"] != json.loads(answer.body)["rows"]:
            differences.append(f"{query.interval}: Redis and history differ")
    differences += await asyncio.to_thread(_compare_coverage, service, edge, report, intervals)
    for span in IntervalSet(intervals):
        stored = await asyncio.to_thread(_publishable_rows, service, report, span)
        try:
            published = sort_rows(await asyncio.to_thread(edge.read, report, span))
        except EdgeStoreError as error:
            differences.append(str(error))
            continue
        stored = restrict_rows(published_report(report), stored)
        if not sort_rows(stored).cast(published.schema).equals(published):
            differences.append(
                f"{span}: Parquet has {published.num_rows} rows and history {stored.num_rows}, or their figures differ"
            )
    return differences


def _compare_coverage(
    service: ReportService, edge: EdgeTier, report: Report, intervals: Sequence[Interval]
) -> list[str]:
    """Compare which intervals edge and history claim to hold; an interval without rows shows no other difference."""
    wanted, dataset = IntervalSet(intervals), edge.manifest().datasets.get(report.name)
    stored = Availability.of(service.history.coverage(service.series(report)), intervals).stored
    published = IntervalSet(part for file in (dataset.files if dataset else ()) for part in file.covered_intervals())
    return [
        *(f"{part}: Parquet claims to hold it, and history does not" for part in (published & wanted) - stored),
        *(f"{part}: history holds it, and Parquet does not" for part in stored - published),
    ]


def _publishable_rows(service: ReportService, report: Report, span: Interval) -> pa.Table:
    return publishable_rows(report, service.history.rows(service.series(report), [span], service.columns(report)))
