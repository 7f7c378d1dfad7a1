"""Rows are the same in memory and on disk, however they are paged, restricted and concatenated."""

import gc
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_pipeline.errors import DiskUnwritable, SchemaMismatch
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.schema import rows_within, sort_rows
from cache_pipeline.query.tallies import RowTally
from cache_pipeline.rows import spool as spool_module
from cache_pipeline.rows.digest import row_hashes, tally_by_bucket
from cache_pipeline.rows.rows import Rows
from cache_pipeline.rows.spool import Spool
from cache_pipeline_tests.query.test_schema import HOUR, SCHEMA, START, row, table


def hours(first: int, last: int) -> Interval:
    return Interval(START + first * HOUR, START + last * HOUR)


def row_at(hour: int, queue: str | None, **changes: Any) -> dict[str, Any]:
    return row(interval_start=START + hour * HOUR, interval_end=START + (hour + 1) * HOUR, queue_id=queue, **changes)


def spool_rows(rows: list[dict[str, Any]], size: int, memory_limit_bytes: int) -> Rows:
    spool = Spool(SCHEMA, memory_limit_bytes)
    for start in range(0, len(rows), size):
        spool.append(table(*rows[start : start + size]))
    return spool.rows()


MANY = [
    row_at(hour, queue, offered=number, share=0.1 * number, longest=number if number % 3 else None)
    for hour in range(6)
    for number, queue in enumerate(["q1", "q2", None, "naïve 日本語", ""])
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(MANY), max_size=30),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([0, 600, 10**9]),
    st.lists(st.integers(0, 6), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_spooled_rows_equal_the_appended_rows(rows, page, block, memory_limit_bytes, cut):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_BLOCK_ROWS", block)
        stored = spool_rows(rows, page, memory_limit_bytes)
    expected = table(*rows)
    assert stored.num_rows == len(rows)
    assert sort_rows(stored.to_table()).equals(sort_rows(expected))
    assert stored.to_table().equals(stored.to_reader().read_all()), "they can be read any number of times"
    assert stored.tallies == tally_by_bucket(expected)
    inside = stored.within(hours(*cut))
    assert sort_rows(inside.to_table()).equals(sort_rows(rows_within(expected, hours(*cut))))
    assert inside.num_rows == inside.to_table().num_rows
    assert inside.tallies == tally_by_bucket(inside.to_table())
    parts = [part for part in (hours(0, cut[0]) if cut[0] else None, hours(*cut), hours(cut[1], 7)) if part]
    rejoined = Rows.concat(SCHEMA, [stored.within(part) for part in parts])
    assert rejoined.tallies == stored.tallies
    assert rejoined.num_rows == len(rows)
    assert stored.within(hours(0, 4)).within(hours(2, 7)).tallies == stored.within(hours(2, 4)).tallies
    assert stored.count([hours(1, 2), hours(3, 4), hours(90, 91)]) == sum(
        each["interval_start"] in (START + HOUR, START + 3 * HOUR) for each in rows
    )


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_unnamed_file_is_closed_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_files()
    rows = spool_rows(MANY, 5, memory_limit_bytes=0)
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before + 1
    part = rows.within(hours(0, 2))
    del rows
    gc.collect()
    assert part.to_table().num_rows == 10
    del part
    gc.collect()
    assert open_files() == before


def test_few_rows_never_touch_the_disk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere at all")
    assert spool_rows(MANY, 5, memory_limit_bytes=10**6).num_rows == len(MANY)


def test_unwritable_disk_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere at all")
    with pytest.raises(DiskUnwritable, match=r"/nowhere at all cannot be written .*TMPDIR"):
        spool_rows(MANY, 5, memory_limit_bytes=0)


def test_threads_read_one_file_concurrently(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool_module, "_BLOCK_ROWS", 2)
    rows = spool_rows(MANY, 2, memory_limit_bytes=0)
    parts = [rows.within(hours(hour, hour + 1)) for hour in range(6)] * 20
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda part: part.to_table(), parts))
    assert [tally_by_bucket(each) for each in read] == [part.tallies for part in parts]


@pytest.mark.parametrize(
    "other",
    [
        SCHEMA.remove(3),
        SCHEMA.set(4, pa.field("offered", pa.float64(), nullable=False)),
        SCHEMA.set(4, pa.field("offered", pa.int64())),
    ],
)
def test_rows_of_another_schema_are_refused(other: pa.Schema):
    with pytest.raises(SchemaMismatch, match=r"columns are .* where .*offered int64 not null.* are declared"):
        Spool(SCHEMA).append(other.empty_table())


VALUES = {
    "queue_id": st.sampled_from([None, "", "None", "nan", "q1", "q2", "\x00"]),
    "media_type": st.sampled_from([None, "", "q1", "voice"]),
    "offered": st.sampled_from([0, 1, -1, 2**63 - 1]),
    "share": st.sampled_from([0.0, 1.0, 5e-324]),
    "longest": st.sampled_from([None, 0.0, 1.0]),
    "interval_end": st.sampled_from([START, START + HOUR]),
}


@given(st.lists(st.fixed_dictionaries(VALUES).map(lambda values: row(**values)), min_size=1, max_size=8), st.randoms())
def test_only_equal_rows_have_equal_digests(rows: list[Any], rng: random.Random):
    reordered = rng.sample(rows, len(rows))
    digest = tally_by_bucket(table(*rows))
    assert tally_by_bucket(table(*reordered)) == digest
    changed = [{**rows[0], "offered": rows[0]["offered"] - 1}, *rows[1:]]
    assert tally_by_bucket(table(*changed)) != digest
    swapped = [{**rows[0], "queue_id": rows[0]["media_type"], "media_type": rows[0]["queue_id"]}, *rows[1:]]
    same = sorted(map(repr, swapped)) == sorted(map(repr, rows))
    assert (tally_by_bucket(table(*swapped)) == digest) is same


@given(st.lists(st.fixed_dictionaries(VALUES).map(lambda values: row(**values)), min_size=2, max_size=8))
def test_value_has_the_same_hash_in_every_batch(rows):
    """Names are hashed through the dictionary of their batch, and the result must not depend on it."""
    in_one_batch = row_hashes(table(*rows), SCHEMA.names).tolist()
    assert in_one_batch == [row_hashes(table(each), SCHEMA.names)[0] for each in rows]
    assert len(set(in_one_batch)) == len({repr(each) for each in rows})


def test_tally_sums_wrap_and_empty_is_neutral():
    top = RowTally(1, 2**64 - 1, 2**64 - 1)
    assert top + top == RowTally(2, 2**64 - 2, 2**64 - 2)
    assert top + RowTally() == top
    assert tally_by_bucket(table()) == {}
