"""Tests of publishing: files, manifests, snapshots and what is uploaded again."""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.filters import Filter
from cache_pipeline.query.interval import Interval, IntervalSet
from cache_pipeline.storage.published import EdgeTier, Publication
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import DAY, HOUR, NOW, REPORT, hours, table

BERLIN = REPORT.model_copy(update={"time_zone": "Europe/Berlin"})


@pytest.fixture
def edge(tmp_path: Path) -> EdgeTier:
    return EdgeTier(f"file://{tmp_path}", lambda: NOW)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "v1" / "default"


def publish(
    edge: EdgeTier, *intervals: Interval, offered: int = 1, provisional_from: datetime | None = None
) -> Publication:
    return edge.publish(REPORT, {each: table(each, offered) for each in intervals}, provisional_from)


def completeness(edge: EdgeTier) -> tuple[datetime | None, datetime | None, datetime | None]:
    dataset = edge.manifest().datasets["queue_hour"]
    return dataset.complete_from, dataset.complete_through, dataset.provisional_from


def at(hour: float) -> datetime:
    return DAY + hour * HOUR


def test_published_rows_are_read_whole_or_in_part(edge: EdgeTier):
    publish(edge, hours(0, 24), hours(24, 48), offered=7)
    rows = edge.read(REPORT, hours(0, 48))
    assert rows.num_rows == 96
    assert set(rows["offered"].to_pylist()) == {7.0}
    assert edge.read(REPORT, hours(23, 25)).num_rows == 4


def test_publishing_unchanged_rows_uploads_nothing(edge: EdgeTier, root: Path):
    first = publish(edge, hours(0, 24), hours(24, 48))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    second = publish(edge, hours(0, 24), hours(24, 48))
    assert (first.uploaded, second.uploaded) == (2, 0)
    assert second.snapshot == first.snapshot
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_changed_day_uploads_one_file_and_keeps_the_old(edge: EdgeTier, root: Path):
    first = publish(edge, hours(0, 24), hours(24, 48), hours(48, 72))
    second = edge.publish(
        REPORT,
        {
            hours(0, 24): table(hours(0, 24)),
            hours(24, 48): table(hours(24, 48), 2),
            hours(48, 72): table(hours(48, 72)),
        },
        None,
    )
    assert second.uploaded == 1
    assert all((root / file.path).exists() for file in first.files)
    assert edge.read(REPORT, hours(24, 25))["offered"].to_pylist() == [2.0, 2.0]


def test_file_is_named_by_its_content(edge: EdgeTier, root: Path):
    [file] = publish(edge, hours(0, 24)).files
    body = (root / file.path).read_bytes()
    assert hashlib.sha256(body).hexdigest() == file.sha256
    assert (file.bytes, file.rows, file.partition) == (len(body), 48, "2026-01-05")
    assert file.path == f"data/queue_hour/day=2026-01-05/{file.sha256[:16]}.parquet"


def test_snapshot_is_the_manifest_of_its_time(edge: EdgeTier, root: Path):
    first = publish(edge, hours(0, 24))
    publish(edge, hours(24, 48))
    snapshot = Manifest.model_validate_json((root / f"snapshots/{first.snapshot}.json").read_bytes())
    assert [file.partition for file in snapshot.datasets["queue_hour"].files] == ["2026-01-05"]
    assert [file.partition for file in edge.manifest().datasets["queue_hour"].files] == ["2026-01-05", "2026-01-06"]


def test_columns_have_types_that_browsers_read(edge: EdgeTier, root: Path):
    [file] = publish(edge, hours(0, 24)).files
    schema = pq.read_schema(root / file.path)
    assert {field.name: str(field.type) for field in schema} == {
        "interval_start": "timestamp[ms, tz=UTC]",
        "interval_end": "timestamp[ms, tz=UTC]",
        "queue_id": "string",
        "answered": "double",
        "offered": "double",
        "longest": "double",
    }


def test_file_is_one_local_day(edge: EdgeTier):
    publication = edge.publish(BERLIN, {hours(0, 24): table(hours(0, 24))}, None)
    assert [(file.partition, file.rows) for file in publication.files] == [("2026-01-05", 46), ("2026-01-06", 2)]


