"""Rows that may be stored: verified as complete, or read from history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cache_pipeline.query.completeness import ChunkResult
from cache_pipeline.query.interval import Interval, IntervalSet
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
        fetched_at: When the first of those answers was asked for.
        chunks: The verdict on each answer on the way.
        from_history: The part that was read from history, because others had stored it: all of the interval or nothing.
        provisional_from_history: The part of `from_history` that is not final.
        second_looks: The intervals that stay provisional until a later query agrees, by reason.
        fetch_times: When each part that the vendor was asked for was asked for.
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


def merge_second_looks(verified: Iterable[VerifiedRows], within: IntervalSet) -> dict[SecondLook, IntervalSet]:
    """Return the intervals that wait for a second look, by reason."""
    merged: dict[SecondLook, IntervalSet] = {}
    for rows in verified:
        for reason, intervals in rows.second_looks.items():
            if part := intervals & within:
                merged[reason] = merged.get(reason, IntervalSet()) | part
    return merged
