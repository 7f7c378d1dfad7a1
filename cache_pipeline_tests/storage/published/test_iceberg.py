"""Tests of the Iceberg catalogue of published files: the same rows as the manifest, now and at its earlier snapshots."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.query.person import Person
from cache_pipeline.storage.published import EdgeTier
from cache_pipeline.storage.published.iceberg import SNAPSHOT_PROPERTY, IcebergCatalog
from cache_pipeline.storage.published.maintenance import collect_garbage, rollback
from cache_pipeline.storage.published.object_store import EdgeStore
from cache_pipeline.storage.published.personal_data import PublishedPersonalData
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.storage.sample_rows import NOW, REPORT, hours, table

pytest.importorskip("pyiceberg")
DAYS = [hours(0, 24), hours(24, 48)]


class Published:
    """A store of published files with a catalogue."""

    def __init__(self, folder: Path, catalog_url: str) -> None:
        self.folder, self.url = folder, catalog_url
        self.edge = EdgeTier(f"file://{folder}", lambda: NOW)
        self.catalog = IcebergCatalog(catalog_url, f"file://{folder}", "cache_pipeline")

    def publish(self, offered: int = 1, report=REPORT, days=DAYS) -> str:
        return self.edge.publish(report, {day: table(day, offered, report=report) for day in days}, None).snapshot

    def register(self):
        (registration,) = self.catalog.register(self.edge, f"file://{self.folder}/v1/default")
        return registration

    def table(self):
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog("cache_pipeline", uri=self.url.replace("postgresql://", "postgresql+psycopg://"))
        with closing(catalog):
            return catalog.load_table("cache_pipeline.queue_hour")

    def rows(self, tag: str | None = None) -> list[tuple[object, ...]]:
        found = self.table()
        snapshot = None if tag is None else found.snapshot_by_name(tag).snapshot_id
        return sorted_rows(found.scan(snapshot_id=snapshot).to_arrow())


def sorted_rows(rows: pa.Table) -> list[tuple[object, ...]]:
    names = sorted(rows.column_names)
    return sorted((tuple(row[name] for name in names) for row in rows.to_pylist()), key=str)


@pytest.fixture(params=["sqlite", "postgresql"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database")
    return Published(tmp_path / "edge", url)


def test_table_equals_the_manifest_now_and_at_earlier_snapshots(published: Published):
    first = published.publish()
    assert (published.register().added, published.register().added) == (2, 0)
    before = sorted_rows(published.edge.read(REPORT, hours(0, 48)))
    assert published.rows() == before
    second = published.publish(offered=7, days=DAYS[1:])
    registration = published.register()
    assert (registration.added, registration.removed) == (1, 1)
    after = sorted_rows(published.edge.read(REPORT, hours(0, 48)))
    assert published.rows() == published.rows(second) == after
    assert published.rows(first) == before != after
    assert published.table().current_snapshot().summary.additional_properties[SNAPSHOT_PROPERTY] == second
    files = {path.relative_to(published.folder).parts[0] for path in published.folder.rglob("*.parquet")}
    assert files == {"v1"}, "no data file is copied"


def test_rollback_and_added_column_are_followed(published: Published):
    first = published.publish()
    published.register()
    wider = declared(time_zone="UTC", group_by=["queueId"], metrics=["offered", "answered", "abandoned"])
    published.publish(report=wider, offered=3)
    published.register()
    assert published.rows() == sorted_rows(published.edge.read(wider, hours(0, 48)))
    rollback(published.edge, first)
    published.register()
    assert published.table().scan().to_arrow().num_rows == 96
    assert published.table().scan(row_filter="abandoned IS NOT NULL").to_arrow().num_rows == 0


def test_snapshots_name_no_deleted_file_after_garbage_collection(published: Published):
    first = published.publish()
    published.register()
    second = published.publish(offered=7, days=DAYS[1:])
    published.register()
    collected = collect_garbage(published.edge, forget=True)
    assert len(collected.files) == 1
    published.register()
    found = published.table()
    assert {first, second} & set(found.refs()) == {second}
    for snapshot in found.snapshots():
        rows = found.scan(snapshot_id=snapshot.snapshot_id).to_arrow()
        assert sorted_rows(rows) == sorted_rows(published.edge.read(REPORT, hours(0, 48)))


def test_forgotten_person_leaves_no_snapshot_with_deleted_files(published: Published):
    def publish(queues: tuple[str, ...]) -> None:
        published.edge.publish(REPORT, {day: table(day, queues=queues) for day in DAYS}, None)

    publish(("person-17", "q2"))
    published.register()
    store = PublishedPersonalData(published.edge, lambda _: publish(("q2",)), published.register)
    (erasure,) = store.forget(Person("person-17"))
    assert (erasure.removed, erasure.left, erasure.note) == (2, 0, "")
    found = published.table()
    rows = [found.scan(snapshot_id=each.snapshot_id).to_arrow() for each in found.snapshots()]
    assert [set(each["queue_id"].to_pylist()) for each in rows] == [{"q2"}]


def test_registration_reads_no_whole_file(published: Published, monkeypatch: pytest.MonkeyPatch):
    published.publish()
    asked: list[str] = []
    get = EdgeStore.get
    monkeypatch.setattr(EdgeStore, "get", lambda self, path: asked.append(path) or get(self, path))
    assert published.register().added == 2
    assert asked
    assert [path for path in asked if path.endswith(".parquet")] == []


def test_catalogue_that_cannot_be_used_is_one_line(tmp_path: Path):
    published = Published(tmp_path / "edge", "postgresql://someone:planted-secret-value@127.0.0.1:1/nowhere")
    published.publish()
    with pytest.raises(EdgeStoreError, match="the Iceberg catalogue cannot be used") as refused:
        published.register()
    assert "planted-secret-value" not in str(refused.value)
    assert "\n" not in str(refused.value)
