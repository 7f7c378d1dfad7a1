"""Rows that belong together: a record that the vendor sent twice, and a group that it split further than asked.

Both are merged over the whole answer, because the parts may be on different pages. Memory is bounded: rows are compared by hashes,
and folded a share of the groups at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.lazy_imports import np, pa, pc
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import Column, ColumnKind, Fold, dimension_names, fold_rows, to_arrow_schema
from cache_pipeline.rows.digest import row_hashes
from cache_pipeline.rows.row_checks import find_repeated_hashes
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool

#: The column of the group keys that were not asked for, while an answer is read.
SPLIT_COLUMN = "_split"
#: Rows that are folded in memory at a time.
_ROWS_PER_PASS = 2**18
_MAX_VALUE_LENGTH = 80


def split_field() -> pa.Field[Any]:
    """Return the field of ``SPLIT_COLUMN``."""
    return pa.field(SPLIT_COLUMN, pa.string())


@dataclass(frozen=True)
class MergedRows:
    """The rows of an answer, with each record and each group once.

    Attributes:
        rows: The rows in the report's schema.
        sent: The number of rows as the vendor sent them in each bucket, by its start, if it split the groups further than
            asked; empty if it did not.
        repeats: The number of rows that the vendor sent more than once.
    """

    rows: Rows
    sent: Mapping[datetime, int]
    repeats: int


class CollectedRows:
    """Collects the pages of an answer, and merges what belongs together."""

    def __init__(self, report: Report, columns: Sequence[Column]) -> None:
        self._report, self._columns = report, columns
        self._schema = to_arrow_schema(columns)
        self._spool = Spool(self._schema)
        self._is_split = False

    def append(self, rows: pa.Table, split: pa.Array[Any] | None) -> None:
        """Append a page.

        Args:
            rows: Its rows, in the report's schema.
            split: For each row the group keys that were not asked for, or null; None if no row has any.
        """
        if split is not None and not self._is_split:
            earlier, self._is_split = self._spool.rows(), True
            self._spool = Spool(self._schema.append(split_field()))
            for batch in earlier.batches():
                self.append(pa.Table.from_batches([batch]), None)
        if self._is_split:
            values = pa.nulls(rows.num_rows, split_field().type) if split is None else split
            rows = rows.append_column(split_field(), values)
        self._spool.append(rows)

    def merge(self) -> MergedRows:
        """Return all rows, with each record and each group once.

        Raises:
            SchemaMismatch: Two different records have the same keys, or a figure of a split group cannot be folded.
            DiskUnwritable: There are many rows, and the disk has no space for them.
        """
        keys = ["interval_start", *dimension_names(self._report)]
        received = self._spool.rows()
        if not self._is_split:
            once = drop_repeats(received, keys)
            return MergedRows(once, {}, received.num_rows - once.num_rows)
        once = drop_repeats(received, [*keys, SPLIT_COLUMN])
        return MergedRows(
            fold_groups(once, keys, self._columns, self._report.group_by),
            {start: tally.rows for start, tally in once.tallies.items()},
            received.num_rows - once.num_rows,
        )


def drop_repeats(rows: Rows, keys: Sequence[str]) -> Rows:
    """Return the rows with each record once: vendors repeat records on a page and across pages.

    Args:
        rows: The rows of one answer.
        keys: The columns that identify a record.

    Raises:
        SchemaMismatch: Two different records have the same keys; the error names both.
        DiskUnwritable: There are many rows, and the disk has no space for them.
    """
    suspects = find_repeated_hashes(rows, keys)
    if not len(suspects):
        return rows
    names, kept = rows.schema.names, Spool(rows.schema)
    repeated: list[pa.RecordBatch] = []
    for batch in rows.batches():
        is_suspect = pa.array(np.isin(row_hashes(batch, keys), suspects))
        kept.append(batch.filter(pc.invert(is_suspect)))
        repeated.append(batch.filter(is_suspect))
    once = pa.Table.from_batches(repeated).group_by(names, use_threads=False).aggregate([]).select(names)
    _check_one_record_each(once, keys)
    kept.append(once.cast(rows.schema).combine_chunks())
    return kept.rows()


def _check_one_record_each(rows: pa.Table, keys: Sequence[str]) -> None:
    counted = rows.group_by(list(keys), use_threads=False).aggregate([([], "count_all")])
    ambiguous = counted.filter(pc.greater(counted["count_all"], pa.scalar(1))).select(list(keys))
    if not ambiguous.num_rows:
        return
    key = ambiguous.slice(0, 1).to_pylist()[0]
    first, second = [row for row in rows.to_pylist() if all(row[name] == key[name] for name in keys)][:2]
    name = next(name for name in rows.schema.names if first[name] != second[name])
    raise SchemaMismatch(
        f"two different records of {_describe(key)}: {name} is {_short(first[name])} in one and {_short(second[name])} in "
        f"the other; {ambiguous.num_rows} such pairs in all"
    )


def fold_groups(rows: Rows, keys: Sequence[str], columns: Sequence[Column], asked: Sequence[str]) -> Rows:
    """Return the rows with each group once: those of a split group are folded into one.

    Counts and sums add up, minima and maxima fold; a ratio follows from its parts, which are sums.

    Args:
        rows: The rows of one answer, with ``SPLIT_COLUMN``.
        keys: The columns that identify a group.
        columns: The columns of the report.
        asked: The dimensions of the query, as the vendor names them.

    Returns:
        Rows of the same schema without ``SPLIT_COLUMN``.

    Raises:
        SchemaMismatch: A split group has a figure that cannot be folded; the error names it and the dimension to group by.
        DiskUnwritable: There are many rows, and the disk has no space for them.
    """
    schema = pa.schema([field for field in rows.schema if field.name != SPLIT_COLUMN])
    folded = Spool(schema)
    passes = max(1, -(-rows.num_rows // _ROWS_PER_PASS))
    for number in range(passes):
        batches = [
            batch.filter(pa.array(row_hashes(batch, keys) % np.uint64(passes) == number)) for batch in rows.batches()
        ]
        folded.append(_fold_table(pa.Table.from_batches(batches, rows.schema), schema, keys, columns, asked))
    return folded.rows()


def _fold_table(
    rows: pa.Table, schema: pa.Schema, keys: Sequence[str], columns: Sequence[Column], asked: Sequence[str]
) -> pa.Table:
    measures = [column for column in columns if column.kind is not ColumnKind.dimension]
    fixed = [column for column in measures if column.fold is Fold.none]
    if fixed:
        _check_not_split(rows, keys, fixed, asked)
    by_group = [*dict.fromkeys([*keys, "interval_end"])]
    # Groups with a figure that cannot be folded are not split, so any fold keeps their one value.
    folds = {column.name: Fold.max if column.fold is Fold.none else column.fold for column in measures}
    return fold_rows(rows, by_group, folds).select(schema.names).cast(schema).combine_chunks()


def _check_not_split(rows: pa.Table, keys: Sequence[str], fixed: Sequence[Column], asked: Sequence[str]) -> None:
    counted = rows.group_by(list(keys), use_threads=False).aggregate([([], "count_all"), (SPLIT_COLUMN, "max")])
    split = counted.filter(pc.greater(counted["count_all"], pa.scalar(1)))
    if split.num_rows:
        metrics = ", ".join(dict.fromkeys(column.source or column.name for column in fixed))
        dimensions = ", ".join(
            sorted({part.partition("=")[0] for part in (split[f"{SPLIT_COLUMN}_max"][0].as_py() or "").split("\n")})
        )
        raise SchemaMismatch(
            f"the vendor split the groups of {', '.join(asked) or 'the total'} by {dimensions}, and {metrics} cannot be "
            f"folded: add {dimensions} to group_by"
        )


def _describe(key: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in key.items())


def _short(value: object) -> str:
    return str(value)[:_MAX_VALUE_LENGTH]