def test_replacing_part_of_a_day_keeps_the_rest(edge: EdgeTier):
    publish(edge, hours(0, 12))
    publish(edge, hours(6, 8), offered=2)
    publish(edge, hours(20, 22), offered=3)
    assert edge.read(REPORT, hours(0, 24))["offered"].to_pylist() == [1] * 12 + [2] * 4 + [1] * 8 + [3] * 4
    [file] = edge.manifest().datasets["queue_hour"].files
    assert file.covered == (str(hours(0, 12)), str(hours(20, 22)))


def test_interval_without_rows_is_published_as_covered(edge: EdgeTier):
    edge.publish(REPORT, {hours(0, 24): table(hours(0, 24)).slice(0, 0)}, None)
    assert edge.read(REPORT, hours(0, 24)).num_rows == 0
    assert completeness(edge) == (at(0), at(24), None)


def test_complete_through_is_the_end_of_final_rows(edge: EdgeTier):
    publish(edge, hours(0, 24), hours(24, 48), provisional_from=at(30))
    assert completeness(edge) == (at(0), at(30), at(30))
    publish(edge, hours(24, 48))
    assert completeness(edge) == (at(0), at(48), None)


def test_provisional_data_set_has_no_complete_through(edge: EdgeTier):
    publish(edge, hours(24, 48), provisional_from=at(20))
    assert completeness(edge) == (None, None, at(24))


def test_gap_starts_a_new_run(edge: EdgeTier):
    publish(edge, hours(0, 24), hours(48, 72))
    assert completeness(edge) == (at(48), at(72), None)
    publish(edge, hours(72, 96), provisional_from=at(80))
    assert completeness(edge) == (at(48), at(80), at(80))
    publish(edge, hours(24, 48))
    assert completeness(edge) == (at(0), at(80), at(80))


def test_old_provisional_bucket_starts_a_new_run_as_a_gap_does(edge: EdgeTier):
    publish(edge, hours(0, 24), provisional_from=at(20))
    assert completeness(edge) == (at(0), at(20), at(20))
    publish(edge, hours(24, 48))
    assert completeness(edge) == (at(24), at(48), None)
    publish(edge, hours(48, 72), provisional_from=at(70))
    assert completeness(edge) == (at(24), at(70), at(70))
    publish(edge, hours(20, 24))
    assert completeness(edge) == (at(0), at(70), at(70))


def test_one_provisional_bucket_is_published_as_the_only_one(edge: EdgeTier):
    whole = hours(0, 24)
    edge.publish(REPORT, {whole: table(whole)}, IntervalSet([hours(3, 4)]))
    [file] = edge.manifest().datasets["queue_hour"].files
    assert file.provisional_intervals() == IntervalSet([hours(3, 4)])
    assert completeness(edge) == (at(4), at(24), None)


def test_hours_become_final_one_by_one(edge: EdgeTier):
    publish(edge, hours(0, 12), provisional_from=at(9))
    for hour in (9, 10):
        publish(edge, hours(hour, hour + 1))
        assert completeness(edge) == (at(0), at(hour + 1), at(hour + 1))
    publish(edge, hours(11, 12))
    assert completeness(edge) == (at(0), at(12), None)


def test_hours_may_become_final_out_of_order(edge: EdgeTier):
    publish(edge, hours(0, 12), provisional_from=at(9))
    publish(edge, hours(10, 12))
    assert completeness(edge) == (at(10), at(12), None)
    publish(edge, hours(9, 12))
    assert completeness(edge) == (at(0), at(12), None)


def test_final_rows_may_become_provisional_again(edge: EdgeTier):
    publish(edge, hours(0, 12))
    publish(edge, hours(3, 6), provisional_from=at(4))
    assert completeness(edge) == (at(6), at(12), None)


def test_altered_file_is_never_served(edge: EdgeTier, root: Path):
    [file] = publish(edge, hours(0, 24)).files
    body = bytearray((root / file.path).read_bytes())
    body[100] ^= 1
    (root / file.path).write_bytes(bytes(body))
    with pytest.raises(EdgeStoreError, match="was altered"):
        edge.read(REPORT, hours(0, 24))
    with pytest.raises(EdgeStoreError, match="was altered"):
        publish(edge, hours(0, 1), offered=2)


def test_missing_file_is_restored_by_publishing_its_day(edge: EdgeTier, root: Path):
    [file] = publish(edge, hours(0, 24)).files
    (root / file.path).unlink()
    with pytest.raises(EdgeStoreError, match="missing: publish its day 2026-01-05 again"):
        edge.read(REPORT, hours(0, 24))
    assert publish(edge, hours(0, 24)).uploaded == 1
    assert edge.read(REPORT, hours(0, 24)).num_rows == 48


