"""Digests of rows that do not depend on their order: two sets of rows are the same when count and both sums are.

The hashes are fast and not secret: they tell a cut-off answer from a whole one, not a forger from a vendor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

Hashes = npt.NDArray[np.uint64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MASK = (1 << 64) - 1
_NULL = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class RowTally:
    """What is known of some rows without looking at them.

    Attributes:
        rows: how many.
        sum: of their hashes, modulo 2**64.
        second: of other hashes of the same rows, so that errors that cancel out in one do not in the other.
    """

    rows: int = 0
    sum: int = 0
    second_sum: int = 0

    def __add__(self, other: RowTally) -> RowTally:
        return RowTally(
            self.rows + other.rows, (self.sum + other.sum) & _MASK, (self.second_sum + other.second_sum) & _MASK
        )


def merge_tallies(tallies: Iterable[Mapping[datetime, RowTally]]) -> dict[datetime, RowTally]:
    """Tallies by bucket start, added up."""
    total: dict[datetime, RowTally] = {}
    for tally in tallies:
        for start, of_bucket in tally.items():
            total[start] = total.get(start, RowTally()) + of_bucket
    return total


def tally_by_bucket(rows: pa.RecordBatch | pa.Table) -> dict[datetime, RowTally]:
    """The tally of each bucket, by its start."""
    if not rows.num_rows:
        return {}
    hashes = row_hashes(rows, rows.schema.names)
    starts = microseconds(rows, "interval_start")
    order = np.argsort(starts, kind="stable")
    found, first, counts = np.unique(starts[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(hashes[order], first)
    seconds = np.add.reduceat(_mixed(hashes[order] ^ _NULL), first)
    return {
        _EPOCH + timedelta(microseconds=int(start)): RowTally(int(count), int(one), int(two))
        for start, count, one, two in zip(found, counts, sums, seconds, strict=True)
    }


def row_hashes(rows: pa.RecordBatch | pa.Table, columns: Iterable[str]) -> Hashes:
    """A hash of each row's values in some columns; equal values have equal hashes in every batch and process."""
    hashes = np.full(rows.num_rows, _NULL, np.uint64)
    for name in columns:
        hashes = _mixed(hashes ^ _value_hashes(_in_one_piece(rows, name)))
    return hashes


def microseconds(rows: pa.RecordBatch | pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A column of instants, none of them null, as microseconds since the epoch."""
    return np.asarray(_in_one_piece(rows, column).cast(pa.int64()))


def _in_one_piece(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array[Any]:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _value_hashes(values: pa.Array[Any]) -> Hashes:
    if pa.types.is_string(values.type):
        # Names repeat, so each is hashed once.
        encoded = values.dictionary_encode()
        names = np.array(encoded.dictionary.to_pylist(), dtype=object)
        hashes = np.append(hash_array(names, categorize=False), _NULL)
        return hashes[np.asarray(encoded.indices.fill_null(len(names)), dtype=np.int64)]
    if pa.types.is_floating(values.type):
        # Minus nought is nought.
        bits = (np.asarray(values.fill_null(0.0)) + 0.0).view(np.uint64)
    else:
        bits = np.asarray(values.cast(pa.int64()).fill_null(0)).view(np.uint64)
    nulls = np.asarray(pc.is_null(values))
    return np.where(nulls, _NULL, _mixed(bits))


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the outcome depends on every bit that goes in (the last steps of SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
