"""Rows as JSON and CSV: the same text as the standard library's, from Arrow's own code."""

import csv
import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_pipeline.query.interval import format_instant
from cache_pipeline.storage.rendering import disarm_formula, rows_as_csv, rows_as_json

VALUES = {
    pa.timestamp("us", tz="UTC"): st.integers(0, 2**31).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
}


@st.composite
def tables(draw):
    count = draw(st.integers(0, 5))
    columns = {
        f"c{number}": pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=count, max_size=count)), kind)
        for number, kind in enumerate(draw(st.lists(st.sampled_from(list(VALUES)), min_size=2, max_size=4)))
    }
    return pa.table(columns)


def plain_rows(table):
    columns = [
        [format_instant(value) if isinstance(value, datetime) else value for value in column.to_pylist()]
        for column in table.itercolumns()
    ]
    return [list(row) for row in zip(*columns, strict=True)]


@given(tables())
def test_text_equals_that_of_the_standard_library(table):
    rows = plain_rows(table)
    assert rows_as_json(table) == json.dumps(rows, separators=(",", ":")).encode()
    assert list(csv.reader(io.StringIO(rows_as_csv(table).decode(), newline=""))) == [
        ["" if value is None else str(value) for value in row] for row in rows
    ]


def test_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        rows_as_json(pa.table({"x": [float("nan")]}))


@pytest.mark.parametrize("text", ["=1+1", "+49 30", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff20a"])
def test_text_that_would_be_a_formula_is_disarmed(text):
    table = pa.table({"a": [text, "plain", "a=1", "", None], "b": [-1, 2, 3, 4, 5], "c": [-0.5] * 5})
    plain = list(csv.reader(io.StringIO(rows_as_csv(table).decode(), newline="")))
    safe = list(csv.reader(io.StringIO(rows_as_csv(table, has_safe_text=True).decode(), newline="")))
    assert plain[0] == [text, "-1", "-0.5"]
    # Numbers stay numbers.
    assert safe == [[f"'{text}", "-1", "-0.5"], *plain[1:]]
    assert disarm_formula(safe[0][0]) == safe[0][0]