def test_unpublished_rows_are_reported(edge: EdgeTier):
    with pytest.raises(EdgeStoreError, match="queue_hour was never published"):
        edge.read(REPORT, hours(0, 24))
    publish(edge, hours(0, 24))
    with pytest.raises(EdgeStoreError, match="no published file of"):
        edge.read(REPORT, hours(240, 264))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_unreadable_manifest_is_never_overwritten(edge: EdgeTier, root: Path, content: bytes):
    publish(edge, hours(0, 24))
    (root / "manifest.json").write_bytes(content)
    with pytest.raises(EdgeStoreError, match=r"manifest\.json cannot be parsed .*: replace it with a snapshot"):
        edge.manifest()
    with pytest.raises(EdgeStoreError, match="cannot be parsed"):
        publish(edge, hours(24, 48))
    assert (root / "manifest.json").read_bytes() == content


def test_data_sets_and_tenants_are_separate(edge: EdgeTier, tmp_path: Path):
    other_report = declared(name="another", time_zone="UTC", group_by=["queueId"])
    other_tenant = EdgeTier(f"file://{tmp_path}", lambda: NOW, "other")
    publish(edge, hours(0, 24), offered=1)
    edge.publish(other_report, {hours(0, 24): table(hours(0, 24), 2)}, None)
    publish(other_tenant, hours(0, 24), offered=3)
    assert set(edge.read(REPORT, hours(0, 24))["offered"].to_pylist()) == {1}
    assert set(edge.read(other_report, hours(0, 24))["offered"].to_pylist()) == {2}
    assert set(other_tenant.read(REPORT, hours(0, 24))["offered"].to_pylist()) == {3}
    assert set(other_tenant.manifest().datasets) == {"queue_hour"}


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_folder_that_cannot_be_created_is_refused(tmp_path: Path, place: str):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(EdgeStoreError, match=f"{place} cannot be opened.*CACHE_PIPELINE_EDGE_URL"):
        EdgeTier(f"file://{tmp_path}/{place}", lambda: NOW)


@pytest.mark.parametrize("url", ["ftp://host/folder", "nonsense"])
def test_unsupported_url_is_refused(url: str):
    with pytest.raises(EdgeStoreError, match="CACHE_PIPELINE_EDGE_URL"):
        EdgeTier(url, lambda: NOW)


def test_failed_publication_keeps_the_manifest(edge: EdgeTier, root: Path):
    publish(edge, hours(0, 24))
    before = (root / "manifest.json").read_bytes()
    (root / "data" / "queue_hour" / "day=2026-01-06").write_text("in the way")
    with pytest.raises(EdgeStoreError, match="queue_hour"):
        publish(edge, hours(24, 48))
    assert (root / "manifest.json").read_bytes() == before


@pytest.fixture
def held_lock(tmp_path: Path) -> Iterator[FileLock]:
    with FileLock(tmp_path / ".default.lock") as lock:
        yield lock


def test_served_folder_holds_only_published_files(edge: EdgeTier, root: Path, held_lock: FileLock):
    """Readers need no lock, and the lock file is outside the served folder."""
    assert edge.manifest() == Manifest(generated_at=NOW, datasets={})
    held_lock.release()
    publish(edge, hours(0, 24))
    served = {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()}
    assert served == {"data", "snapshots", "manifest.json"}
    assert json.loads((root / "manifest.json").read_text())["format"] == 1


def test_files_of_two_series_are_never_mixed(edge: EdgeTier):
    """Another zone, filter or metric makes another series, so the data set starts empty, with its own columns."""
    publish(edge, hours(0, 24), hours(24, 48))
    one_queue = Filter.parse({"predicates": [{"dimension": "queueId", "values": ["q1"]}]})
    filtered = REPORT.model_copy(update={"filters": one_queue})
    rows = table(hours(24, 36)).drop_columns(["longest"])
    edge.publish(filtered, {hours(24, 36): rows}, None)
    dataset = edge.manifest().datasets["queue_hour"]
    assert "longest" not in dataset.columns
    assert [tuple(file.covered_intervals()) for file in dataset.files] == [(hours(24, 36),)]
