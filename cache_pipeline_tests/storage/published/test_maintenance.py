"""Verification, rollback and garbage collection, on a folder and on a bucket."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.interval import IntervalSet
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.maintenance import DEFAULT_RETENTION, collect_garbage, rollback, snapshots, verify
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

DAY = hours(0, 24)


@pytest.fixture(params=["folder", "bucket"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> EdgeTier:
    url = f"file://{tmp_path}" if request.param == "folder" else request.getfixturevalue("bucket")
    return EdgeTier(url, lambda: NOW)


@pytest.fixture
def folder_edge(tmp_path: Path) -> EdgeTier:
    return EdgeTier(f"file://{tmp_path}", lambda: NOW)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "v1" / "default"


def publish(edge: EdgeTier, offered: int) -> str:
    return edge.publish(REPORT, {DAY: table(DAY, offered)}, None).snapshot


def offered(edge: EdgeTier) -> set[float]:
    return set(edge.read(REPORT, DAY)["offered"].to_pylist())


def backdate(root: Path, age: timedelta) -> None:
    """Make every object look as if it had been stored long ago."""
    then = time.time() - age.total_seconds()
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def test_published_files_pass_verification(edge: EdgeTier):
    publish(edge, 1)
    assert verify(edge) == []


def test_empty_store_is_reported(folder_edge: EdgeTier):
    assert "nothing is published" in verify(folder_edge)[0]
    assert collect_garbage(folder_edge).files == ()
    assert snapshots(folder_edge) == []


def test_missing_and_altered_files_are_named_with_a_remedy(folder_edge: EdgeTier, root: Path):
    spans = [hours(24 * day, 24 * day + 24) for day in range(3)]
    files = folder_edge.publish(REPORT, {span: table(span) for span in spans}, None).files
    (root / files[0].path).unlink()
    (root / files[1].path).write_bytes(b"PAR1")
    missing, altered = verify(folder_edge)
    assert f"{files[0].path} is missing: publish 2026-01-05 again" in missing
    assert f"{files[1].path} was altered: delete it" in altered


def test_fast_publisher_clock_is_reported(root: Path, tmp_path: Path):
    edge = EdgeTier(f"file://{tmp_path}", lambda: NOW + timedelta(days=3650))
    publish(edge, 1)
    assert "clock is fast" in verify(edge)[0]


def test_rollback_can_be_rolled_back(edge: EdgeTier):
    first, second = publish(edge, 1), publish(edge, 2)
    now = rollback(edge, first)
    assert offered(edge) == {1}
    assert edge.manifest().sequence == 3
    assert [each.id for each in snapshots(edge) if each.is_current] == [now]
    rollback(edge, second)
    assert offered(edge) == {2}
    assert verify(edge) == []


def test_rollback_replaces_an_unreadable_manifest(folder_edge: EdgeTier, root: Path):
    first = publish(folder_edge, 1)
    (root / "manifest.json").write_text("{")
    with pytest.raises(EdgeStoreError, match="edge rollback"):
        publish(folder_edge, 2)
    rollback(folder_edge, first)
    assert offered(folder_edge) == {1}
    publish(folder_edge, 2)
    assert offered(folder_edge) == {2}


def test_rollback_to_an_incomplete_snapshot_changes_nothing(folder_edge: EdgeTier, root: Path):
    first = publish(folder_edge, 1)
    publish(folder_edge, 2)
    with pytest.raises(EdgeStoreError, match=r"no snapshot \.\./\.\./manifest:"):
        rollback(folder_edge, "../../manifest")
    with pytest.raises(EdgeStoreError, match="no snapshot 0123"):
        rollback(folder_edge, "0123")
    for path in root.glob("data/*/*/*.parquet"):
        if path.read_bytes() != (root / folder_edge.manifest().datasets["queue_hour"].files[0].path).read_bytes():
            path.unlink()
    with pytest.raises(EdgeStoreError, match=f"more files of snapshot {first} were deleted"):
        rollback(folder_edge, first)
    assert offered(folder_edge) == {2}


def test_collection_deletes_only_unnamed_files(folder_edge: EdgeTier, root: Path):
    ids = [publish(folder_edge, number) for number in range(1, 6)]
    backdate(root, timedelta(days=30))
    done = collect_garbage(folder_edge, keep_snapshots=1)
    assert (len(done.files), len(done.snapshots), done.remaining_snapshots) == (4, 4, 1)
    assert [each.id for each in snapshots(folder_edge)] == [ids[-1]]
    assert len(list(root.glob("data/*/*/*.parquet"))) == 1
    assert folder_edge.manifest().collecting == ()
    assert offered(folder_edge) == {5}
    assert verify(folder_edge) == []
    assert collect_garbage(folder_edge, keep_snapshots=1).files == ()


def test_collection_keeps_files_of_kept_snapshots(folder_edge: EdgeTier, root: Path):
    for number in range(1, 6):
        publish(folder_edge, number)
        backdate(root, timedelta(days=40 - number))
    assert len(collect_garbage(folder_edge, keep_snapshots=3).files) == 2
    for snapshot in snapshots(folder_edge):
        rollback(folder_edge, snapshot.id)
        assert verify(folder_edge) == []


def test_snapshot_ages_from_when_it_is_superseded(folder_edge: EdgeTier, root: Path):
    """What was live until yesterday can be rolled back to, however long it had been live."""
    oldest, yesterdays = publish(folder_edge, 1), publish(folder_edge, 2)
    backdate(root, timedelta(days=90))
    for path, age in ((f"snapshots/{oldest}.json", 91), ("data", 90)):
        then = time.time() - timedelta(days=age).total_seconds()
        os.utime(root / path, (then, then))
    publish(folder_edge, 3)
    done = collect_garbage(folder_edge, timedelta(days=1), keep_snapshots=1)
    assert done.snapshots == (oldest,)
    rollback(folder_edge, yesterdays)
    assert offered(folder_edge) == {2}
    assert verify(folder_edge) == []


def test_live_snapshot_is_not_superseded(folder_edge: EdgeTier, root: Path):
    first, second = publish(folder_edge, 1), publish(folder_edge, 2)
    stored = {each.id: each.stored_at for each in snapshots(folder_edge)}
    assert {each.id: each.superseded_at for each in snapshots(folder_edge)} == {first: stored[second], second: None}


def test_collection_keeps_young_files(edge: EdgeTier):
    for number in range(1, 4):
        publish(edge, number)
    edge.store.create("data/queue_hour/day=2026-01-05/0000000000000000.parquet", b"stored, but not yet named")
    done = collect_garbage(edge, keep_snapshots=1)
    assert (done.files, done.snapshots) == ((), ())
    # Even with a short retention it stays, because a publisher may be about to name it.
    assert collect_garbage(edge, timedelta(hours=0, minutes=1), 1).files == ()


def test_forget_keeps_only_what_the_manifest_names(edge: EdgeTier):
    for number in range(1, 4):
        publish(edge, number)
    done = collect_garbage(edge, forget=True)
    assert (len(done.files), len(done.snapshots)) == (2, 2)
    assert len(edge.store.list("data")) == len(edge.store.list("snapshots")) == 1
    assert offered(edge) == {3}


def test_publisher_never_relies_on_a_file_being_deleted(edge: EdgeTier, monkeypatch: pytest.MonkeyPatch):
    """The old content is published again between the collector's decision and its deletion."""
    publish(edge, 1)
    publish(edge, 2)
    delete = edge.store.delete
    other = EdgeTier(edge.store.url, lambda: NOW)
    monkeypatch.setattr(other.store, "publisher_lock", edge.store.publisher_lock)

    def publish_then_delete(paths) -> None:
        paths = list(paths)
        if any(path.startswith("data/") for path in paths):
            assert len(edge.manifest().collecting) == 1
            # On a folder the collector holds the lock, so skip the lock: the test is about the order of the steps.
            with monkeypatch.context() as patch:
                patch.setattr(EdgeTier, "publish", EdgeTier._try_publish)
                other.publish(REPORT, {DAY: table(DAY, 1)}, None)
        delete(paths)

    monkeypatch.setattr(edge.store, "delete", publish_then_delete)
    collect_garbage(edge, forget=True)
    assert offered(edge) == {1}
    assert verify(edge) == []
    assert edge.manifest().collecting == ()


