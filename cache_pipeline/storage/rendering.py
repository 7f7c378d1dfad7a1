"""Render rows as text, column by column, in Arrow's own code, which lets other threads run meanwhile.

Values of a column repeat: the same bucket and the same queue stand in many rows. So only distinct values become Python objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from cache_pipeline.lazy_imports import pa, pc
from cache_pipeline.query.interval import format_instant

#: A spreadsheet takes a cell that begins with one of these for a formula. The last four are full-width forms of =, +, - and @.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

if TYPE_CHECKING:
    Column = pa.Array[Any]


def rows_as_json(rows: pa.Table) -> bytes:
    """Return rows as a JSON array of arrays; instants are ISO 8601 in UTC.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    if not rows.num_rows:
        return b"[]"
    lines = _join_columns([_as_text(column, _json_text, null="null") for column in _columns(rows)])
    return b"".join((b"[[", _join(lines, "],["), b"]]"))


def rows_as_csv(rows: pa.Table, *, has_safe_text: bool = False) -> bytes:
    """Return rows as lines of CSV (RFC 4180) without a heading; a missing value becomes an empty field.

    Args:
        rows: The rows.
        has_safe_text: Whether texts are written as `disarm_formula` returns them.
    """
    if not rows.num_rows:
        return b""
    to_text = _safe_csv_text if has_safe_text else csv_text
    lines = _join_columns([_as_text(column, to_text, null="") for column in _columns(rows)])
    return _join(lines, "\r\n") + b"\r\n"


def csv_heading(names: Sequence[str], *, has_safe_text: bool = False) -> bytes:
    """Return the line of CSV that precedes the rows of `rows_as_csv`."""
    to_text = _safe_csv_text if has_safe_text else csv_text
    return f"{','.join(map(to_text, names))}\r\n".encode()


def disarm_formula(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula: one that would be gets a leading apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _safe_csv_text(value: object) -> str:
    return csv_text(disarm_formula(value) if isinstance(value, str) else value)


def csv_text(value: object) -> str:
    """Return a value as a field of CSV, in quotes if it needs them."""
    if not isinstance(value, str):
        return format_instant(value) if isinstance(value, datetime) else _number_text(value)
    if any(character in value for character in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def _json_text(value: object) -> str:
    return json.dumps(format_instant(value) if isinstance(value, datetime) else value, allow_nan=False)


def _number_text(value: object) -> str:
    return json.dumps(value)


def _columns(rows: pa.Table) -> list[Column]:
    return [column.combine_chunks() for column in rows.itercolumns()]


def _as_text(column: Column, to_text: Callable[[object], str], *, null: str) -> Column:
    """Return the text of each value of a column."""
    if pa.types.is_integer(column.type):
        text = pc.cast(column, pa.string())
    else:
        encoded = cast("Any", pc.dictionary_encode(column))
        distinct = pa.array([to_text(value) for value in encoded.dictionary.to_pylist()], pa.string())
        text = distinct.take(encoded.indices)
    return cast("Column", cast("Any", pc.fill_null)(text, null))


def _join_columns(columns: list[Column]) -> Column:
    return cast("Column", cast("Any", pc.binary_join_element_wise)(*columns, ","))


def _join(lines: Column, separator: str) -> bytes:
    whole = pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines)
    return cast("Any", pc.binary_join)(whole, separator)[0].as_buffer().to_pybytes()
