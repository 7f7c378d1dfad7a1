"""Caches the manifest of the edge store, so that a slow or unavailable store does not delay a scrape of the metrics."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cache_pipeline.bootstrap.stores import open_edge_tier
from cache_pipeline.settings import Settings

# The edge store's library is imported by the first read.
if TYPE_CHECKING:
    from cache_pipeline.storage.published.manifest import Manifest

logger = logging.getLogger(__name__)
#: How long a scrape waits for a read before it falls back to the previous manifest.
READ_TIMEOUT_SECONDS = 1.0
#: The least time between two reads. The manifest changes when something is published: every few minutes, or once a day.
READ_INTERVAL_SECONDS = 15.0
#: A manifest older than this says nothing about the present.
MAX_AGE_SECONDS = 300.0


@dataclass(frozen=True)
class ManifestStatus:
    """What is known about the edge store.

    Attributes:
        manifest: The manifest as last read, or None if that was too long ago or never.
        is_readable: Whether the last read that finished succeeded, and no read is overdue.
    """

    manifest: Manifest | None
    is_readable: bool


class ManifestCache:
    """The manifest, read at a limited rate and by one thread at a time.

    Args:
        read: Reads the manifest and blocks until it is done; returns None where this machine has no edge store.
        clock: Monotonic time in seconds.
    """

    def __init__(self, read: Callable[[], Manifest | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._manifest: Manifest | None = None
        self._read_at, self._started_at = -MAX_AGE_SECONDS, -READ_INTERVAL_SECONDS
        self._has_failed = False
        self._reading: asyncio.Future[Manifest | None] | None = None

    async def status(self) -> ManifestStatus | None:
        """Return what is known now, within a second; None where there is no edge store."""
        if self._reading is None and self._clock() - self._started_at >= READ_INTERVAL_SECONDS:
            self._start_reading()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=READ_TIMEOUT_SECONDS)
        now = self._clock()
        is_overdue = self._reading is not None and now - self._started_at > READ_INTERVAL_SECONDS
        if self._manifest is None and not self._has_failed and not is_overdue:
            return None
        manifest = self._manifest if now - self._read_at < MAX_AGE_SECONDS else None
        return ManifestStatus(manifest, not self._has_failed and not is_overdue)

    def _start_reading(self) -> None:
        loop = asyncio.get_running_loop()
        reading = self._reading = loop.create_future()
        self._started_at = self._clock()
        reading.add_done_callback(self._finish_reading)

        def set_outcome(manifest: Manifest | None, error: Exception | None) -> None:
            if reading.done():
                return
            if error is None:
                reading.set_result(manifest)
            else:
                reading.set_exception(error)

        def work() -> None:
            manifest, failure = None, None
            try:
                manifest = self._read()
            except Exception as error:  # noqa: BLE001 - passed on to the waiting scrapes
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(set_outcome, manifest, failure)

        # A daemon thread instead of one of the loop's own threads, which the process would wait for when it ends.
        threading.Thread(target=work, name="edge manifest", daemon=True).start()

    def _finish_reading(self, reading: asyncio.Future[Manifest | None]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()
        if error is not None:
            if not self._has_failed:
                logger.warning("the manifest of the edge store cannot be read: %s", error)
            self._has_failed = True
            return
        self._has_failed, self._manifest, self._read_at = False, reading.result(), self._clock()


def open_manifest_cache(settings: Settings) -> ManifestCache:
    """Create the manifest cache of the edge store in the settings.

    The cache stays empty where no edge store is configured and this machine has none of its own.
    """

    def read() -> Manifest | None:
        # Opening a local store would create its folder, so look first.
        path = Path(urlsplit(settings.edge_store_url).path, "v1", settings.tenant)
        if settings.edge_url is None and not path.exists():
            return None
        return open_edge_tier(settings).manifest()

    return ManifestCache(read)
