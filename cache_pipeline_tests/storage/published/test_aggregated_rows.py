"""Row-level reports are published as counts: exact, by non-personal dimensions, and without small cells."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cache_pipeline.bootstrap.reports import report_columns
from cache_pipeline.query.publication import published_report
from cache_pipeline.query.report import Report
from cache_pipeline.query.schema import rows_to_table, to_arrow_schema
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.aggregated_rows import publishable_rows
from cache_pipeline.vendors.declaration_rules import find_vendor_problems
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, hours

DAY = hours(0, 24)
ROWS: dict[str, Any] = {
    "platform": "genesys",
    "query_type": "conversations",
    "rows": "conversations",
    "group_by": [],
    "metrics": ["nOffered", "tTalk"],
    "delivery": "async",
    "volume_metric": None,
    "expected_groups": None,
    "tiers": ["history", "edge"],
}


def _report(**changes: Any) -> Report:
    return declared(**{**ROWS, "edge_group_by": ["mediaType", "firstQueueId"], **changes})


def _row(report: Report, number: int, hour: int, media: str | None, queue: str | None, talk: int) -> dict[str, Any]:
    start = DAY.start + hour * timedelta(hours=1)
    row: dict[str, Any] = dict.fromkeys(to_arrow_schema(report_columns(report)).names)
    identity = {"interval_start": start, "interval_end": start + timedelta(hours=1), "conversation_id": str(number)}
    return row | identity | {"media_type": media, "first_queue_id": queue, "agents": 1, "n_offered": 1, "t_talk": talk}


def _rows(report: Report, cells: list[tuple[int, str | None, str | None, int]]) -> Rows:
    schema = to_arrow_schema(report_columns(report))
    rows = [_row(report, number, *cell) for number, cell in enumerate(cells)]
    # In small parts, as they are read from disk.
    parts = [Rows.from_table(rows_to_table(rows[at : at + 3], schema)) for at in range(0, len(rows), 3)]
    return Rows.concat(schema, parts)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["voice", "chat", None]),
            st.sampled_from(["q1", None]),
            st.integers(0, 10**6),
        ),
        max_size=30,
    )
)
def test_counts_and_sums_match_the_rows(cells):
    report = _report()
    aggregated = publishable_rows(report, _rows(report, cells))
    counts: Counter[Any] = Counter()
    talk: Counter[Any] = Counter()
    for hour, media, queue, milliseconds in cells:
        counts[hour, media, queue] += 1
        talk[hour, media, queue] += milliseconds
    by_group = {
        ((row["interval_start"] - DAY.start) // timedelta(hours=1), row["media_type"], row["first_queue_id"]): row
        for row in aggregated.to_pylist()
    }
    assert {key: row["conversations"] for key, row in by_group.items()} == counts
    assert {key: row["t_talk"] for key, row in by_group.items()} == {key: talk[key] for key in counts}
    assert aggregated.num_rows == len(by_group)


def test_no_row_and_no_small_cell_is_published(tmp_path: Path):
    report = _report(edge_group_by=["mediaType"])
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    rows = _rows(report, [(0, "voice", "q1", 10)] * 5 + [(0, "chat", "q1", 10)] * 4)
    edge.publish(report, {DAY: publishable_rows(report, rows)}, None)
    published = edge.read(report, DAY)
    assert published.column_names == [
        *("interval_start", "interval_end", "media_type", "conversations", "n_offered", "t_talk")
    ]
    assert {row["media_type"]: row["conversations"] for row in published.to_pylist()} == {"voice": 5, "chat": None}
    assert edge.manifest().datasets[report.name].min_cell_count == 5
    assert edge.manifest().datasets[report.name].dimensions == ("media_type",)


def test_other_groups_start_a_new_data_set(tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    for groups in (["mediaType"], []):
        report = _report(edge_group_by=groups)
        edge.publish(report, {DAY: publishable_rows(report, _rows(report, [(0, "voice", "q1", 10)] * 7))}, None)
    published = edge.read(report, DAY)
    assert published["conversations"].to_pylist() == [7]
    assert "media_type" not in published.column_names


def test_only_allowed_sums_are_published(tmp_path: Path):
    report = _report(edge_group_by=[], edge_columns=["conversations"])
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW)
    edge.publish(report, {DAY: publishable_rows(report, _rows(report, []))}, None)
    assert list(edge.manifest().datasets[report.name].columns) == ["interval_start", "interval_end", "conversations"]


def test_groups_of_counts_are_for_single_rows_only():
    with pytest.raises(ValidationError, match="applies to reports with rows only"):
        _report(rows=None, group_by=["queueId"], delivery="sync")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_group_by": ["lastUserId"]}, "lastUserId: counts of conversations may be published by divisionId"),
        ({"edge_group_by": ["ani"]}, "ani: counts"),
        (
            {
                "rows": "presence",
                "query_type": "users",
                "metrics": ["tSystemPresence"],
                "edge_group_by": ["userId"],
            },
            "userId: counts of presence",
        ),
    ],
)
def test_counts_by_person_are_refused_by_the_vendors_rules(changes: dict[str, Any], message: str):
    ((field, problem),) = find_vendor_problems(_report(**changes))
    assert field == "publish.edge_group_by"
    assert problem.startswith(message)


def test_single_rows_are_not_published():
    ((field, problem),) = find_vendor_problems(_report(edge_group_by=None))
    assert field == "publish.tiers"
    assert problem.endswith(
        "conversations are single ones: write edge_group_by to publish their counts, or tiers: [history]"
    )


def test_aggregate_report_is_published_unchanged():
    report = declared()
    table = pa.table({"a": [1]})
    assert published_report(report) is report
    assert publishable_rows(report, Rows.from_table(table)).equals(table)
