"""Tests of staged partition files: atomic writes, reuse, and unwritable folders."""

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cache_pipeline.errors import DiskUnwritable, SeriesMismatch, StagingReplaced
from cache_pipeline.fetch.partition_fetch import FetchedPartition
from cache_pipeline.fetch.staging import Staging
from cache_pipeline.query.completeness import ChunkResult, ExpectationSource, Verdict
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.query.series import Series
from cache_pipeline.query.verification import SecondLook
from cache_pipeline.rows.rows import Rows
from cache_pipeline.storage.coverage import Coverage, FetchTime
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
        replace(PARTITION, second_looks={SecondLook.unexpected: IntervalSet([hours(0, 6), hours(20, 24)])}),
        replace(
            PARTITION,
            fetch_times=(
                FetchTime(IntervalSet([hours(0, 12)]), MONDAY + 25 * HOUR),
                FetchTime(IntervalSet([hours(12, 24)]), MONDAY + 27 * HOUR),
            ),
        ),
        replace(PARTITION, watermark=PARTITION.watermark.replace(microsecond=1)),
        replace(
            PARTITION,
            second_looks={SecondLook.unexpected: IntervalSet([hours(1, 2)])},
            fetch_times=(FetchTime(IntervalSet([hours(0, 2), hours(8, 9)]), MONDAY + 26 * HOUR),),
        ),
    ],
)
def test_staged_partition_is_read_back_unchanged(tmp_path: Path, partition: FetchedPartition):
    staging = Staging(tmp_path)
    path = staging.write(SERIES, partition)
    again = staging.read(SERIES, partition.key, partition.interval)
    assert again
    assert again.rows.to_table().equals(partition.rows.to_table())
    assert again.rows.num_rows == partition.rows.num_rows
    assert again.rows.tallies == partition.rows.tallies
    assert again.rows.schema == partition.rows.schema
    assert replace(again, rows=partition.rows) == replace(partition, query_id=SERIES.query_id)
    assert path == staging.path(SERIES, partition.key, partition.interval)
    assert ":" not in path.name


def test_unstaged_partition_is_none(tmp_path: Path):
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    assert staging.read(SERIES, "2026-01-06", PARTITION.interval) is None
    assert staging.read(replace(SERIES, tenant="other"), PARTITION.key, PARTITION.interval) is None


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
    path = staging.path(SERIES, PARTITION.key, PARTITION.interval)
    path.parent.mkdir(parents=True)
    path.with_suffix(".4711.part").write_bytes(b"PAR1 half")
    assert staging.read(SERIES, PARTITION.key, PARTITION.interval) is None
    staging.write(SERIES, PARTITION)
    assert staging.read(SERIES, PARTITION.key, PARTITION.interval)


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
    keys = [PARTITION.key, "open", "provisional", "absent"]
    reusable = staging.final_partitions(SERIES, dict.fromkeys(keys, PARTITION.interval), Coverage())
    assert list(reusable) == [PARTITION.key]


@pytest.mark.parametrize(("fetched_after", "is_reused"), [(-HOUR, True), (0 * HOUR, False), (HOUR, False)])
def test_partition_that_history_doubts_is_not_reused(tmp_path: Path, fetched_after: timedelta, is_reused: bool):
    """History makes figures provisional again when it learns that the vendor has changed them."""
    staging = Staging(tmp_path)
    staging.write(SERIES, replace(PARTITION, provisional_from_history=IntervalSet()))
    doubted = IntervalSet([hours(22, 24)])
    stored = Coverage(
        IntervalSet([hours(0, 22)]), doubted, fetch_times=(FetchTime(doubted, PARTITION.fetched_at + fetched_after),)
    )
    assert bool(staging.final_partitions(SERIES, {PARTITION.key: PARTITION.interval}, stored)) is is_reused


def test_replaced_file_is_never_read_as_the_old_one(tmp_path: Path):
    """A partition is read when its rows are needed; by then another run may have replaced its file."""
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    again = staging.read(SERIES, PARTITION.key, PARTITION.interval)
    assert again
    staging.write(SERIES, replace(PARTITION, fetched_at=PARTITION.fetched_at + HOUR))
    with pytest.raises(StagingReplaced, match="was replaced while it was being read"):
        again.rows.to_table()
    staging.path(SERIES, PARTITION.key, PARTITION.interval).unlink()
    with pytest.raises(StagingReplaced, match="materialise staged"):
        again.rows.to_table()


def test_partition_staged_for_another_interval_is_absent(tmp_path: Path):
    """A day, a week and a day in another time zone may share one key."""
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    for other in (hours(0, 7 * 24), hours(1, 25), hours(0, 23)):
        assert staging.read(SERIES, PARTITION.key, other) is None
        assert staging.stored_keys(SERIES, {PARTITION.key: other}) == []
        assert staging.final_partitions(SERIES, {PARTITION.key: other}, Coverage()) == {}
    assert staging.stored_keys(SERIES, {PARTITION.key: PARTITION.interval}) == [PARTITION.key]


