"""The edge store is looked at beside the scrapes: slow, broken or away it holds up none of them, and is told of."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from cache_pipeline.api.monitoring import manifest_cache as module
from cache_pipeline.api.monitoring.manifest_cache import (
    MAX_AGE_SECONDS,
    READ_INTERVAL_SECONDS,
    ManifestCache,
    ManifestStatus,
)
from cache_pipeline.errors import EdgeStoreError
from cache_pipeline.storage.published.manifest import Manifest
from cache_pipeline_tests.api.monitoring.test_status import told

MANIFEST = Manifest(generated_at=datetime(2026, 1, 5, tzinfo=UTC), datasets={})


class Store:
    """Answers at once, or when it is let; may be broken."""

    def __init__(self, manifest=MANIFEST):
        self.manifest, self.broken, self.reads, self.now = manifest, False, 0, 1000.0
        self.free = threading.Event()
        self.free.set()
        self.published = ManifestCache(self.read, lambda: self.now)

    def read(self):
        self.reads += 1
        self.free.wait(30)
        if self.broken:
            raise EdgeStoreError("manifest.json does not parse")
        return self.manifest


async def test_scrapes_that_follow_each_other_read_once_and_later_ones_again():
    store = Store()
    for _ in range(3):
        assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=True)
    assert store.reads == 1
    store.now += READ_INTERVAL_SECONDS
    assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=True)
    assert store.reads == 2


async def test_a_store_that_hangs_holds_up_no_scrape_and_has_one_thread_at_most(monkeypatch):
    monkeypatch.setattr(module, "READ_TIMEOUT_SECONDS", 0.05)
    store = Store()
    await store.published.status()
    store.free.clear()
    store.now += READ_INTERVAL_SECONDS
    began = time.monotonic()
    for _ in range(5):
        assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=True)
        store.now += READ_INTERVAL_SECONDS / 5
    assert time.monotonic() - began < 5
    store.now += 0.1
    assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=False), "overdue"
    assert store.reads == 2
    store.now += MAX_AGE_SECONDS
    assert await store.published.status() == ManifestStatus(None, is_readable=False), "too long ago"
    store.free.set()
    async with asyncio.timeout(10):
        while await store.published.status() != ManifestStatus(MANIFEST, is_readable=True):  # noqa: ASYNC110 - the thread's doing
            await asyncio.sleep(0.01)


async def test_a_store_that_cannot_be_read_is_told_of_once_and_what_was_read_before_stays_for_a_while(caplog):
    store = Store()
    await store.published.status()
    store.broken = True
    for _ in range(3):
        store.now += READ_INTERVAL_SECONDS
        assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=False)
    assert [record.message for record in caplog.records] == [
        "the manifest of the edge store cannot be read: manifest.json does not parse"
    ]
    store.now += MAX_AGE_SECONDS
    assert await store.published.status() == ManifestStatus(None, is_readable=False)
    store.broken = False
    store.now += READ_INTERVAL_SECONDS
    assert await store.published.status() == ManifestStatus(MANIFEST, is_readable=True)


async def test_where_there_is_no_edge_store_nothing_is_told_of_one():
    assert await Store(manifest=None).published.status() is None


def test_a_process_ends_though_a_read_still_hangs():
    store = Store()
    store.free.clear()

    async def scrape():
        await asyncio.wait_for(store.published.status(), 10)

    began = time.monotonic()
    asyncio.run(scrape())
    assert time.monotonic() - began < 10
    store.free.set()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_scrape_tells_whether_the_edge_store_can_be_read(open_api, tmp_path, broken):
    async with open_api(edge_url=f"file://{tmp_path}") as api:
        if broken:
            (tmp_path / "v1" / "default").mkdir(parents=True)
            (tmp_path / "v1" / "default" / "manifest.json").write_text("not a manifest")
        assert (await told(api))["dependency_up", "edge"] == float(not broken)
        assert (await api.http.get("/readyz")).status_code == 200
