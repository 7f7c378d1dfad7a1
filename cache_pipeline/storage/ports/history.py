"""History: the rows of every report, and their coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cache_pipeline.errors import CachePipelineError
from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.completeness import ChunkResult, TruncationStats
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.query.schema import Column
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage, FetchTime
from cache_pipeline.storage.ports.ledger import LedgerClaim


class NewerDataPresent(CachePipelineError):
    """History holds rows that were requested later than those that were to replace them; nothing was written."""

    def __init__(self, intervals: IntervalSet) -> None:
        self.intervals = intervals
        super().__init__(f"history holds newer rows of {', '.join(map(str, intervals))}")


@dataclass(frozen=True)
class Replacement:
    """New figures for some intervals of a series; they replace whatever is stored of the same metrics for these intervals.

    Attributes:
        series: The series of the rows, with the metrics that were fetched.
        final: Intervals whose buckets lie before the watermark.
        provisional: Intervals that are stored but not final.
        rows: Exactly the rows of both, in the report's schema.
        watermark: The vendor's watermark, or that of the report's finality delay; None if there are no intervals.
        fetch_times: When they were fetched; together exactly the intervals.
        claims: The ledger entries that the rows come from, while this process holds them.
        second_looks: The provisional intervals that wait for a second look, by reason.
    """

    series: Series
    final: IntervalSet
    provisional: IntervalSet
    rows: Rows
    watermark: datetime | None
    fetch_times: tuple[FetchTime, ...]
    claims: tuple[LedgerClaim, ...] = ()
    second_looks: Mapping[SecondLook, IntervalSet] = field(default_factory=dict[SecondLook, IntervalSet])

    @property
    def covered(self) -> IntervalSet:
        """All intervals that the rows replace."""
        return self.final | self.provisional


@dataclass(frozen=True)
class KnownThen:
    """What history knew of a series at an instant.

    Attributes:
        final: What was final then; it means nothing if the instant is before `since` or after `now`.
        since: From when on superseded figures are kept; None if they are not.
        now: The store's clock. Nothing that it has not stored by now is stamped with an earlier instant.
    """

    final: IntervalSet
    since: datetime | None
    now: datetime


class CoverageReader(Protocol):
    """The coverage of each metric of each series. Every method is one transaction, and blocks."""

    def coverage(self, series: Series, interval: Interval | None = None) -> Coverage:
        """Read the coverage of a series, including the fetch times of the final parts of `interval`."""
        ...

    def coverages(self, series: Sequence[Series], interval: Interval | None = None) -> dict[str, Coverage]:
        """Read the same for several series; return it by the series' ids."""
        ...


class History(CoverageReader, Protocol):
    """Rows of every report, and their coverage. Every method is one transaction, and blocks."""

    def coverages_with_cost(
        self, series: Sequence[Series], interval: Interval | None = None, *, cost_of: Series
    ) -> tuple[dict[str, Coverage], tuple[float, float] | None]:
        """Read the same for several series, and what the latest upstream queries of one series cost.

        Returns:
            The coverages by the series' ids, and the mean requests and seconds of an upstream query, or None if there was none.
        """
        ...

    def known_as_of(self, series: Series, interval: Interval, as_of: datetime) -> KnownThen:
        """Read which part of an interval was final at an instant, for all metrics of the series."""
        ...

    def read(
        self,
        series: Series,
        interval: Interval,
        columns: Sequence[Column],
        as_of: datetime | None = None,
        max_rows: int | None = None,
    ) -> pa.Table:
        """Read the rows of an interval into memory, in the report's schema, ordered by bucket and group.

        With `as_of`, read them as they were known at that instant; all of the interval must have been final then. With
        `max_rows`, stop once there are more than that.
        """
        ...

    def rows(self, series: Series, intervals: Iterable[Interval], columns: Sequence[Column]) -> Rows:
        """Copy the rows of some intervals out of the store. However many there are, few of them are in memory."""
        ...

    def replace(self, replacement: Replacement) -> None:
        """Replace rows, extend coverage and close the ledger entries they answer: one unit of work, all of it or nothing.

        Raises:
            NewerDataPresent: Part of what is stored was requested later than these rows, or has been doubted since: it was
                requested at the same time, and is provisional although these rows would make it final.
            LeaseLost: Another process has taken over an entry that the rows come from.
            DeclarationConflict: A column of the table has another type than the rows.
        """
        ...

    def record_chunks(self, series: Series, chunks: Sequence[ChunkResult], now: datetime) -> None:
        """Store the results of some chunks, and what their lengths say about the vendor's row limit."""
        ...

    def truncation_stats(self, series: Series, now: datetime) -> TruncationStats:
        """Read what is known about the lengths of a series' answers."""
        ...

    def reopen(self, series: Series, ended: Sequence[tuple[Interval, str]], end_column: str) -> IntervalSet:
        """Make the final buckets provisional that hold a row without an end, of those rows that have ended since.

        The vendor sends the end in the answer to a later interval. The bucket is then fetched again like any other
        provisional one, and so gets the row with its end.

        Args:
            series: The series.
            ended: The bucket and the first dimension of each row that has ended.
            end_column: The column with the end of a row.

        Returns:
            The buckets.
        """
        ...

    def groups_by_bucket(self, series: Series, interval: Interval, columns: Sequence[str] = ()) -> dict[datetime, int]:
        """Count the groups in each bucket of an interval, as the vendor sent them; buckets without rows are omitted.

        With `columns`, count only the groups that have a figure other than zero in one of them.
        """
        ...

    def count_rows(self, series: Series) -> int:
        """Count the rows of a series, of which there may be so many that the answer is an estimate."""
        ...

    def totals_by_bucket(self, series: Series, interval: Interval, column: str | None) -> dict[datetime, float]:
        """Sum a column in each bucket of an interval, or count rows without one; buckets without rows are omitted."""
        ...
