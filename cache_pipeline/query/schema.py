"""The columns that an answer must have, and the conversion of a vendor's rows to exactly those columns (G12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.lazy_imports import pa, pc
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report


class ColumnKind(StrEnum):
    """What a column contains."""

    dimension = "dimension"
    integer = "integer"
    number = "number"
    instant = "instant"


class Fold(StrEnum):
    """How the figures of two buckets or groups are merged; ``none`` if they cannot be (percentiles, distinct counts).

    ``same`` is for a configured value, such as a target: the value if all parts agree, else null.
    """

    sum = "sum"
    min = "min"
    max = "max"
    same = "same"
    none = "none"


@dataclass(frozen=True)
class Column:
    """One column of an answer.

    Attributes:
        name: The name in snake_case, as analysts write it in SQL.
        kind: What the column contains.
        nullable: Whether the column may be null. Dimensions always may, because vendors leave out a dimension without a
            value. Of the metrics only those may that have no value if nothing happened, such as a minimum.
        description: A description for people, shown in Dagster.
        source: The vendor's name of the dimension or metric. Several columns may contain parts of one metric.
        fold: How the metric is rolled up. A ratio is stored as its parts, which add up although the ratio does not.
        is_multivalued: Whether one event may be counted under several values of the dimension, so that a sum over them
            counts it more than once.
    """

    name: str
    kind: ColumnKind
    nullable: bool = False
    description: str = ""
    source: str = ""
    fold: Fold = Fold.none
    is_multivalued: bool = False


_TableOrBatch = TypeVar("_TableOrBatch", "pa.Table", "pa.RecordBatch")
#: Beyond it a float cannot represent every whole number, so a count may have lost digits.
_MAX_EXACT_FLOAT = 2**53


def to_snake_case(name: str) -> str:
    """Convert a name to snake_case: ``handleMs`` → ``handle_ms``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


