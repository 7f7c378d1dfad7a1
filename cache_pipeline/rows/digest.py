"""Order-independent digests of rows: two sets of rows are the same if their counts and both sums are the same.

The hashes are fast but not cryptographic. They detect truncated answers, not forgery.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cache_pipeline.lazy_imports import np, pa, pc
from cache_pipeline.query.tallies import RowTally

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULL = 0x9E3779B97F4A7C15


def tally_by_bucket(rows: pa.RecordBatch | pa.Table) -> dict[datetime, RowTally]:
    """Return the tally of each bucket by its start."""
    if not rows.num_rows:
        return {}
    hashes = row_hashes(rows, rows.schema.names)
    starts = microseconds(rows, "interval_start")
    order = np.argsort(starts, kind="stable")
    found, first, counts = np.unique(starts[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(hashes[order], first)
    seconds = np.add.reduceat(_mix(hashes[order] ^ np.uint64(_NULL)), first)
    return {
        _EPOCH + timedelta(microseconds=int(start)): RowTally(int(count), int(one), int(two))
        for start, count, one, two in zip(found, counts, sums, seconds, strict=True)
    }


def row_hashes(rows: pa.RecordBatch | pa.Table, columns: Iterable[str]) -> Hashes:
    """Hash each row's values in some columns. Equal values have equal hashes in every batch and process."""
    hashes = np.full(rows.num_rows, _NULL, np.uint64)
    for name in columns:
        hashes = _mix(hashes ^ _value_hashes(_contiguous(rows, name)))
    return hashes


def microseconds(rows: pa.RecordBatch | pa.Table, column: str) -> npt.NDArray[np.int64]:
    """Return a column of instants, none of them null, as microseconds since the epoch."""
    return np.asarray(_contiguous(rows, column).cast(pa.int64()))


def _contiguous(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array[Any]:
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _value_hashes(values: pa.Array[Any]) -> Hashes:
    if pa.types.is_string(values.type):
        # Names repeat, so hash each distinct one once.
        encoded = values.dictionary_encode()
        # Imported here because pandas takes longer than everything else that a process needs to serve stored answers.
        from pandas.util import hash_array

        names = np.array(encoded.dictionary.to_pylist(), dtype=object)
        hashes = np.append(hash_array(names, categorize=False), np.uint64(_NULL))
        return hashes[np.asarray(encoded.indices.fill_null(len(names)), dtype=np.int64)]
    if pa.types.is_floating(values.type):
        # Adding 0.0 turns minus zero into zero.
        bits = (np.asarray(values.fill_null(0.0)) + 0.0).view(np.uint64)
    else:
        bits = np.asarray(values.cast(pa.int64()).fill_null(0)).view(np.uint64)
    nulls = np.asarray(pc.is_null(values))
    return np.where(nulls, np.uint64(_NULL), _mix(bits))


def _mix(hashes: Hashes) -> Hashes:
    """Mix hashes so that every output bit depends on every input bit (the last steps of SplitMix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
