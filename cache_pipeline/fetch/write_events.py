"""Events that report rows just written to history, for listeners that record them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report


@dataclass(frozen=True)
class RowsStored:
    """One interval whose rows were fetched, verified and written. What history already held is no part of it.

    Attributes:
        interval: The interval.
        rows: The number of its rows.
        calls: The number of requests it took.
        watermark: The instant up to which the rows are complete.
        fetched_at: When the oldest of them was requested.
    """

    interval: Interval
    rows: int
    calls: int
    watermark: datetime
    fetched_at: datetime


#: Called in a separate thread after every committed write to history; it must not raise.
OnStored = Callable[[Report, Sequence[RowsStored]], None]


def ignore_stored(_report: Report, _stored: Sequence[RowsStored]) -> None:
    """Ignore write events; this is the default listener."""
