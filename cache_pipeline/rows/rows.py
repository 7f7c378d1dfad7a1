"""`Rows`: any number of rows, in memory or on disk, read in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cache_pipeline.lazy_imports import pa
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import rows_within
from cache_pipeline.query.tallies import RowTally, merge_tallies
from cache_pipeline.rows.digest import tally_by_bucket


class RowSource(ABC):
    """A place that rows are read from. It never changes and may be read from several threads at once."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """The number of rows."""

    @abstractmethod
    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows. If an interval is given, yield at least those whose bucket starts inside it."""

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by bucket start. Reads every row unless the source overrides this."""
        return merge_tallies(tally_by_bucket(batch) for batch in self.batches(None))


@dataclass(frozen=True)
class _TableSource(RowSource):
    """Rows in memory."""

    table: pa.Table

    @property
    def num_rows(self) -> int:
        return self.table.num_rows

    def batches(self, within: Interval | None) -> Iterator[pa.RecordBatch]:
        yield from (self.table if within is None else rows_within(self.table, within)).to_batches()


@dataclass(frozen=True)
class Part:
    """The rows of a source, or only those whose bucket starts inside an interval."""

    source: RowSource
    within: Interval | None = None

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by bucket start."""
        if self.within is None:
            return self.source.tallies
        return {start: tally for start, tally in self.source.tallies.items() if self.within.contains_instant(start)}

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.source.num_rows if self.within is None else sum(tally.rows for tally in self.tallies.values())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows. No batch is empty."""
        for batch in self.source.batches(self.within):
            selected = batch if self.within is None else rows_within(batch, self.within)
            if selected.num_rows:
                yield selected

    def restrict(self, interval: Interval) -> Iterator[Part]:
        """Yield the part of it that is inside an interval, if there is one."""
        within = interval if self.within is None else self.within.intersection(interval)
        if within is not None:
            yield Part(self.source, within)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one schema, in no particular order.

    Restricting and concatenating copies nothing. The rows are freed with the last value that refers to them.

    Attributes:
        schema: The schema of every batch.
        parts: The sources of the rows, each with the interval that is read from it.
    """

    schema: pa.Schema
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_table(cls, table: pa.Table) -> Rows:
        """Return the rows of a table."""
        return cls(table.schema, (Part(_TableSource(table)),))

    @classmethod
    def from_source(cls, schema: pa.Schema, source: RowSource) -> Rows:
        """Return all rows of a source."""
        return cls(schema, (Part(source),))

    @classmethod
    def concat(cls, schema: pa.Schema, rows: Iterable[Rows]) -> Rows:
        """Return the rows of several values of that schema as one."""
        return cls(schema, tuple(part for each in rows for part in each.parts))

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return sum(part.num_rows for part in self.parts)

    @cached_property
    def tallies(self) -> Mapping[datetime, RowTally]:
        """Count and digest by bucket start, without the buckets that have no rows."""
        return merge_tallies(part.tallies for part in self.parts)

    def count(self, buckets: Iterable[Interval]) -> int:
        """Count the rows of some buckets."""
        return sum(self.tallies[bucket.start].rows for bucket in buckets if bucket.start in self.tallies)

    def within(self, interval: Interval) -> Rows:
        """Return the rows whose bucket starts inside the interval."""
        return Rows(self.schema, tuple(each for part in self.parts for each in part.restrict(interval)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Return the rows as batches, none of them empty. It may be called any number of times."""
        return (batch for part in self.parts for batch in part.batches())

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the rows as an Arrow record batch reader."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def to_table(self) -> pa.Table:
        """Return all rows as a table in memory. Use it for few rows only."""
        return pa.Table.from_batches(list(self.batches()), self.schema)
