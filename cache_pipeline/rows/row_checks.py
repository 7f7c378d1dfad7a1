"""Checks that rows match their query, batch by batch, so that any number of them can be checked (G12)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.lazy_imports import np, pa, pc
from cache_pipeline.query.calendar import list_buckets
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import dimension_names
from cache_pipeline.rows.digest import microseconds, row_hashes
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import temporary_folder_error

if TYPE_CHECKING:
    from cache_pipeline.rows.digest import Hashes

#: Hashes of eight bytes that are compared in memory at a time. Beyond this number they are spooled to disk.
_MAX_HASHES_IN_MEMORY = 2**18
_HASH_BYTES = 8
_READ_BYTES = 2**16 * _HASH_BYTES


class RowCheck:
    """The checks that need only one batch at a time."""

    def __init__(self, report: Report, interval: Interval) -> None:
        self._interval = interval
        expected = pa.table(
            {
                "start": pa.array([bucket.start for bucket in list_buckets(interval, report.step, report.zone)]),
                "end": pa.array([bucket.end for bucket in list_buckets(interval, report.step, report.zone)]),
            }
        )
        self._starts, self._ends = microseconds(expected, "start"), microseconds(expected, "end")

    def __call__(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Check some rows.

        Raises:
            SchemaMismatch: A column is null although it must not be, a row is outside the interval or is not one of its
                buckets, or a value is NaN, infinity, or has a NUL character, which PostgreSQL cannot store.
        """
        for field in rows.schema:
            column = rows.column(field.name)
            if column.null_count and not field.nullable:
                raise SchemaMismatch(f"column {field.name} is null in {column.null_count} rows, but must not be")
            if pa.types.is_floating(field.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
                raise SchemaMismatch(f"column {field.name} contains NaN or infinity")
            if pa.types.is_string(field.type) and pc.any(pc.match_substring(column, "\0")).as_py():
                raise SchemaMismatch(f"column {field.name} contains a NUL character")
        starts, ends = microseconds(rows, "interval_start"), microseconds(rows, "interval_end")
        indices = np.maximum(np.searchsorted(self._starts, starts, side="right") - 1, 0)
        misplaced = np.flatnonzero((self._starts[indices] != starts) | (self._ends[indices] != ends))
        if len(misplaced):
            row = rows.slice(int(misplaced[0]), 1)
            start, end = (row.column(name)[0].as_py() for name in ("interval_start", "interval_end"))
            raise SchemaMismatch(f"a row of {start}/{end}, which is not a bucket of {self._interval}")


def check_rows(rows: Rows, report: Report, interval: Interval) -> None:
    """Check an answer against its query.

    Raises:
        SchemaMismatch: A check of ``RowCheck`` fails, or a group occurs twice in a bucket.
    """
    check = RowCheck(report, interval)
    for batch in rows.batches():
        check(batch)
    check_groups(rows, report)


def check_groups(rows: Rows, report: Report) -> None:
    """Check that no group occurs twice in a bucket.

    Raises:
        SchemaMismatch: A group does; the error names it.
        DiskUnwritable: There are many rows, and the disk has no space to compare them.
    """
    keys = ["interval_start", *dimension_names(report)]
    suspects = find_repeated_hashes(rows, keys)
    if not len(suspects):
        return
    # Different groups may have equal hashes, so compare the rows themselves.
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


def find_repeated_hashes(rows: Rows, keys: Sequence[str]) -> Hashes:
    """Return the hashes of the keys that two or more rows may share.

    Raises:
        DiskUnwritable: There are many rows, and the disk has no space to compare them.
    """
    passes = -(-rows.num_rows // _MAX_HASHES_IN_MEMORY)
    repeated = [np.empty(0, np.uint64)]
    with tempfile.SpooledTemporaryFile(max_size=_MAX_HASHES_IN_MEMORY * _HASH_BYTES) as file:
        try:
            for batch in rows.batches():
                file.write(row_hashes(batch, keys).tobytes())
        except OSError as error:
            raise temporary_folder_error(error) from error
        for part in range(passes):
            file.seek(0)
            found = [each[each % np.uint64(passes) == part] for each in _read_hashes(file)]
            hashes = np.sort(np.concatenate(found))
            repeated.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    return np.concatenate(repeated)


def _read_hashes(file: IO[bytes]) -> Iterator[Hashes]:
    while chunk := file.read(_READ_BYTES):
        yield np.frombuffer(chunk, np.uint64)
