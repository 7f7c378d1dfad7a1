"""Rows of the present beside stored ones: the mark of each row, and no figure that a sum would add to another."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from cache_pipeline.errors import InvalidQuery
from cache_pipeline.query.live_part import add_live_rows, choose_live_part, find_live_part_problems, mark_rows
from cache_pipeline.query.schema import Column, ColumnKind
from cache_pipeline_tests.query.declared import declared, with_changes
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

NOON = datetime(2026, 1, 6, 12, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
LIVE = live_report()
REPORT = declared(
    platform="genesys", query_type="conversations", metrics=["nOffered"], volume_metric="nOffered", live="queue_now"
)


def stored_rows():
    starts = [NOON - timedelta(hours=2), NOON - timedelta(hours=1), NOON]
    schema = pa.schema(
        [
            pa.field("interval_start", INSTANT, nullable=False),
            pa.field("interval_end", INSTANT, nullable=False),
            pa.field("queue_id", pa.string()),
            pa.field("n_offered", pa.int64(), nullable=False),
        ]
    )
    columns = [starts, [start + timedelta(hours=1) for start in starts], ["q-1"] * 3, [5, 6, 7]]
    return pa.table(columns, schema=schema)


def live_rows():
    return pa.table({"queue_id": ["q-1", "q-2"], "o_waiting": [3, 4], "observed_at": pa.array([NOON] * 2, INSTANT)})


def joined(requested=REPORT):
    return add_live_rows(mark_rows(stored_rows(), NOON), live_rows(), requested).to_pylist()


def test_each_row_is_marked():
    rows = joined()
    assert [row["state"] for row in rows] == ["final", "final", "provisional", "live", "live"]
    assert list(rows[0])[-1] == "state"


def test_sums_do_not_contain_observations():
    rows = joined()
    assert sum(row["n_offered"] or 0 for row in rows) == 5 + 6 + 7
    assert [(row["interval_start"], row["n_offered"]) for row in rows[3:]] == [(None, None)] * 2
    assert [row["o_waiting"] for row in rows] == [None] * 3 + [3, 4]


def test_filter_holds_for_both():
    only = with_changes(
        REPORT, filters=declared(filters={"predicates": [{"dimension": "queueId", "values": ["q-2"]}]}).filters
    )
    assert [row["queue_id"] for row in joined(only) if row["state"] == "live"] == ["q-2"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"live": None}, "live: queue_hour declares no live report"),
        ({"group_by": ("mediaType",)}, "group_by: lacks queueId, by which the figures of queue_now are"),
        (
            {"filters": declared(filters={"predicates": [{"dimension": "mediaType", "values": ["voice"]}]}).filters},
            "filters: queue_now is not by mediaType",
        ),
    ],
)
def test_query_that_has_no_live_part_is_refused(changes, problem):
    with pytest.raises(InvalidQuery, match=problem):
        choose_live_part(with_changes(REPORT, **changes), {"queue_now": LIVE})


def test_figures_of_an_earlier_moment_have_no_present():
    with pytest.raises(InvalidQuery, match="live: figures as they were known earlier have no present"):
        choose_live_part(REPORT, {"queue_now": LIVE}, is_of_the_past=True)


@pytest.mark.parametrize(
    ("report", "live", "problem"),
    [
        (REPORT, LIVE, None),
        (REPORT, None, "there is no live report 'queue_now'"),
        (with_changes(REPORT, group_by=("mediaType",)), LIVE, "lacks queueId"),
        (with_changes(REPORT, account="emea"), LIVE, "their ids differ"),
        (with_changes(REPORT, rows="conversations"), LIVE, "reports with rows have no live part"),
        (with_changes(REPORT, measures={"o_waiting": None}), LIVE, "o_waiting would be a second column"),
    ],
)
def test_declaration_is_checked(report, live, problem):
    columns = (Column("queue_id", ColumnKind.dimension), Column("n_offered", ColumnKind.integer))
    live_columns = (Column("queue_id", ColumnKind.dimension), Column("o_waiting", ColumnKind.integer))
    found = list(find_live_part_problems(report, columns, live, live_columns))
    assert [problem in each for each in found] == ([True] if problem else [])
