"""Tests of records that come twice and of groups that come in parts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.schema import Column, ColumnKind, Fold, rows_to_table, to_arrow_schema
from cache_pipeline.rows import merge
from cache_pipeline.rows.merge import SPLIT_COLUMN, drop_repeats, fold_groups, split_field
from cache_pipeline.rows.rows import Rows

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
COLUMNS = (
    Column("queue_id", ColumnKind.dimension, nullable=True, source="queueId"),
    Column("n_offered", ColumnKind.integer, source="nOffered", fold=Fold.sum),
    Column("t_handle_sum", ColumnKind.number, source="tHandle", fold=Fold.sum),
    Column("t_handle_min", ColumnKind.number, nullable=True, source="tHandle", fold=Fold.min),
    Column("t_handle_max", ColumnKind.number, nullable=True, source="tHandle", fold=Fold.max),
)
DISTINCT = Column("n_conversations", ColumnKind.integer, source="nConversations")
KEYS = ["interval_start", "queue_id"]


def _row(queue: str | None, offered: int = 1, *, hour: int = 0, handle: float | None = None) -> dict[str, Any]:
    start = START + hour * timedelta(hours=1)
    return {
        "interval_start": start,
        "interval_end": start + timedelta(hours=1),
        "queue_id": queue,
        "n_offered": offered,
        "t_handle_sum": handle or 0.0,
        "t_handle_min": handle,
        "t_handle_max": handle,
    }


def _rows(*rows: dict[str, Any], split: list[str | None] | None = None) -> Rows:
    table = rows_to_table(rows, to_arrow_schema(COLUMNS))
    if split is not None:
        table = table.append_column(split_field(), pa.array(split, split_field().type))
    return Rows.from_table(table)


def _plain(rows: Rows) -> list[tuple[str | None, int, float, float | None, float | None]]:
    names = ("queue_id", "n_offered", "t_handle_sum", "t_handle_min", "t_handle_max")
    return sorted((tuple(row[name] for name in names) for row in rows.to_table().to_pylist()), key=str)


def test_identical_records_count_once() -> None:
    rows = _rows(_row("a", 2), _row("b", 2), _row("a", 2), _row(None), _row(None), _row("a", 2, hour=1))
    once = drop_repeats(rows, KEYS)
    assert once.num_rows == 4
    assert once.schema == rows.schema
    assert once.tallies == _rows(_row("a", 2), _row("b", 2), _row(None), _row("a", 2, hour=1)).tallies


def test_records_without_repeats_are_returned_as_they_are() -> None:
    rows = _rows(_row("a"), _row("b"))
    assert drop_repeats(rows, KEYS) is rows


def test_different_records_of_one_key_name_both() -> None:
    with pytest.raises(SchemaMismatch, match=r"queue_id a: n_offered is [23] in one and [23] in the other"):
        drop_repeats(_rows(_row("a", 2), _row("b"), _row("a", 3)), KEYS)


def test_split_groups_are_folded() -> None:
    rows = _rows(
        _row("a", 11, handle=402.0),
        _row("a", 3, handle=58.5),
        _row("b", 2),
        _row(None, 1, handle=7.0),
        _row(None, 1),
        _row("a", 4, hour=1),
        split=["mediaType=voice", "mediaType=chat", "mediaType=voice", "mediaType=voice", None, "mediaType=voice"],
    )
    folded = fold_groups(rows, KEYS, COLUMNS, ["queueId"])
    assert folded.schema == to_arrow_schema(COLUMNS)
    assert _plain(folded) == [
        ("a", 14, 460.5, 58.5, 402.0),
        ("a", 4, 0.0, None, None),
        ("b", 2, 0.0, None, None),
        (None, 2, 7.0, 7.0, 7.0),
    ]


def test_equal_parts_of_a_split_group_are_not_repeats() -> None:
    rows = _rows(
        _row("a", 2), _row("a", 2), _row("a", 2), split=["mediaType=voice", "mediaType=chat", "mediaType=chat"]
    )
    once = drop_repeats(rows, [*KEYS, SPLIT_COLUMN])
    assert once.num_rows == 2
    assert _plain(fold_groups(once, KEYS, COLUMNS, ["queueId"])) == [("a", 4, 0.0, None, None)]


def test_folding_in_shares_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_row(f"q{number % 50}", number, handle=float(number)) for number in range(500)]
    split: list[str | None] = [f"mediaType={number // 50}" for number in range(500)]
    whole = _plain(fold_groups(_rows(*rows, split=split), KEYS, COLUMNS, ["queueId"]))
    monkeypatch.setattr(merge, "_ROWS_PER_PASS", 64)
    assert _plain(fold_groups(_rows(*rows, split=split), KEYS, COLUMNS, ["queueId"])) == whole
    assert len(whole) == 50


@pytest.mark.parametrize("is_split", [True, False])
def test_figure_that_cannot_be_folded_names_the_dimension(is_split: bool) -> None:
    columns = (*COLUMNS[:1], DISTINCT)
    rows = [{**_row(queue), "n_conversations": 3} for queue in ("a", "a" if is_split else "b")]
    table = rows_to_table(
        [{name: row[name] for name in to_arrow_schema(columns).names} for row in rows], to_arrow_schema(columns)
    )
    table = table.append_column(split_field(), pa.array(["mediaType=voice", "mediaType=chat"]))
    if is_split:
        with pytest.raises(
            SchemaMismatch, match="by mediaType, and nConversations cannot be folded: add mediaType to group_by"
        ):
            fold_groups(Rows.from_table(table), KEYS, columns, ["queueId"])
    else:
        assert fold_groups(Rows.from_table(table), KEYS, columns, ["queueId"]).num_rows == 2
