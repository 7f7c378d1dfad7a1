"""Publish to the tiers: the one implementation that writes history, hot and edge.

IO managers, runs of which a part failed, and republication all end here, so that one rule decides what of an interval is
complete, provisional or absent. Nothing that history's coverage lacks is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report, Tier
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import Series
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import History
from cache_pipeline.storage.ports.hot import MAX_HOT_BYTES
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import publishable_rows
from cache_pipeline.storage.published.edge_tier import Publication


@dataclass(frozen=True)
class Availability:
    """What history holds of some intervals. The three parts do not overlap.

    Attributes:
        final: Complete, and can no longer change.
        provisional: Complete as far as is known, and may still change.
        absent: Never fetched, or not kept; nothing may be said about it.
    """

    final: IntervalSet
    provisional: IntervalSet
    absent: IntervalSet

    @classmethod
    def of(cls, coverage: Coverage, intervals: Iterable[Interval]) -> Availability:
        """Divide intervals by a coverage."""
        wanted = IntervalSet(intervals)
        provisional = coverage.provisional & wanted
        final = (coverage.final & wanted) - provisional
        return cls(final, provisional, wanted - final - provisional)

    @property
    def stored(self) -> IntervalSet:
        """The part that history holds, final or not."""
        return self.final | self.provisional


@dataclass(frozen=True)
class Published:
    """What one call of ``publish`` wrote.

    Attributes:
        rows: The number of rows written to history, or else to edge.
        answers: The number of answers written to hot.
        bytes: Their size.
        edge: The publication, or None if nothing was published.
        absent: What edge could not be given, because history does not hold it.
    """

    rows: int = 0
    answers: int = 0
    bytes: int = 0
    edge: Publication | None = None
    absent: IntervalSet = field(default_factory=IntervalSet)


async def publish(
    service: ReportService,
    edge: Callable[[], EdgeTier],
    report: Report,
    partitions: Sequence[FetchedPartition | Interval],
    tiers: Collection[Tier],
) -> Published:
    """Write partitions to some tiers: history first, then what history holds of them to hot and edge.

    Args:
        service: The report service.
        edge: Opens the edge tier; called only if it is written to.
        report: The declaration that the partitions were fetched with.
        partitions: What to publish. History is written from fetched partitions only; for the others an interval is enough.
        tiers: The tiers to write to.

    Returns:
        What was written. Tiers that hold the same already count too.

    Raises:
        SeriesMismatch: A partition was fetched with a declaration of another meaning; nothing is written.
        EdgeStoreError: The edge store refused; the other tiers are written.
    """
    series = service.series(report)
    fetched = [part for part in partitions if isinstance(part, FetchedPartition)]
    intervals = [part.interval if isinstance(part, FetchedPartition) else part for part in partitions]
    rows = answers = size = 0
    publication, absent = None, IntervalSet()
    if Tier.history in tiers:
        await service.store(report, fetched)
        rows = sum(part.rows.num_rows for part in fetched)
    if Tier.hot in tiers:
        rendered = [
            (query, answer)
            for query, answer in await service.cached_answers.render_many(series, intervals)
            if len(answer.body) <= MAX_HOT_BYTES
        ]
        await service.hot.put(rendered, service.clock())
        answers, size = len(rendered), sum(len(answer.body) for _, answer in rendered)
    if Tier.edge in tiers:
        columns = service.columns(report)
        found = await asyncio.to_thread(publish_edge, service.history, edge(), series, columns, intervals)
        publication, absent = found.edge, found.absent
        rows = rows or found.rows
    return Published(rows, answers, size, publication, absent)


def publish_edge(
    history: History, edge: EdgeTier, series: Series, columns: Sequence[Column], intervals: Sequence[Interval]
) -> Published:
    """Publish to edge what history holds of some intervals, and nothing else.

    Raises:
        EdgeStoreError: The store refused.
        HistoryUnavailable: PostgreSQL cannot be used.
    """
    available = Availability.of(history.coverage(series), intervals)
    rows = _rows_by_interval(history, series, columns, intervals, available.stored)
    publication = edge.publish(series.report, rows, available.provisional) if rows else None
    return Published(sum(table.num_rows for table in rows.values()), edge=publication, absent=available.absent)


def _rows_by_interval(
    history: History, series: Series, columns: Sequence[Column], intervals: Iterable[Interval], stored: IntervalSet
) -> Mapping[Interval, pa.Table]:
    """Return what may be published of each stored part of the intervals."""
    parts = [part for interval in intervals for part in stored & IntervalSet([interval])]
    if not parts:
        return {}
    rows = history.rows(series, IntervalSet(parts), columns)
    return {part: publishable_rows(series.report, rows.within(part)) for part in parts}
