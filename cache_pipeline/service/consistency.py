"""Whether the three tiers hold the same figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pyarrow as pa

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.schema import sort_rows
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import aggregate_for_publishing, is_publishable
from cache_pipeline.storage.published.files import published_rows


async def compare_tiers(
    service: ReportService, edge: EdgeTier, report: Report, intervals: Sequence[Interval]
) -> list[str]:
    """Hold hot and edge against history for some intervals.

    Returns:
        One sentence for each disagreement; empty when the tiers agree.
    """
    found: list[str] = []
    # A day of single conversations is no answer to hold in memory, unless dashboards are to be given just that.
    expected = (
        await service.cached_answers.render_many(service.series(report), intervals)
        if report.rows is None or Tier.hot in report.publish.tiers
        else None
    )
    if expected is not None and len(expected) < len(intervals):
        found.append(f"history holds {len(expected)} of {len(intervals)} intervals")
    for query, answer in expected or ():
        # A read goes through Redis and fills it, so what is compared is what a dashboard would get.
        served = await service.answer(report, query.interval)
        if json.loads(served.body)["rows"] != json.loads(answer.body)["rows"]:
            found.append(f"{query.interval}: Redis and history differ")
    for span in IntervalSet(intervals):
        kept = await asyncio.to_thread(_publishable, service, report, span)
        try:
            published = sort_rows(await asyncio.to_thread(edge.read, report, span))
        except EdgeStoreError as error:
            found.append(str(error))
            continue
        kept = published_rows(aggregate_for_publishing(report), kept)
        if not sort_rows(kept).cast(published.schema).equals(published):
            found.append(f"{span}: Parquet has {published.num_rows} rows, history {kept.num_rows}, or they differ")
    return found


def _publishable(service: ReportService, report: Report, span: Interval) -> pa.Table:
    return is_publishable(report, service.history.rows(service.series(report), [span], service.columns(report)))


def total(rows: pa.Table, column: str) -> int:
    """Sum of a counting column."""
    return round(sum(value or 0 for value in rows[column].to_pylist()))
