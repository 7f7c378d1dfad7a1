"""Brings together the rows of some intervals: from history what it holds, from the vendor the rest, proven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from cache_pipeline.fetch.chunk_fetcher import MISSED, ChunkFetcher, Missing, StoreRows, fetch_response
from cache_pipeline.fetch.completeness_checker import CompletenessChecker
from cache_pipeline.fetch.partition_fetch import (
    FailedPartition,
    FetchedPartition,
    HeldRows,
    clip_to_now,
    fetch_partitions,
    split_into_chunks,
)
from cache_pipeline.fetch.upstream_jobs import HasOtherRequesters, OnPercent, UpstreamJobs, no_other_requesters
from cache_pipeline.fetch.vendor_response import VendorResponse
from cache_pipeline.query.calendar import cut_at_boundaries, is_aligned
from cache_pipeline.query.completeness import ChunkResult, RowDensity
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.query.retention import future_interval_error, retention_error
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage
from cache_pipeline.storage.postgres.history import History
from cache_pipeline.storage.postgres.ledger import Ledger
from cache_pipeline.storage.redis.single_flight import SingleFlight
from cache_pipeline.storage.ttl import report_freshness
from cache_pipeline.upstream.polling import JobPoller
from cache_pipeline.vendors.base import VendorAdapter

#: How far back history is looked at for what comparable days hold.
_COMPARABLE_DAYS = timedelta(days=28)


@dataclass(frozen=True)
class FetchSession:
    """Gathers rows of one series.

    Attributes:
        series: whose rows.
        platform: the vendor.
        history: where what is held is.
        ledger: where every upstream query is noted.
        single_flight: one for each thing that is asked, over all processes.
        clock: the time, in UTC.
        poller: when jobs are asked for.
        retained_since: the instant before which the vendor keeps nothing, or None where that is not known.
        has_other_requesters: whether somebody else goes on with what is cancelled.
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
        """The declaration."""
        return self.series.report

    async def partitions(
        self,
        wanted: Mapping[str, Interval],
        lane: Lane,
        on_chunk: Callable[[ChunkResult], None],
        on_percent: OnPercent,
        *,
        store: StoreRows | None = None,
        refetch: bool = False,
    ) -> AsyncGenerator[FetchedPartition | FailedPartition]:
        """Every partition once, as it is finished; one that has not begun, or is kept by nobody any more, has failed.

        Args:
            wanted: interval by partition key; ends must be boundaries of the granularity.
            lane: who asks.
            on_chunk: hears of every verdicts answer as it falls.
            on_percent: hears, at every poll, how far the query of an interval is.
            store: writes proven rows to history at once; None where that is left to whoever asked.
            refetch: ask for everything, whatever history holds.
        """
        report, series, now = self.report, self.series, self.clock()
        freshness = report_freshness(report)
        for key in [key for key, span in wanted.items() if clip_to_now(span, report, now) is None]:
            yield FailedPartition(key, wanted[key], future_interval_error(wanted[key]))
        wanted = {key: span for key, span in wanted.items() if clip_to_now(span, report, now) is not None}
        spans = IntervalSet(wanted.values())
        coverage = await asyncio.to_thread(self.history.coverage, series)
        held_intervals = IntervalSet() if refetch else spans - coverage.intervals_to_fetch(spans, now, freshness)
        gaps = IntervalSet(part for gap in spans - held_intervals if (part := clip_to_now(gap, report, now)))
        for key, span in wanted.items():
            if (refused := retention_error(report, gaps & IntervalSet([span]), self.retained_since)) is not None:
                yield FailedPartition(key, span, refused)
                wanted = {other: each for other, each in wanted.items() if other != key}
        gaps &= IntervalSet(wanted.values())
        held = HeldRows(
            held_intervals,
            held_intervals & coverage.provisional,
            await self._read_rows(held_intervals),
            coverage.watermark,
            coverage.provisional_fetched_at,
        )

        def missing(chunk: Interval, held: Coverage) -> IntervalSet:
            return (
                IntervalSet([chunk]) - held.fetched_after(now)
                if refetch
                else held.intervals_to_fetch(IntervalSet([chunk]), now, freshness)
            )

        def not_before(interval: Interval) -> datetime:
            # An answer that was all final when it was asked for is as good as one of now.
            return now if refetch else min(interval.end + report.freshness.finality_delay, now - freshness)

        async def send(interval: Interval) -> VendorResponse:
            return await fetch_response(jobs, interval)

        verdicts: list[ChunkResult] = []

        def record_verdict(chunk: ChunkResult) -> None:
            verdicts.append(chunk)
            on_chunk(chunk)

        async def store_verdicts() -> None:
            chunks = list(verdicts)
            verdicts.clear()
            await asyncio.to_thread(self.history.record_chunks, series, chunks, self.clock())

        lengths = await asyncio.to_thread(self.history.lengths, series, now)
        density = await self._learn_density(coverage, spans)
        checker = CompletenessChecker(report, density, send, record_verdict, lengths)
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
                checker,
                self.single_flight,
                self._read_coverage,
                self._read_rows,
                missing,
                store,
            )
            async with aclosing(fetch_partitions(fetcher, wanted, held, split_into_chunks(gaps, report))) as partitions:
                async for partition in partitions:
                    await store_verdicts()
                    yield partition

    async def _read_coverage(self, around: Interval) -> Coverage:
        return await asyncio.to_thread(self.history.coverage, self.series, around)

    async def _is_still_missing(self, missing: Missing, interval: Interval) -> bool:
        # What was there at that look already is asked for as a part of something else, and wanted all the same: only what others
        # have kept since is a reason to look again, so that each look finds less missing than the one before.
        missed = MISSED.get()
        if missed is None or not (wanted := missed & IntervalSet([interval])):
            return True
        return bool(missing(interval, await self._read_coverage(interval)) & wanted)

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
            # The look-back may begin inside a bucket, which then teaches nothing.
            whole = [
                bucket
                for bucket in cut_at_boundaries(part, report.step, report.zone)
                if is_aligned(bucket, report.step, report.zone)
            ]
            density.learn({bucket: groups.get(bucket.start, 0) for bucket in whole})
        return density
