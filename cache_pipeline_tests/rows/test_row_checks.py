"""Rows that do not match their query are refused, however many valid ones come before them."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.rows import row_checks
from cache_pipeline.rows.row_checks import check_rows
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.query.test_schema import HOUR, SCHEMA, START, row, table

REPORT = declared()
INTERVAL = Interval(START, START + 3 * HOUR)


def check(*rows: dict[str, object]) -> None:
    """Check rows, each in its own batch."""
    check_rows(Rows.concat(SCHEMA, (Rows.from_table(table(each)) for each in rows)), REPORT, INTERVAL)


def test_valid_rows_and_no_rows_pass():
    check(row(), row(queue_id=None, offered=2**63 - 1, share=1, longest=2.5), row(queue_id="q2", offered=4.0))
    check()
    check_rows(Rows.from_table(table()), REPORT, INTERVAL)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START - HOUR, START),
        (START + 3 * HOUR, START + 4 * HOUR),
        (START + timedelta(minutes=30), START + timedelta(minutes=90)),
        (START, START + 2 * HOUR),
        (START, START + timedelta(minutes=15)),
    ],
)
def test_row_outside_the_buckets_is_refused(start, end):
    with pytest.raises(SchemaMismatch, match="not a bucket of"):
        check(row(), row(interval_start=start, interval_end=end))


@pytest.mark.parametrize("group", [{}, {"queue_id": None}, {"queue_id": None, "media_type": None}])
def test_repeated_group_in_a_bucket_is_refused(group):
    with pytest.raises(SchemaMismatch, match="1 rows repeat a group"):
        check(row(**group), row(**group, offered=9))


def test_distinct_groups_and_buckets_pass():
    later = {"interval_start": START + HOUR, "interval_end": START + 2 * HOUR}
    check(row(), row(**later), row(queue_id="q2"), row(queue_id=None))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", ["share", "longest"])
def test_nan_and_infinity_are_refused(column, value):
    with pytest.raises(SchemaMismatch, match=f"{column} contains NaN or infinity"):
        check(row(), row(queue_id="q2", **{column: value}))


def test_nul_character_is_refused():
    with pytest.raises(SchemaMismatch, match="queue_id contains a NUL character"):
        check(row(queue_id="a\0b"))


def test_null_in_required_column_is_refused():
    broken = table(row(), row(queue_id="q2")).to_pydict()
    broken["offered"] = [1, None]
    with pytest.raises(SchemaMismatch, match="offered is null in 1 rows"):
        check_rows(Rows.from_table(pa.table(broken, schema=SCHEMA)), REPORT, INTERVAL)


GROUPS = st.tuples(st.integers(0, 2), st.sampled_from(["q1", "q2", "", "None", None]), st.sampled_from(["voice", None]))


@settings(max_examples=60, deadline=None)
@given(st.lists(GROUPS, max_size=20), st.integers(1, 7), st.sampled_from([1, 3, 1_000_000]))
def test_exactly_repeated_groups_are_found(groups, size, max_hashes):
    """Pages of any size, and any number of hashes compared at a time."""
    rows = [
        row(interval_start=START + n * HOUR, interval_end=START + (n + 1) * HOUR, queue_id=queue, media_type=media)
        for n, queue, media in groups
    ]
    pages = [Rows.from_table(table(*rows[start : start + size])) for start in range(0, len(rows), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_checks, "_MAX_HASHES_IN_MEMORY", max_hashes)
        if len(set(groups)) == len(groups):
            check_rows(Rows.concat(SCHEMA, pages), REPORT, INTERVAL)
        else:
            with pytest.raises(SchemaMismatch, match=f"{len(groups) - len(set(groups))} rows repeat a group"):
                check_rows(Rows.concat(SCHEMA, pages), REPORT, INTERVAL)


def test_hash_collision_is_no_repetition(monkeypatch: pytest.MonkeyPatch):
    hashes = row_checks.row_hashes
    monkeypatch.setattr(row_checks, "row_hashes", lambda rows, columns: hashes(rows, columns) % 2)
    check(*(row(queue_id=f"q{number}") for number in range(20)))
