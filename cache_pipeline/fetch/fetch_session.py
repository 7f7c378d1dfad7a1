"""Collects the rows of some intervals: from history what it holds, and from the vendor the rest, verified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from cache_pipeline.fetch.chunk_fetcher import ChunkFetcher, Missing, StoreRows
from cache_pipeline.fetch.partition_fetch import (
    FailedPartition,
    FetchedPartition,
    StoredRows,
    clip_to_now,
    fetch_partitions,
    split_into_chunks,
)
from cache_pipeline.fetch.upstream_jobs import HasOtherRequesters, OnPercent, UpstreamJobs, no_other_requesters
from cache_pipeline.fetch.verifier import Verifier
from cache_pipeline.query.calendar import cut_at_boundaries, is_aligned
from cache_pipeline.query.completeness import ChunkResult, RowDensity
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import future_interval_error, retention_error
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import Knowledge
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.freshness import FreshnessRule
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.postgres.ledger import Ledger
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter

#: How far back history is read for the row counts of comparable days.
_COMPARABLE_DAYS = timedelta(days=28)


@dataclass(frozen=True)
class FetchSession:
    """Fetches rows of one series.

    Attributes:
        series: The series.
        platform: The vendor's adapter.
        history: The tier that holds rows and coverage.
        ledger: The record of every upstream query.
        single_flight: Lets one process at a time fetch a gap.
        clock: The current time, in UTC.
        poller: Decides when to poll jobs.
        retained_since: The instant before which the vendor keeps nothing, or None if that is not known.
        has_other_requesters: Whether a cancelled fetch is still wanted by another process.
    """

    series: Series
    platform: VendorAdapter
    history: History
    ledger: Ledger
    single_flight: SingleFlight
    clock: Callable[[], datetime]
    poller: JobPoller
    retained_since: datetime | None
    has_other_requesters: HasOtherRequesters = no_other_requesters

    @property
    def report(self) -> Report:
        """The report's declaration."""
        return self.series.report

    async def fetch(
        self,
        partitions: Mapping[str, Interval],
        lane: Lane,
        on_chunk: Callable[[ChunkResult], None],
        on_percent: OnPercent,
        *,
        store: StoreRows | None = None,
        refetch: bool = False,
    ) -> AsyncGenerator[FetchedPartition | FailedPartition]:
        """Yield every partition once, as soon as it is finished.

        A partition that has not begun, or whose gaps the vendor no longer keeps, counts as failed.

        Args:
            partitions: Interval by partition key; its ends must be boundaries of the granularity.
            lane: The priority of upstream requests.
            on_chunk: Called with the verdict on each of the vendor's answers.
            on_percent: Called at every poll with an interval and the vendor's progress on it.
            store: Writes verified rows to history at once; None if the caller stores them later.
            refetch: Whether to fetch everything, whatever history holds.
        """
        report, series, now = self.report, self.series, self.clock()
        rule = FreshnessRule.of(report)
        for key in [key for key, span in partitions.items() if clip_to_now(span, report, now) is None]:
            yield FailedPartition(key, partitions[key], future_interval_error(partitions[key]))
        partitions = {key: span for key, span in partitions.items() if clip_to_now(span, report, now) is not None}
        spans = IntervalSet(partitions.values())
        coverage = await asyncio.to_thread(self.history.coverage, series)
        stored_intervals = IntervalSet() if refetch else spans - rule.intervals_to_fetch(coverage, spans, now)
        gaps = IntervalSet(part for gap in spans - stored_intervals if (part := clip_to_now(gap, report, now)))
        for key, span in partitions.items():
            if (refused := retention_error(report, gaps & IntervalSet([span]), self.retained_since)) is not None:
                yield FailedPartition(key, span, refused)
                partitions = {other: each for other, each in partitions.items() if other != key}
        gaps &= IntervalSet(partitions.values())
        stored = StoredRows(
            stored_intervals,
            stored_intervals & coverage.provisional,
            await self._read_rows(stored_intervals),
            coverage.watermark,
            coverage.provisional_fetched_at,
        )

        def missing(chunk: Interval, stored: Coverage) -> IntervalSet:
            return (
                IntervalSet([chunk]) - stored.fetched_after(now)
                if refetch
                else rule.intervals_to_fetch(stored, IntervalSet([chunk]), now)
            )

        def not_before(interval: Interval) -> datetime:
            return now if refetch else rule.not_before(interval, now)

        verdicts: list[ChunkResult] = []

        def record_verdict(chunk: ChunkResult) -> None:
            verdicts.append(chunk)
            on_chunk(chunk)

        async def store_verdicts() -> None:
            chunks = list(verdicts)
            verdicts.clear()
            await asyncio.to_thread(self.history.record_chunks, series, chunks, self.clock())

        truncation_stats = await asyncio.to_thread(self.history.truncation_stats, series, now)
        density = await self._learn_density(coverage, spans)
        verifier = Verifier(Knowledge(report, density, truncation_stats), record_verdict)
        async with UpstreamJobs(
            self.platform,
            series,
            lane,
            self.clock,
            self.ledger,
            not_before,
            self.poller,
            on_percent,
            partial(self._is_still_missing, missing),
            self.has_other_requesters,
        ) as jobs:
            fetcher = ChunkFetcher(
                jobs,
                verifier,
                self.single_flight,
                self._read_coverage,
                self._read_rows,
                missing,
                store,
            )
            async with aclosing(
                fetch_partitions(fetcher, partitions, stored, split_into_chunks(gaps, report))
            ) as fetched:
                async for partition in fetched:
                    await store_verdicts()
                    yield partition

    async def _read_coverage(self, around: Interval) -> Coverage:
        return await asyncio.to_thread(self.history.coverage, self.series, around)

    async def _is_still_missing(self, missing: Missing, interval: Interval, missed: IntervalSet) -> bool:
        """Return whether history still lacks what it lacked of an interval when the query was planned.

        Re-plan only if another process has stored part of it since. What was stored before is fetched on purpose, as part of
        a larger query. Each retry has strictly less to fetch, so the retries end.
        """
        needed = missed & IntervalSet([interval])
        return not needed or bool(missing(interval, await self._read_coverage(interval)) & needed)

    async def _read_rows(self, intervals: IntervalSet) -> Rows:
        columns = self.platform.columns(self.report)
        return await asyncio.to_thread(self.history.rows, self.series, intervals, columns)

    async def _learn_density(self, coverage: Coverage, spans: IntervalSet) -> RowDensity:
        report = self.report
        density = RowDensity(report.zone, report.expected_groups_per_bucket())
        starts, ends = [part.start for part in spans], [part.end for part in spans]
        if not starts:
            return density
        around = Interval(min(starts) - _COMPARABLE_DAYS, max(ends))
        groups = await asyncio.to_thread(self.history.groups_by_bucket, self.series, around)
        for part in coverage.final & IntervalSet([around]):
            # The period may start inside a bucket; such a partial bucket is not counted.
            buckets = [
                bucket
                for bucket in cut_at_boundaries(part, report.step, report.zone)
                if is_aligned(bucket, report.step, report.zone)
            ]
            density.learn({bucket: groups.get(bucket.start, 0) for bucket in buckets})
        return density
