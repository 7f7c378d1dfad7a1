"""Holds rows against what was asked, batch by batch, however many there are (G12)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names
from cache_pipeline.rows.digest import Hashes, microseconds, row_hashes
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import unwritable

#: Hashes that are compared at a time, eight bytes each; more of them wait on disk.
_HASHES_AT_ONCE = 2**18
_HASH_BYTES = np.dtype(np.uint64).itemsize
_READ_AT_ONCE = 2**16 * _HASH_BYTES


class RowCheck:
    """What can be said of a batch by itself."""

    def __init__(self, report: Report, interval: Interval) -> None:
        self._interval = interval
        asked = pa.table(
            {
                "start": pa.array([bucket.start for bucket in list_buckets(interval, report.step, report.zone)]),
                "end": pa.array([bucket.end for bucket in list_buckets(interval, report.step, report.zone)]),
            }
        )
        self._starts, self._ends = microseconds(asked, "start"), microseconds(asked, "end")

    def __call__(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Look at some rows.

        Raises:
            SchemaMismatch: null where it may not be, rows outside the interval or off its buckets, NaN or infinity, or
                a NUL character, which PostgreSQL cannot keep.
        """
        for field in rows.schema:
            column = rows.column(field.name)
            if column.null_count and not field.nullable:
                raise SchemaMismatch(f"column {field.name} is null in {column.null_count} rows, and may not be")
            if pa.types.is_floating(field.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
                raise SchemaMismatch(f"column {field.name} holds NaN or infinity")
            if pa.types.is_string(field.type) and pc.any(pc.match_substring(column, "\0")).as_py():
                raise SchemaMismatch(f"column {field.name} holds a NUL character")
        starts, ends = microseconds(rows, "interval_start"), microseconds(rows, "interval_end")
        places = np.maximum(np.searchsorted(self._starts, starts, side="right") - 1, 0)
        astray = np.flatnonzero((self._starts[places] != starts) | (self._ends[places] != ends))
        if len(astray):
            row = rows.slice(int(astray[0]), 1)
            start, end = (row.column(name)[0].as_py() for name in ("interval_start", "interval_end"))
            raise SchemaMismatch(f"rows of {start}/{end}, which is no bucket of {self._interval}")


def check_rows(rows: Rows, report: Report, interval: Interval) -> None:
    """Hold an answer against what was asked.

    Raises:
        SchemaMismatch: as ``RowCheck`` does, or a group comes twice in a bucket.
    """
    check = RowCheck(report, interval)
    for batch in rows.batches():
        check(batch)
    check_groups(rows, report)


def check_groups(rows: Rows, report: Report) -> None:
    """Make sure that no group comes twice in a bucket.

    Raises:
        SchemaMismatch: one does; it is named.
        DiskUnwritable: there are many rows, and no room on disk to compare them.
    """
    keys = ["interval_start", *dimension_names(report)]
    suspects = _repeated_hashes(rows, keys)
    if not len(suspects):
        return
    # Different groups may have one hash: only the rows themselves tell.
    found = pa.Table.from_batches(
        [batch.select(keys).filter(pa.array(np.isin(row_hashes(batch, keys), suspects))) for batch in rows.batches()]
    )
    counted = found.group_by(keys).aggregate([([], "count_all")])
    repeated = counted.filter(pc.greater(counted["count_all"], pa.scalar(1)))
    if repeated.num_rows:
        extra = found.num_rows - counted.num_rows
        first = {name: repeated[name][0].as_py() for name in keys}
        group = ", ".join(f"{name} {value}" for name, value in first.items())
        raise SchemaMismatch(f"{extra} rows repeat a group within their bucket, {group} first")


def _repeated_hashes(rows: Rows, keys: list[str]) -> Hashes:
    passes = -(-rows.num_rows // _HASHES_AT_ONCE)
    repeated = [np.empty(0, np.uint64)]
    with tempfile.SpooledTemporaryFile(max_size=_HASHES_AT_ONCE * _HASH_BYTES) as file:
        try:
            for batch in rows.batches():
                file.write(row_hashes(batch, keys).tobytes())
        except OSError as error:
            raise unwritable(error) from error
        for part in range(passes):
            file.seek(0)
            found = [each[each % np.uint64(passes) == part] for each in _hashes(file)]
            hashes = np.sort(np.concatenate(found))
            repeated.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    return np.concatenate(repeated)


def _hashes(file: IO[bytes]) -> Iterator[Hashes]:
    while some := file.read(_READ_AT_ONCE):
        yield np.frombuffer(some, np.uint64)