def test_killed_collection_is_finished_by_the_next(folder_edge: EdgeTier, monkeypatch: pytest.MonkeyPatch):
    publish(folder_edge, 1)
    publish(folder_edge, 2)
    with monkeypatch.context() as patch:
        patch.setattr(folder_edge.store, "delete", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect_garbage(folder_edge, forget=True)
    assert len(folder_edge.manifest().collecting) == 1
    publish(folder_edge, 1)
    assert offered(folder_edge) == {1}
    collect_garbage(folder_edge, forget=True)
    assert folder_edge.manifest().collecting == ()
    assert offered(folder_edge) == {1}
    assert verify(folder_edge) == []


def test_unreadable_snapshot_stops_the_collection(folder_edge: EdgeTier, root: Path):
    first = publish(folder_edge, 1)
    publish(folder_edge, 2)
    (root / f"snapshots/{first}.json").write_text("{")
    with pytest.raises(EdgeStoreError, match=f"snapshot {first} cannot be parsed"):
        collect_garbage(folder_edge)
    assert len(list(root.glob("data/*/*/*.parquet"))) == 2


def test_retention_exceeds_the_cdns_stale_time():
    stale = timedelta(seconds=60 + 600 + 86400)
    assert 2 * stale < DEFAULT_RETENTION


def test_older_manifest_format_is_still_read(folder_edge: EdgeTier, root: Path):
    """Older files do not list their provisional intervals one by one."""
    folder_edge.publish(REPORT, {DAY: table(DAY)}, DAY.end - timedelta(hours=2))
    manifest = folder_edge.manifest()
    old = manifest.model_dump(mode="json")
    for name in ("sequence", "collecting"):
        del old[name]
    for file in old["datasets"]["queue_hour"]["files"]:
        for name in ("provisional", "row_groups", "min_interval", "max_interval"):
            del file[name]
    (root / "manifest.json").write_text(Manifest.model_validate(old).model_dump_json(exclude_unset=True))
    folder_edge.publish(REPORT, {hours(23, 24): table(hours(23, 24))}, None)
    dataset = folder_edge.manifest().datasets["queue_hour"]
    assert dataset.files[0].provisional_intervals() == IntervalSet([hours(22, 23)])
    assert (dataset.complete_from, dataset.complete_through) == (hours(23, 24).start, hours(23, 24).end)
