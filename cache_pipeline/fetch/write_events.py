"""What is told of rows that have just been written to history, for whoever keeps a record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report


@dataclass(frozen=True)
class RowsStored:
    """One interval whose rows were fetched, proven and written.

    Attributes:
        interval: what the vendor was asked for, within one partition or query.
        rows: of the whole partition or query.
        calls: requests that it took.
        watermark: until when the rows are complete.
        fetched_at: when the oldest of them was asked for.
    """

    interval: Interval
    rows: int
    calls: int
    watermark: datetime
    fetched_at: datetime


#: Hears of every write to history, after it is committed, in a thread of its own; it must not raise.
OnStored = Callable[[Report, Sequence[RowsStored]], None]


def ignore_stored(_report: Report, _kept: Sequence[RowsStored]) -> None:
    """Nobody wants to know."""
