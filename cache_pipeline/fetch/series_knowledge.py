"""What one fetch session knows of its series: the rows that buckets hold, and the lengths at which answers are truncated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cache_pipeline.fetch.chunk_states import Verified
from cache_pipeline.query.calendar import cut_at_boundaries, is_aligned
from cache_pipeline.query.completeness import ChunkResult, RowDensity, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import Evidence, Knowledge
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.ports.history import History

#: How far back history is read for the row counts of comparable days.
_COMPARABLE_DAYS = timedelta(days=28)


@dataclass
class SeriesKnowledge:
    """Knowledge that grows with every verdict and with every verified chunk.

    Attributes:
        current: What is known now.
    """

    current: Knowledge

    @property
    def stats(self) -> TruncationStats:
        """The lengths at which answers were complete, truncated or refused."""
        return self.current.stats

    def learn_results(self, results: Iterable[ChunkResult]) -> None:
        """Learn the lengths of judged answers."""
        self.current = replace(self.current, stats=self.stats.with_results(list(results)))

    def learn_failures(self, evidence: Evidence, *, is_final: bool) -> None:
        """Learn whether the vendor fails every job, so that no smaller query helps, until it answers one.

        Args:
            evidence: The evidence of a verification.
            is_final: Whether the verification has ended without rows.
        """
        if evidence.answers:
            self.current = replace(self.current, is_failing=False)
        elif is_final and evidence.failed:
            self.current = replace(self.current, is_failing=True)

    def learn_rows(self, verified: Verified) -> None:
        """Learn how many rows the final buckets of a verified chunk have."""
        if verified.row_counts:
            self.current.density.learn(verified.row_counts)


async def load_knowledge(
    history: History,
    series: Series,
    coverage: Coverage,
    requested: IntervalSet,
    now: datetime,
    shortest_query: timedelta = timedelta(0),
    partial_columns: Sequence[str] = (),
) -> SeriesKnowledge:
    """Read from history what it knows of a series around the requested intervals.

    Args:
        history: The tier that holds rows.
        series: The series.
        coverage: What history holds of it.
        requested: The intervals that are fetched.
        now: The current time.
        shortest_query: As in `Knowledge`.
        partial_columns: The columns of the metrics, if history holds other metrics of the same rows.
    """
    report = series.report
    density = RowDensity(report.zone, report.expected_groups_per_bucket())
    stats = await asyncio.to_thread(history.truncation_stats, series, now)
    parts = list(requested)
    if parts:
        around = Interval(min(part.start for part in parts) - _COMPARABLE_DAYS, max(part.end for part in parts))
        groups = await asyncio.to_thread(history.groups_by_bucket, series, around, partial_columns)
        if partial_columns:
            density = RowDensity(report.zone, None, await asyncio.to_thread(history.groups_by_bucket, series, around))
        for part in coverage.final & IntervalSet([around]):
            # The period may start inside a bucket; such a partial bucket is not counted.
            buckets = [
                bucket
                for bucket in cut_at_boundaries(part, report.step, report.zone)
                if is_aligned(bucket, report.step, report.zone)
            ]
            density.learn({bucket: groups.get(bucket.start, 0) for bucket in buckets})
    return SeriesKnowledge(Knowledge(report, density, stats, shortest_query=shortest_query))
