"""Progress of one job, computed from the vendor's answers as they are verified."""

from __future__ import annotations

import asyncio

from cache_pipeline.fetch.partition_fetch import split_into_chunks
from cache_pipeline.fetch.upstream_jobs import QueryProgress
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report

#: The least time between two updates.
_UPDATE_SECONDS = 0.2


class JobProgress:
    """Counts the chunks of one job. It stays below 100 percent until the job is marked done."""

    def __init__(self, report: Report, interval: Interval) -> None:
        self._interval = interval
        self._verified = IntervalSet()
        self._percent_by_chunk: dict[Interval, float] = {}
        self._changed = asyncio.Event()
        self.chunks_done = 0
        #: The number of chunks if nothing is stored yet and no chunk is split.
        self.chunks_total = len(split_into_chunks(IntervalSet([interval]), report))

    @property
    def percent(self) -> float:
        """The share of the interval that is verified, or that the vendor reports as done."""
        verified = self._verified & IntervalSet([self._interval])
        seconds = sum(part.length.total_seconds() for part in verified)
        for chunk, percent in self._percent_by_chunk.items():
            unverified = IntervalSet([chunk]) - verified
            seconds += sum(part.length.total_seconds() for part in unverified) * percent / 100
        return min(99.0, 100.0 * seconds / self._interval.length.total_seconds())

    def record(self, event: ChunkResult | QueryProgress) -> None:
        """Record the verdict on an answer, or the progress that the vendor reports for a query."""
        if isinstance(event, ChunkResult):
            self._record_chunk(event)
        elif event.percent is not None and event.percent != self._percent_by_chunk.get(event.interval):
            self._percent_by_chunk[event.interval] = event.percent
            self._changed.set()

    def _record_chunk(self, chunk: ChunkResult) -> None:
        self.chunks_done += 1
        self.chunks_total = max(self.chunks_total, self.chunks_done)
        if not chunk.is_superseded:
            self._verified |= IntervalSet([chunk.interval])
        self._changed.set()

    async def wait_for_change(self) -> None:
        """Wait until there is something new to report."""
        await self._changed.wait()
        await asyncio.sleep(_UPDATE_SECONDS)
        self._changed.clear()
