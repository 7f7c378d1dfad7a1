"""Rows that may be stored: verified as complete, or read from history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.completeness import ChunkResult, final_buckets
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.report import Report
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import FetchTime


@dataclass(frozen=True)
class VerifiedRows:
    """Rows of an interval that may be stored.

    Attributes:
        interval: The interval whose rows these are, all of them.
        rows: The rows, in the report's schema.
        watermark: The instant up to which they are complete; the earliest of the answers they come from.
        fetched_at: When the oldest of them was requested.
        chunks: The verdict on each answer on the way; empty if history held everything.
        from_history: The part that was not fetched, because history held it.
        provisional_from_history: The provisional part of `from_history`, still fresh enough. A watermark learned since then does
            not make it final.
        second_looks: The intervals that stay provisional until a later query agrees, by reason.
        fetch_times: When each part that came from the vendor was requested.
    """

    interval: Interval
    rows: Rows
    watermark: datetime
    fetched_at: datetime
    chunks: tuple[ChunkResult, ...] = ()
    from_history: IntervalSet = field(default_factory=IntervalSet)
    provisional_from_history: IntervalSet = field(default_factory=IntervalSet)
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])
    fetch_times: tuple[FetchTime, ...] = ()

    @property
    def from_vendor(self) -> IntervalSet:
        """The part that was fetched from the vendor."""
        return IntervalSet([self.interval]) - self.from_history

    def final(self, report: Report) -> IntervalSet:
        """Return the part whose buckets end before the watermark."""
        final = IntervalSet(final_buckets(list_buckets(self.interval, report.step, report.zone), self.watermark))
        waiting = IntervalSet(part for each in self.second_looks.values() for part in each)
        return final - self.provisional_from_history - waiting

    def fetch_times_of(self, intervals: IntervalSet) -> tuple[FetchTime, ...]:
        """Return when some of the parts that came from the vendor were requested."""
        known = IntervalSet(part for each in self.fetch_times for part in each.intervals)
        latest = max((each.at for each in self.fetch_times), default=self.fetched_at)
        # What had not begun when the rest was requested counts as requested with it.
        times = (*self.fetch_times, FetchTime(self.from_vendor - known, latest))
        parts = (FetchTime(each.intervals & intervals, each.at) for each in times)
        return tuple(part for part in parts if part.intervals)

    def provisional(self, report: Report) -> IntervalSet:
        """Return the part that is not final."""
        return IntervalSet([self.interval]) - self.final(report)


def merge_second_looks(verified: Iterable[VerifiedRows], within: IntervalSet) -> dict[SecondLook, IntervalSet]:
    """Return the intervals that wait for a second look, by reason."""
    merged: dict[SecondLook, IntervalSet] = {}
    for rows in verified:
        for reason, intervals in rows.second_looks.items():
            if part := intervals & within:
                merged[reason] = merged.get(reason, IntervalSet()) | part
    return merged