#: The column of a view that says whether a row is final.
FINAL_COLUMN = "is_final"
#: Ends the names of a view's columns that show an instant on the clocks of the report's time zone.
LOCAL_SUFFIX = "_local"
#: Columns that a superseded row has in addition to those of its table.
VERSION_COLUMNS = ("known_until", "is_absence", "fetched_at", "refetched_at")
#: Columns that every table or view has in addition to its report's: our own, and PostgreSQL's system columns.
_RESERVED_NAMES = frozenset(
    {*VERSION_COLUMNS, "series", FINAL_COLUMN, "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
    | {f"{name}{suffix}" for name in ("interval_start", "interval_end") for suffix in ("", LOCAL_SUFFIX)}
)
#: PostgreSQL silently truncates longer names.
_MAX_NAME_BYTES = 63


def find_invalid_names(columns: Iterable[Column]) -> Iterator[tuple[Column, str]]:
    """Find columns whose names a table cannot have, and yield each with a description of the problem."""
    seen: set[str] = set(_RESERVED_NAMES)
    for column in columns:
        name = column.name
        names = {name, f"{name}{LOCAL_SUFFIX}"} if column.kind is ColumnKind.instant else {name}
        if not name or not name.isprintable():
            yield column, f"{name!r} cannot be a column name: it is empty or has unprintable characters"
        elif len(max(names, key=len).encode()) > _MAX_NAME_BYTES:
            yield (
                column,
                f"{max(names, key=len)!r} is longer than the {_MAX_NAME_BYTES} bytes that a column name may have",
            )
        elif taken := sorted(names & seen):
            yield column, f"{column.source or name!r} would be a second column {taken[0]!r}"
        seen |= names


def to_arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """Return the Arrow schema: ``interval_start``, ``interval_end`` (UTC, microseconds), then the columns in order."""
    instant = pa.timestamp("us", tz="UTC")
    types: Mapping[ColumnKind, pa.DataType] = {
        ColumnKind.dimension: pa.string(),
        ColumnKind.integer: pa.int64(),
        ColumnKind.number: pa.float64(),
        ColumnKind.instant: instant,
    }
    return pa.schema(
        [
            pa.field("interval_start", instant, nullable=False),
            pa.field("interval_end", instant, nullable=False),
            *(pa.field(column.name, types[column.kind], nullable=column.nullable) for column in columns),
        ]
    )


def _to_whole_number(value: object, column: str) -> object:
    # Arrow silently drops the fraction of a float.
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise SchemaMismatch(f"column {column} holds {value} where a whole number is declared")
    if abs(value) > _MAX_EXACT_FLOAT:
        raise SchemaMismatch(
            f"column {column} holds {value}, written as a float too large to be exact: write it without a fraction"
        )
    return int(value)


def rows_to_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Convert rows to a table of exactly that schema.

    Raises:
        SchemaMismatch: A column is missing, unknown, of another type, or null although it must not be.
    """
    names = set(schema.names)
    for row in rows:
        if set(row) != names:
            missing, unknown = sorted(names - row.keys()), sorted(row.keys() - names)
            raise SchemaMismatch(
                f"a row lacks {missing} and has unknown {unknown}" if missing else f"unknown {unknown}"
            )
    arrays: list[pa.Array[Any]] = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if any(isinstance(value, bool) for value in values):
            raise SchemaMismatch(f"column {field.name} holds a boolean where {field.type} is declared")
        if pa.types.is_integer(field.type):
            values = [_to_whole_number(value, field.name) for value in values]
        try:
            array = pa.array(values, type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            raise SchemaMismatch(f"column {field.name} is not {field.type}: {error}") from error
        if array.null_count and not field.nullable:
            raise SchemaMismatch(f"column {field.name} is null in {array.null_count} rows, but must not be")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def fold_rows(rows: pa.Table, keys: Sequence[str], folds: Mapping[str, Fold]) -> pa.Table:
    """Merge the rows that have equal keys.

    Args:
        rows: The rows.
        keys: The columns that identify a merged row.
        folds: How each of the other columns is merged; none of them is `Fold.none`.

    Returns:
        A table of the keys and the merged columns, in no order.
    """
    parts = [(name, how) for name, fold in folds.items() for how in _AGGREGATIONS[fold]]
    grouped = rows.group_by(list(keys), use_threads=False).aggregate(parts)  # pyright: ignore[reportArgumentType]
    columns: dict[str, Any] = {name: grouped[name] for name in keys}
    for name, fold in folds.items():
        first, *rest = (grouped[f"{name}_{how}"] for how in _AGGREGATIONS[fold])
        columns[name] = first if not rest else pc.if_else(pc.equal(first, rest[0]), first, pa.scalar(None, first.type))
    return pa.table(columns)


_AGGREGATIONS: Mapping[Fold, tuple[Literal["sum", "min", "max"], ...]] = {
    Fold.sum: ("sum",),
    Fold.min: ("min",),
    Fold.max: ("max",),
    Fold.same: ("min", "max"),
}


def dimension_names(report: Report) -> list[str]:
    """Return the names of a report's dimension columns."""
    return [to_snake_case(dimension) for dimension in report.group_by]


def rows_within(rows: _TableOrBatch, interval: Interval) -> _TableOrBatch:
    """Return the rows of a table or batch whose bucket starts inside the interval."""
    starts, instant = rows.column("interval_start"), pa.timestamp("us", tz="UTC")
    inside = pc.and_(
        pc.greater_equal(starts, pa.scalar(interval.start, instant)),
        pc.less(starts, pa.scalar(interval.end, instant)),
    )
    return rows.filter(inside)


def sort_rows(table: pa.Table) -> pa.Table:
    """Sort rows by bucket and group, so that equal answers are equal tables."""
    keys = ["interval_start", *(field.name for field in table.schema if pa.types.is_string(field.type))]
    return table.sort_by([(key, "ascending") for key in keys])
