"""Fetches many partitions of one report side by side, each handed on as soon as its last chunk is proven."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Protocol

from cache_pipeline.aio import finish
from cache_pipeline.fetch.completeness_checker import VerifiedRows
from cache_pipeline.query.calendar import Step, cut_at_boundaries, floor_to_step, list_buckets, next_boundary
from cache_pipeline.query.completeness import ChunkResult, final_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.rows.rows import Rows


@dataclass(frozen=True)
class FetchedPartition:
    """One partition that is ready to be kept.

    Attributes:
        key: the partition's.
        interval: the partition's.
        rows: all its rows, in the report's schema.
        watermark: until when they are complete.
        fetched_at: when the oldest of them was asked for.
        chunks: how the vendor's answers were judged; empty where history held everything.
        from_history: the part that was not asked for, since history held it.
        provisional_from_history: of that the provisional figures, still fresh enough; a watermark learned since says nothing
            of them.
    """

    key: str
    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[ChunkResult, ...] = ()
    from_history: IntervalSet = field(default_factory=IntervalSet)
    provisional_from_history: IntervalSet = field(default_factory=IntervalSet)

    @property
    def from_vendor(self) -> IntervalSet:
        """The part that the vendor was asked for."""
        return IntervalSet([self.interval]) - self.from_history

    def final(self, report: Report) -> IntervalSet:
        """The part whose buckets lie before the watermark."""
        whole = IntervalSet(final_buckets(list_buckets(self.interval, report.step, report.zone), self.watermark))
        return whole - self.provisional_from_history

    def provisional(self, report: Report) -> IntervalSet:
        """The rest."""
        return IntervalSet([self.interval]) - self.final(report)


@dataclass(frozen=True)
class FailedPartition:
    """One partition of which nothing may be kept, and why."""

    key: str
    interval: Interval
    error: Exception


@dataclass(frozen=True)
class HeldRows:
    """What history already has of the wanted intervals, so that it is not asked for again.

    Attributes:
        intervals: held and good enough, and of these ``provisional`` the ones that are not final.
        rows: exactly theirs.
        watermark: of the series.
        fetched_at: when the oldest provisional part was asked for; None where all is final.
    """

    intervals: IntervalSet
    provisional: IntervalSet
    rows: Rows
    watermark: datetime | None
    fetched_at: datetime | None


def split_into_chunks(gaps: IntervalSet, report: Report) -> list[Interval]:
    """Cut gaps into upstream queries, none longer than the declared chunk and none across its boundaries."""
    step = Step.parse(report.fetch.max_query_interval)
    return [chunk for gap in gaps for chunk in cut_at_boundaries(gap, step, report.zone)]


def clip_to_now(interval: Interval, report: Report, now: datetime) -> Interval | None:
    """The part of an interval whose buckets have begun; there is nothing to ask of the future."""
    begun = next_boundary(floor_to_step(now, report.step, report.zone), report.step, report.zone)
    return Interval(interval.start, min(begun, interval.end)) if interval.start < begun else None


class _FetchProgress:
    """What each partition waits for.

    Found by the instant: to look through a hundred thousand partitions for each chunk that falls takes hours.
    """

    def __init__(self, wanted: Mapping[str, Interval], chunks: Sequence[Interval]) -> None:
        due = IntervalSet(chunks)
        self.waiting = {key: due & IntervalSet([span]) for key, span in wanted.items()}
        self.proven: dict[str, list[VerifiedRows]] = {}
        ordered = sorted(wanted.items(), key=lambda item: item[1])
        self._keys = [key for key, _ in ordered]
        self._starts = [span.start for _, span in ordered]
        # The latest so far: where intervals overlap, ends alone are in no order.
        self._ends = list(accumulate((span.end for _, span in ordered), max))

    def touched(self, chunk: Interval) -> list[str]:
        """Keys of partitions that wait for a part of the chunk."""
        first, last = bisect_right(self._ends, chunk.start), bisect_left(self._starts, chunk.end)
        waited = IntervalSet([chunk])
        return [key for key in self._keys[first:last] if key in self.waiting and self.waiting[key] & waited]


def collect_partitions(proven: VerifiedRows) -> FetchedPartition:
    """Proven rows as a partition of their own."""
    return FetchedPartition(
        str(proven.interval), proven.interval, proven.rows, proven.watermark, proven.fetched_at, proven.chunks
    )


class PartitionProver(Protocol):
    """Asks for a chunk until its rows are proven whole."""

    async def prove(self, interval: Interval, /) -> VerifiedRows:
        """The rows of a chunk."""
        ...


async def fetch_partitions(
    judge: PartitionProver,
    wanted: Mapping[str, Interval],
    held: HeldRows,
    chunks: Sequence[Interval],
    *,
    at_once: int = 16,
) -> AsyncGenerator[FetchedPartition | FailedPartition]:
    """Fetch what is missing of some partitions.

    A failed chunk fails the partitions it touches and no others.

    Args:
        judge: asks and proves.
        wanted: interval of each partition key.
        held: what need not be asked for.
        chunks: the upstream queries, together exactly what is missing.
        at_once: upstream queries in flight.

    Yields:
        Every wanted partition once, as it is finished.
    """
    progress = _FetchProgress(wanted, chunks)
    for key in [key for key, waiting in progress.waiting.items() if not waiting]:
        yield _finished(key, wanted[key], held, progress.proven.get(key, []))
        del progress.waiting[key]

    slots = asyncio.Semaphore(at_once)

    async def prove(chunk: Interval) -> VerifiedRows | tuple[Interval, Exception]:
        async with slots:
            try:
                return await judge.prove(chunk)
            except Exception as error:  # noqa: BLE001 - reported with its partition; the others go on
                return chunk, error

    # The first answer teaches what a bucket holds, so that the others are judged by it and not each split in vain.
    first, rest = list(chunks[:1]), list(chunks[1:])
    for wave in (first, rest):
        tasks = [asyncio.create_task(prove(chunk)) for chunk in wave]
        try:
            for outcome in asyncio.as_completed(tasks):
                for partition in _landed(await outcome, wanted, held, progress):
                    yield partition
        finally:
            for task in tasks:
                task.cancel()
            await finish(asyncio.gather(*tasks, return_exceptions=True))


def _landed(
    outcome: VerifiedRows | tuple[Interval, Exception],
    wanted: Mapping[str, Interval],
    held: HeldRows,
    progress: _FetchProgress,
) -> list[FetchedPartition | FailedPartition]:
    """Book one chunk; returns the partitions that it finished or failed."""
    chunk = outcome.interval if isinstance(outcome, VerifiedRows) else outcome[0]
    ended: list[FetchedPartition | FailedPartition] = []
    for key in progress.touched(chunk):
        if not isinstance(outcome, VerifiedRows):
            ended.append(FailedPartition(key, wanted[key], outcome[1]))
            del progress.waiting[key]
            continue
        progress.proven.setdefault(key, []).append(outcome)
        progress.waiting[key] -= IntervalSet([chunk])
        if not progress.waiting[key]:
            ended.append(_finished(key, wanted[key], held, progress.proven.pop(key)))
            del progress.waiting[key]
    return ended


def _finished(key: str, interval: Interval, held: HeldRows, proven: Sequence[VerifiedRows]) -> FetchedPartition:
    at_first = held.intervals & IntervalSet([interval])
    meanwhile = IntervalSet(each for part in proven for each in part.from_history) & IntervalSet([interval])
    old = [held.rows.within(part) for part in at_first]
    new = [part.rows.within(interval) for part in proven]
    watermarks = [part.watermark for part in proven]
    fetched = [part.fetched_at for part in proven]
    still_fresh = held.provisional & IntervalSet([interval])
    fresh_meanwhile = IntervalSet(each for part in proven for each in part.provisional_from_history) & IntervalSet(
        [interval]
    )
    if still_fresh and held.fetched_at is not None:
        fetched.append(held.fetched_at)
    if old and held.watermark is not None and not proven:
        watermarks.append(held.watermark)
    return FetchedPartition(
        key,
        interval,
        Rows.concat(held.rows.schema, [*old, *new]),
        min(watermarks, default=interval.end),
        min(fetched, default=interval.end),
        tuple(chunk for part in proven for chunk in part.chunks if chunk.interval.intersection(interval)),
        at_first | meanwhile,
        still_fresh | fresh_meanwhile,
    )
