"""A value that stands for many rows, wherever they lie, and reads them batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import pyarrow as pa

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import rows_within
from cache_pipeline.rows.digest import RowTally, merge_tallies, tally_by_bucket


class RowSource(ABC):
    """Where rows lie. Never changes, and may be read from several threads at once."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """How many there are."""

    @abstractmethod
    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        """The rows; where an interval is given, at least those whose bucket starts inside."""

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by start of bucket; reads every row where the source does not know them."""
        return merge_tallies(tally_by_bucket(batch) for batch in self.batches(None))


@dataclass(frozen=True)
class _Held(RowSource):
    """Few enough to be in memory."""

    table: pa.Table

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        yield from (self.table if within is None else rows_within(self.table, within)).to_batches()


@dataclass(frozen=True)
class Part:
    """A source's rows, or those of them whose bucket starts inside an interval."""

    source: RowSource
    within: Interval | None = None

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by start of bucket."""
        if self.within is None:
            return self.source.tallies
        return {start: tally for start, tally in self.source.tallies.items() if self.within.contains_instant(start)}

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return self.source.num_rows if self.within is None else sum(tally.rows for tally in self.tallies.values())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows; no batch is empty."""
        for batch in self.source.batches(self.within):
            kept = batch if self.within is None else rows_within(batch, self.within)
            if kept.num_rows:
                yield kept

    def restrict(self, interval: Interval) -> Iterator[Part]:
        """The part of it that lies inside an interval, if any does."""
        within = interval if self.within is None else self.within.intersection(interval)
        if within is not None:
            yield Part(self.source, within)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one schema, in no particular order.

    Cutting and joining copies nothing. The rows are freed with the last value that holds them.

    Attributes:
        schema: of every batch.
        parts: where they lie, and which of what lies there.
    """

    schema: pa.Schema
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_table(cls, table: pa.Table) -> Rows:
        """The rows of a table."""
        return cls(table.schema, (Part(_Held(table)),))

    @classmethod
    def from_source(cls, schema: pa.Schema, source: RowSource) -> Rows:
        """All the rows of a source."""
        return cls(schema, (Part(source),))

    @classmethod
    def concat(cls, schema: pa.Schema, rows: Iterable[Rows]) -> Rows:
        """All of several rows, of that schema."""
        return cls(schema, tuple(part for each in rows for part in each.parts))

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return sum(part.num_rows for part in self.parts)

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by start of bucket; buckets without rows are left out."""
        return merge_tallies(part.tallies for part in self.parts)

    def count(self, buckets: Iterable[Interval]) -> int:
        """How many rows some buckets have."""
        return sum(self.tallies[bucket.start].rows for bucket in buckets if bucket.start in self.tallies)

    def within(self, interval: Interval) -> Rows:
        """Those whose bucket starts inside the interval."""
        return Rows(self.schema, tuple(cut for part in self.parts for cut in part.restrict(interval)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, as often as wanted; no batch is empty."""
        return (batch for part in self.parts for batch in part.batches())

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows as a stream of Arrow's own."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def to_table(self) -> pa.Table:
        """All of them in memory: for few."""
        return pa.Table.from_batches(list(self.batches()), self.schema)