def test_intervals_and_version_follow_the_staged_files(tmp_path: Path):
    staging = Staging(tmp_path)
    assert (staging.version(SERIES), staging.stored_intervals(SERIES)) == (None, IntervalSet())
    path = staging.write(SERIES, PARTITION)
    before = staging.version(SERIES)
    (path.parent / "note.parquet").touch()
    assert staging.stored_intervals(SERIES) == IntervalSet([PARTITION.interval])
    assert before is not None
    assert staging.version(SERIES) != before
    path.unlink()
    assert not staging.stored_intervals(SERIES)


def test_file_under_another_name_is_absent(tmp_path: Path):
    """The file itself says what it holds; its path alone is not trusted."""
    staging = Staging(tmp_path)
    path = staging.write(SERIES, PARTITION)
    filtered = Series(REPORT.model_copy(update={"metrics": ("answered",)}))
    for series, interval in ((filtered, PARTITION.interval), (SERIES, hours(0, 23))):
        moved = staging.path(series, PARTITION.key, interval)
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_bytes(path.read_bytes())
        assert staging.read(series, PARTITION.key, interval) is None


def test_partition_fetched_for_another_series_is_refused(tmp_path: Path):
    staging = Staging(tmp_path)
    staging.write(SERIES, PARTITION)
    again = staging.read(SERIES, PARTITION.key, PARTITION.interval)
    assert again
    filtered = Series(REPORT.model_copy(update={"metrics": ("answered",)}))
    with pytest.raises(SeriesMismatch, match="was fetched with another declaration"):
        staging.write(filtered, again)
    assert staging.version(filtered) is None


@pytest.mark.parametrize("damage", ["empty", "text", "half", "no metadata", "old format", "other types"])
def test_unreadable_file_counts_as_absent(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    staging = Staging(tmp_path)
    path = staging.write(SERIES, PARTITION)
    body = path.read_bytes()
    if damage == "no metadata":
        pq.write_table(TABLE, path)
    elif damage == "old format":
        pq.write_table(TABLE.replace_schema_metadata({b"cache_pipeline": b'{"key": "2026-01-05"}'}), path)
    elif damage == "other types":
        metadata = pq.read_schema(path).metadata
        staged = {**json.loads(metadata[b"cache_pipeline"]), "second_looks": []}
        pq.write_table(TABLE.replace_schema_metadata({b"cache_pipeline": json.dumps(staged).encode()}), path)
    else:
        path.write_bytes({"empty": b"", "text": b"not a Parquet file", "half": body[: len(body) // 2]}[damage])
    assert staging.read(SERIES, PARTITION.key, PARTITION.interval) is None
    assert "counts as absent" in caplog.text
    staging.write(SERIES, PARTITION)
    assert staging.read(SERIES, PARTITION.key, PARTITION.interval)


def test_file_with_damaged_rows_is_deleted_when_read(tmp_path: Path):
    staging = Staging(tmp_path)
    path = staging.write(SERIES, PARTITION)
    body = bytearray(path.read_bytes())
    body[4:400] = b"\xff" * 396
    path.write_bytes(bytes(body))
    again = staging.read(SERIES, PARTITION.key, PARTITION.interval)
    assert again
    with pytest.raises(StagingReplaced, match="was deleted: materialise staged again"):
        again.rows.to_table()
    assert staging.read(SERIES, PARTITION.key, PARTITION.interval) is None


def test_file_is_on_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    staging = Staging(tmp_path)
    synced: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = staging.write(SERIES, PARTITION)
    assert synced == [f"{path.stem}.{os.getpid()}.part", path.parent.name]


def test_old_files_are_deleted_at_most_once_a_day(tmp_path: Path):
    staging, now = Staging(tmp_path), MONDAY + 60 * 24 * HOUR
    old = staging.write(SERIES, PARTITION)
    leftover = old.with_suffix(".4711.part")
    leftover.write_bytes(b"PAR1 half")
    young = staging.write(SERIES, replace(PARTITION, key="2026-01-06"))
    for path, days in ((old, 15), (leftover, 15), (young, 13)):
        written = (now - days * 24 * HOUR).timestamp()
        os.utime(path, (written, written))
    assert staging.delete_old(14 * 24 * HOUR, now) == 2
    assert [path.name for path in old.parent.iterdir()] == [young.name]
    assert staging.delete_old(HOUR, now + HOUR) == 0
    assert staging.delete_old(14 * 24 * HOUR, now + 25 * HOUR) == 1
