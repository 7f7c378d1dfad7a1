"""Tests of the conversion of rows to Arrow tables, and of column names."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import (
    Column,
    ColumnKind,
    rows_to_table,
    rows_within,
    sort_rows,
    to_arrow_schema,
    to_snake_case,
)

COLUMNS = (
    Column("media_type", ColumnKind.dimension, nullable=True),
    Column("queue_id", ColumnKind.dimension, nullable=True),
    Column("offered", ColumnKind.integer),
    Column("share", ColumnKind.number),
    Column("longest", ColumnKind.number, nullable=True),
)
SCHEMA = to_arrow_schema(COLUMNS)
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "interval_start": START,
        "interval_end": START + HOUR,
        "media_type": "voice",
        "queue_id": "q1",
        "offered": 3,
        "share": 0.5,
        "longest": None,
        **changes,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    return rows_to_table(rows, SCHEMA)


def test_valid_rows_become_a_table_of_the_schema():
    converted = table(
        row(), row(queue_id=None, offered=2**63 - 1, share=1, longest=2.5), row(queue_id="q2", offered=4.0)
    )
    assert converted.schema == SCHEMA
    assert converted["offered"].to_pylist() == [3, 2**63 - 1, 4]
    assert converted["queue_id"].to_pylist() == ["q1", None, "q2"]
    assert table().schema == SCHEMA


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"offered": None}, "offered is null in 1 rows"),
        ({"interval_start": None}, "interval_start is null"),
        ({"offered": True}, "offered holds a boolean"),
        ({"share": False}, "share holds a boolean"),
        ({"queue_id": True}, "queue_id holds a boolean"),
        ({"offered": 1.5}, "offered holds 1.5 where a whole number"),
        ({"offered": float("nan")}, "offered holds nan where a whole number"),
        ({"offered": 2**63}, "offered is not int64"),
        ({"offered": 1e300}, "offered holds 1e\\+300, written as a float too large to be exact"),
        ({"offered": 2.0**53 + 2}, "written as a float too large to be exact"),
        ({"offered": "3"}, "offered is not int64"),
        ({"share": "0.5"}, "share is not double"),
        ({"share": 2**53 + 1}, "share is not double"),
        ({"queue_id": 7}, "queue_id is not string"),
        ({"queue_id": ["q1"]}, "queue_id is not string"),
        ({"queue_id": "\ud800"}, "queue_id is not string"),
        ({"interval_start": "2026-01-05T08:00:00Z"}, "interval_start is not timestamp"),
        ({"surprise": 1}, "unknown \\['surprise'\\]"),
    ],
)
def test_invalid_value_error_names_the_column(invalid, message):
    with pytest.raises(SchemaMismatch, match=message):
        table(row(), row(**invalid))


def test_missing_column_is_named():
    short = row()
    del short["offered"]
    with pytest.raises(SchemaMismatch, match="lacks \\['offered'\\]"):
        table(row(), short)
    with pytest.raises(SchemaMismatch, match="lacks \\['offered'\\] and has unknown \\['offred'\\]"):
        table({**short, "offred": 3})


def test_rows_within_selects_by_bucket_start():
    rows = [row(interval_start=START + n * HOUR, interval_end=START + (n + 1) * HOUR, offered=n) for n in range(3)]
    selected = rows_within(table(*rows), Interval(START + HOUR, START + 2 * HOUR))
    assert selected["offered"].to_pylist() == [1]
    [batch] = table(*rows).to_batches()
    assert rows_within(batch, Interval(START + HOUR, START + 3 * HOUR))["offered"].to_pylist() == [1, 2]


def test_sorted_tables_do_not_depend_on_row_order():
    rows = [row(queue_id=queue, media_type=media) for queue in ("q2", None, "q1") for media in ("voice", None)]
    forward, backward = table(*rows), pa.concat_tables([table(*rows[:2:-1]), table(*rows[2::-1])])
    assert sort_rows(forward).equals(sort_rows(backward))


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("tHandle", "t_handle"),
        ("queueId", "queue_id"),
        ("offered", "offered"),
        ("oServiceLevel", "o_service_level"),
        ("answeredWithinTarget", "answered_within_target"),
        ("HTTPStatus", "http_status"),
        ("userID", "user_id"),
        ("already_snake", "already_snake"),
        ("q2Wait", "q2_wait"),
    ],
)
def test_names_become_snake_case(name, snake):
    assert to_snake_case(name) == snake
    assert to_snake_case(snake) == snake
