"""The manifest cache: a slow, broken or missing edge store delays no scrape, and its state is reported."""

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
from cache_pipeline_tests.api.monitoring.test_status import scrape

MANIFEST = Manifest(generated_at=datetime(2026, 1, 5, tzinfo=UTC), datasets={})


class Store:
    """An edge store that answers at once, hangs until it is released, or is broken."""

    def __init__(self, manifest=MANIFEST):
        self.manifest, self.is_broken, self.reads, self.now = manifest, False, 0, 1000.0
        self.released = threading.Event()
        self.released.set()
        self.cache = ManifestCache(self.read, lambda: self.now)

    def read(self):
        self.reads += 1
        self.released.wait(30)
        if self.is_broken:
            raise EdgeStoreError("manifest.json does not parse")
        return self.manifest


async def test_manifest_is_read_once_per_interval():
    store = Store()
    for _ in range(3):
        assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=True)
    assert store.reads == 1
    store.now += READ_INTERVAL_SECONDS
    assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=True)
    assert store.reads == 2


async def test_hanging_store_delays_no_scrape_and_uses_one_thread(monkeypatch):
    monkeypatch.setattr(module, "READ_TIMEOUT_SECONDS", 0.05)
    store = Store()
    await store.cache.status()
    store.released.clear()
    store.now += READ_INTERVAL_SECONDS
    started = time.monotonic()
    for _ in range(5):
        assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=True)
        store.now += READ_INTERVAL_SECONDS / 5
    assert time.monotonic() - started < 5
    store.now += 0.1
    assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=False), "overdue"
    assert store.reads == 2
    store.now += MAX_AGE_SECONDS
    assert await store.cache.status() == ManifestStatus(None, is_readable=False), "too long ago"
    store.released.set()
    async with asyncio.timeout(10):
        while await store.cache.status() != ManifestStatus(MANIFEST, is_readable=True):  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.01)


async def test_unreadable_store_is_logged_once_and_cache_stays(caplog):
    store = Store()
    await store.cache.status()
    store.is_broken = True
    for _ in range(3):
        store.now += READ_INTERVAL_SECONDS
        assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=False)
    assert [record.message for record in caplog.records] == [
        "the manifest of the edge store cannot be read: manifest.json does not parse"
    ]
    store.now += MAX_AGE_SECONDS
    assert await store.cache.status() == ManifestStatus(None, is_readable=False)
    store.is_broken = False
    store.now += READ_INTERVAL_SECONDS
    assert await store.cache.status() == ManifestStatus(MANIFEST, is_readable=True)


async def test_missing_edge_store_has_no_status():
    assert await Store(manifest=None).cache.status() is None


def test_process_ends_while_read_hangs():
    store = Store()
    store.released.clear()

    async def scrape():
        await asyncio.wait_for(store.cache.status(), 10)

    started = time.monotonic()
    asyncio.run(scrape())
    assert time.monotonic() - started < 10
    store.released.set()


@pytest.mark.parametrize("broken", [False, True])
async def test_scrape_reports_readability_of_edge_store(open_api, tmp_path, broken):
    async with open_api(edge_url=f"file://{tmp_path}") as api:
        if broken:
            (tmp_path / "v1" / "default").mkdir(parents=True)
            (tmp_path / "v1" / "default" / "manifest.json").write_text("not a manifest")
        assert (await scrape(api))["dependency_up", "edge"] == float(not broken)
        assert (await api.http.get("/readyz")).status_code == 200
