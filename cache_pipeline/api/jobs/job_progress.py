"""How far a job has come, from the vendor's answers as they are judged."""

from __future__ import annotations

import asyncio

from cache_pipeline.fetch.partition_fetch import split_into_chunks
from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report

#: Word is passed on no more often than this.
_PAUSE_SECONDS = 0.2


class JobProgress:
    """Counts chunks of one job. Only the job's end says a hundred percent."""

    def __init__(self, report: Report, interval: Interval) -> None:
        self._interval = interval
        self._whole = IntervalSet()
        self._under_way: dict[Interval, float] = {}
        self._changed = asyncio.Event()
        self.done = 0
        #: As many as there are if nothing is held and nothing is split.
        self.total = len(split_into_chunks(IntervalSet([interval]), report))

    @property
    def percent(self) -> float:
        """Share of the interval that is proven, or that the vendor says to be done with."""
        whole = self._whole & IntervalSet([self._interval])
        seconds = sum(part.length.total_seconds() for part in whole)
        for chunk, percent in self._under_way.items():
            open_part = IntervalSet([chunk]) - whole
            seconds += sum(part.length.total_seconds() for part in open_part) * percent / 100
        return min(99.0, 100.0 * seconds / self._interval.length.total_seconds())

    def polled(self, chunk: Interval, percent: float | None) -> None:
        """Hear how far the vendor is with one query."""
        if percent is not None and percent != self._under_way.get(chunk):
            self._under_way[chunk] = percent
            self._changed.set()

    def judged(self, chunk: ChunkResult) -> None:
        """Hear of one answer."""
        self.done += 1
        self.total = max(self.total, self.done)
        if not chunk.is_superseded:
            self._whole |= IntervalSet([chunk.interval])
        self._changed.set()

    async def moved(self) -> None:
        """Return when there is something new to say."""
        await self._changed.wait()
        await asyncio.sleep(_PAUSE_SECONDS)
        self._changed.clear()
