"""The columns an answer must have, and turning a vendor's rows into exactly those (G12)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.report import Report


class ColumnKind(StrEnum):
    """What a column holds."""

    dimension = "dimension"
    integer = "integer"
    number = "number"
    instant = "instant"


class Fold(StrEnum):
    """How the figures of two buckets or groups become one; ``none`` where they cannot (percentiles, distinct counts)."""

    sum = "sum"
    min = "min"
    max = "max"
    none = "none"


@dataclass(frozen=True)
class Column:
    """One column of an answer.

    Attributes:
        name: snake_case, as analysts write it in SQL.
        kind: what it holds.
        nullable: dimensions always are (a vendor leaves out a dimension without a value); of the metrics only those
            that have no value when nothing happened, such as a minimum.
        description: for people, shown in Dagster.
        source: the vendor's name of the dimension or metric it holds; several columns may hold parts of one metric.
        fold: how a metric's figures are rolled up. For a ratio these are its parts, which add where it does not.
        multivalued: one event may be counted under several values of the dimension, so that their sum counts it twice.
    """

    name: str
    kind: ColumnKind
    nullable: bool = False
    description: str = ""
    source: str = ""
    fold: Fold = Fold.none
    is_multivalued: bool = False


_Some = TypeVar("_Some", pa.Table, pa.RecordBatch)
_INSTANT = pa.timestamp("us", tz="UTC")
#: Beyond it a float skips whole numbers, so that a count has lost digits on the way.
_LARGEST_WHOLE_FLOAT = 2**53
_ARROW_TYPES: Mapping[ColumnKind, pa.DataType] = {
    ColumnKind.dimension: pa.string(),
    ColumnKind.integer: pa.int64(),
    ColumnKind.number: pa.float64(),
    ColumnKind.instant: _INSTANT,
}


def snake_case(name: str) -> str:
    """``tHandle`` → ``t_handle``, ``queueId`` → ``queue_id``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


#: A table has these besides the columns of its report: ours, and those that PostgreSQL gives to every one.
_OWN_NAMES = frozenset({"series", "interval_start", "interval_end", "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
#: PostgreSQL cuts longer names off without a word.
_LONGEST_NAME_BYTES = 63


def find_invalid_names(columns: Iterable[Column]) -> Iterator[str]:
    """Columns that no table can have beside the others, each with what is wrong."""
    seen: set[str] = set(_OWN_NAMES)
    for column in columns:
        name = column.name
        if not name or not name.isprintable():
            yield f"{name!r} can be no column's name: it is empty or has characters that do not print"
        elif len(name.encode()) > _LONGEST_NAME_BYTES:
            yield f"{name!r} is longer than the {_LONGEST_NAME_BYTES} bytes that a column's name may have"
        elif name in seen:
            yield f"{column.source or name!r} would be a second column {name!r}"
        seen.add(name)


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """``interval_start``, ``interval_end`` (UTC, microseconds), then the columns in order."""
    return pa.schema(
        [
            pa.field("interval_start", _INSTANT, nullable=False),
            pa.field("interval_end", _INSTANT, nullable=False),
            *(pa.field(column.name, _ARROW_TYPES[column.kind], nullable=column.nullable) for column in columns),
        ]
    )


def _whole(value: object, column: str) -> object:
    # Arrow cuts the fraction off a float without a word.
    if not isinstance(value, float):
        return value
    if not value.is_integer():
        raise SchemaMismatch(f"column {column} holds {value} where a whole number is declared")
    if abs(value) > _LARGEST_WHOLE_FLOAT:
        raise SchemaMismatch(f"column {column} holds {value}, written as a float too large to be exact: send it whole")
    return int(value)


def rows_to_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly that schema.

    Raises:
        SchemaMismatch: a column is missing, unknown, of another type, or null where it may not be.
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
            values = [_whole(value, field.name) for value in values]
        try:
            array = pa.array(values, type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            raise SchemaMismatch(f"column {field.name} is not {field.type}: {error}") from error
        if array.null_count and not field.nullable:
            raise SchemaMismatch(f"column {field.name} is null in {array.null_count} rows, and may not be")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def dimension_names(report: Report) -> list[str]:
    """The names of a report's dimension columns."""
    return [snake_case(dimension) for dimension in report.group_by]


def rows_within(rows: _Some, interval: Interval) -> _Some:
    """The rows, of a table or a batch, whose bucket starts inside the interval."""
    starts = rows.column("interval_start")
    inside = pc.and_(
        pc.greater_equal(starts, pa.scalar(interval.start, _INSTANT)),
        pc.less(starts, pa.scalar(interval.end, _INSTANT)),
    )
    return rows.filter(inside)


def sort_rows(table: pa.Table) -> pa.Table:
    """Sorted by bucket and group, so that equal answers are equal tables."""
    keys = ["interval_start", *(field.name for field in table.schema if pa.types.is_string(field.type))]
    return table.sort_by([(key, "ascending") for key in keys])
