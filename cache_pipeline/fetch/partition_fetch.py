"""Assembles partitions from verified chunks and from what history holds; each is finished with its last chunk."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from cache_pipeline.fetch.verified_rows import VerifiedRows, merge_second_looks
from cache_pipeline.query.calendar import Step, cut_at_boundaries
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime


@dataclass(frozen=True, kw_only=True)
class FetchedPartition(VerifiedRows):
    """One partition that is ready to be stored.

    Attributes:
        key: The partition's key.
        query_id: The series and metrics that the rows belong to; None for a partition that has not been staged.
    """

    key: str
    query_id: str | None = None


@dataclass(frozen=True)
class FailedPartition:
    """One partition of which nothing may be stored, and the error that says why."""

    key: str
    interval: Interval
    error: Exception


@dataclass(frozen=True)
class StoredRows:
    """What history already holds of the requested intervals, so that it is not fetched again.

    Attributes:
        intervals: The intervals that are stored and fresh enough.
        provisional: Those of them that are not final.
        rows: Exactly the rows of these intervals.
        watermark: The watermark of the series.
        fetched_at: When the oldest provisional part was requested; None if everything is final.
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


class PartitionProgress:
    """Which chunks each partition still waits for, and the rows that it has already.

    Partitions are found by binary search: scanning a hundred thousand partitions for every finished chunk would take hours.

    Args:
        partitions: The interval of each partition key.
        missing: What is fetched.
        stored: What history holds, which need not be fetched.
    """

    def __init__(self, partitions: Mapping[str, Interval], missing: IntervalSet, stored: StoredRows) -> None:
        self._partitions, self._stored = partitions, stored
        self._waiting = {key: missing & IntervalSet([span]) for key, span in partitions.items()}
        self._verified: dict[str, list[VerifiedRows]] = {}
        self._failed = IntervalSet()
        ordered = sorted(partitions.items(), key=lambda item: item[1])
        self._keys = [key for key, _ in ordered]
        self._starts = [span.start for _, span in ordered]
        # The latest end so far, because the ends of overlapping intervals are not sorted.
        self._ends = list(accumulate((span.end for _, span in ordered), max))

    def finish_stored(self) -> list[FetchedPartition]:
        """Return the partitions of which nothing is missing."""
        return [self._finish(key) for key in [key for key, waiting in self._waiting.items() if not waiting]]

    def add(self, rows: VerifiedRows) -> list[FetchedPartition]:
        """Add verified rows, and return the partitions that they complete."""
        finished: list[FetchedPartition] = []
        for key in self._overlapping(rows.interval):
            self._verified.setdefault(key, []).append(rows)
            self._waiting[key] -= IntervalSet([rows.interval])
            if not self._waiting[key]:
                finished.append(self._finish(key))
        return finished

    def fail(self, chunk: Interval, error: Exception) -> tuple[list[FailedPartition], list[VerifiedRows]]:
        """Fail the partitions that wait for a chunk; return them and the verified rows that they leave."""
        failed: list[FailedPartition] = []
        left: dict[Interval, VerifiedRows] = {}
        for key in self._overlapping(chunk):
            del self._waiting[key]
            left |= {rows.interval: rows for rows in self._verified.pop(key, [])}
            failed.append(FailedPartition(key, self._partitions[key], error))
            self._failed |= IntervalSet([self._partitions[key]])
        return failed, list(left.values())

    def is_of_failed(self, rows: VerifiedRows) -> bool:
        """Return whether rows belong to a partition that failed, with which they will not be stored."""
        return bool(self._failed & IntervalSet([rows.interval]))

    def _finish(self, key: str) -> FetchedPartition:
        del self._waiting[key]
        return _assemble(key, self._partitions[key], self._stored, self._verified.pop(key, []))

    def _overlapping(self, chunk: Interval) -> list[str]:
        """Return the keys of partitions that wait for a part of the chunk."""
        first, last = bisect_right(self._ends, chunk.start), bisect_left(self._starts, chunk.end)
        part = IntervalSet([chunk])
        return [key for key in self._keys[first:last] if key in self._waiting and self._waiting[key] & part]


def _assemble(key: str, interval: Interval, stored: StoredRows, verified: Sequence[VerifiedRows]) -> FetchedPartition:
    within = IntervalSet([interval])
    at_first = stored.intervals & within
    meanwhile = IntervalSet(each for part in verified for each in part.from_history) & within
    old = [stored.rows.within(part) for part in at_first]
    new = [part.rows.within(interval) for part in verified]
    watermarks = [part.watermark for part in verified]
    fetched = [part.fetched_at for part in verified]
    still_fresh = stored.provisional & within
    fresh_meanwhile = IntervalSet(each for part in verified for each in part.provisional_from_history) & within
    if still_fresh and stored.fetched_at is not None:
        fetched.append(stored.fetched_at)
    if old and stored.watermark is not None and not verified:
        watermarks.append(stored.watermark)
    return FetchedPartition(
        interval,
        Rows.concat(stored.rows.schema, [*old, *new]),
        min(watermarks, default=interval.end),
        min(fetched, default=interval.end),
        tuple(chunk for part in verified for chunk in part.chunks if chunk.interval.intersection(interval)),
        at_first | meanwhile,
        still_fresh | fresh_meanwhile,
        merge_second_looks(verified, within),
        tuple(
            FetchTime(intervals, each.at)
            for part in verified
            for each in part.fetch_times
            if (intervals := (each.intervals & within) - at_first - meanwhile)
        ),
        key=key,
    )
