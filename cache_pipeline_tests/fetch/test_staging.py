"""Tests of staged partition files: atomic writes, reuse, and unwritable folders."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cache_pipeline.errors import DiskUnwritable, StagingReplaced
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.rows.rows import Rows
from cache_pipeline_tests.fetch.scripted_vendor import HOUR, MONDAY, REPORT, ScriptedVendor, flat, hours

SERIES = Series(REPORT)
CHUNK = ChunkResult(
    hours(0, 24), 240.0, ExpectationSource.declaration, 240, Verdict.complete, 3, 0.5, MONDAY + 24 * HOUR
)
TABLE = ScriptedVendor(flat(10)).rows(hours(0, 24))
PARTITION = FetchedPartition(
    key="2026-01-05",
    interval=hours(0, 24),
    rows=Rows.from_table(TABLE),
    watermark=MONDAY + 24 * HOUR,
    fetched_at=MONDAY + 25 * HOUR,
    chunks=(CHUNK, replace(CHUNK, verdict=Verdict.truncated, source=ExpectationSource.history)),
    provisional_from_history=IntervalSet([hours(3, 4), hours(6, 8)]),
)


@pytest.mark.parametrize(
    "partition",
    [
        PARTITION,
        replace(PARTITION, rows=Rows.from_table(TABLE.slice(0, 0)), chunks=(), provisional_from_history=IntervalSet()),
        replace(PARTITION, key="2026-01-05T00:00+0100"),
        replace(PARTITION, watermark=PARTITION.watermark.replace(microsecond=1)),
    ],
)
def test_staged_partition_is_read_back_unchanged(tmp_path: Path, partition: FetchedPartition):
    staging = Staging(tmp_path)
    path = staging.write(SERIES, partition)
    again = staging.read(SERIES, partition.key)
    assert again
    assert again.rows.to_table().equals(partition.rows.to_table())
    assert again.rows.num_rows == partition.rows.num_rows
    assert again.rows.tallies == partition.rows.tallies
    assert again.rows.schema == partition.rows.schema
    assert replace(again, rows=partition.rows) == partition
    assert path == staging.path(SERIES, partition.key)
    assert ":" not in path.name


def test_unstaged_partition_is_none(tmp_path: Path):
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    assert staging.read(SERIES, "2026-01-06") is None
    assert staging.read(replace(SERIES, tenant="other"), PARTITION.key) is None


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    staging = Staging(tmp_path)
    path = staging.write(SERIES, PARTITION)
    before = path.read_bytes()

    def full(*_batch: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(DiskUnwritable, match=r"No space left on device.*CACHE_PIPELINE_DATA_DIR"):
        staging.write(SERIES, replace(PARTITION, rows=Rows.from_table(TABLE.slice(0, 1))))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_partial_file_of_a_killed_writer_is_ignored(tmp_path: Path):
    staging = Staging(tmp_path)
    path = staging.path(SERIES, PARTITION.key)
    path.parent.mkdir(parents=True)
    path.with_suffix(".4711.part").write_bytes(b"PAR1 half")
    assert staging.read(SERIES, PARTITION.key) is None
    staging.write(SERIES, PARTITION)
    assert staging.read(SERIES, PARTITION.key)


@pytest.mark.parametrize("folder", ["a-file", "a-file/below"])
def test_unwritable_folder_is_named(tmp_path: Path, folder: str):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DiskUnwritable, match=r"cannot be written.*CACHE_PIPELINE_DATA_DIR"):
        Staging(tmp_path / folder).write(SERIES, PARTITION)


def test_only_final_partitions_are_reused(tmp_path: Path):
    staging = Staging(tmp_path)
    final = replace(PARTITION, provisional_from_history=IntervalSet())
    staging.write(SERIES, final)
    staging.write(SERIES, replace(final, key="open", watermark=MONDAY + 23 * HOUR))
    staging.write(SERIES, replace(PARTITION, key="provisional"))
    reusable = staging.final_partitions(SERIES, [PARTITION.key, "open", "provisional", "absent"])
    assert list(reusable) == [PARTITION.key]


def test_replaced_file_is_never_read_as_the_old_one(tmp_path: Path):
    """A partition is read when its rows are needed; by then another run may have replaced its file."""
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    again = staging.read(SERIES, PARTITION.key)
    assert again
    staging.write(SERIES, replace(PARTITION, fetched_at=PARTITION.fetched_at + HOUR))
    with pytest.raises(StagingReplaced, match="was replaced while it was being read"):
        again.rows.to_table()
    staging.path(SERIES, PARTITION.key).unlink()
    with pytest.raises(StagingReplaced, match="materialise staged"):
        again.rows.to_table()
