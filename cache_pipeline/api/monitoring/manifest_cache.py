"""What the edge store offers, read beside the scrapes that tell of it: a store that is slow or away holds up none of them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cache_pipeline.bootstrap import edge_tier
from cache_pipeline.settings import Settings
from cache_pipeline.storage.published.manifest import Manifest

_LOG = logging.getLogger(__name__)
#: A scrape waits so long for a read, and then tells what was read before.
PATIENCE_SECONDS = 1.0
#: The manifest changes when something is published: minutes, or a day.
EVERY_SECONDS = 15.0
#: What was read so long ago says nothing of now.
KEPT_SECONDS = 300.0


@dataclass(frozen=True)
class ManifestStatus:
    """What is known of the edge store.

    Attributes:
        manifest: as it was read last, or None where that is too long ago, or was never.
        ok: whether the latest read that has ended found it, and none is overdue.
    """

    manifest: Manifest | None
    ok: bool


class ManifestCache:
    """The manifest, read at most every so often and by one thread at a time.

    Args:
        read: blocks until it has read it; None where this machine has no edge store.
        clock: seconds that only grow.
    """

    def __init__(self, read: Callable[[], Manifest | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._manifest: Manifest | None = None
        self._read_at, self._begun_at = -KEPT_SECONDS, -EVERY_SECONDS
        self._failed = False
        self._reading: asyncio.Future[Manifest | None] | None = None

    async def seen(self) -> ManifestStatus | None:
        """What is known now, within a second; None where there is no edge store."""
        if self._reading is None and self._clock() - self._begun_at >= EVERY_SECONDS:
            self._begin()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=PATIENCE_SECONDS)
        now = self._clock()
        overdue = self._reading is not None and now - self._begun_at > EVERY_SECONDS
        if self._manifest is None and not self._failed and not overdue:
            return None
        known = self._manifest if now - self._read_at < KEPT_SECONDS else None
        return ManifestStatus(known, not self._failed and not overdue)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        reading = self._reading = loop.create_future()
        self._begun_at = self._clock()
        reading.add_done_callback(self._ended)

        def settle(manifest: Manifest | None, error: Exception | None) -> None:
            if reading.done():
                return
            if error is None:
                reading.set_result(manifest)
            else:
                reading.set_exception(error)

        def work() -> None:
            manifest, error = None, None
            try:
                manifest = self._read()
            except Exception as broken:  # noqa: BLE001 - told to whoever waits
                error = broken
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, manifest, error)

        # Not one of the loop's own threads, which the process would wait for when it ends.
        threading.Thread(target=work, name="edge manifest", daemon=True).start()

    def _ended(self, reading: asyncio.Future[Manifest | None]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        error = reading.exception()
        if error is not None:
            if not self._failed:
                _LOG.warning("the edge store's manifest cannot be read: %s", error)
            self._failed = True
            return
        self._failed, self._manifest, self._read_at = False, reading.result(), self._clock()


def open_manifest_cache(settings: Settings) -> ManifestCache:
    """What the edge store of some settings offers; nothing where this machine was given none and has none of its own."""

    def read() -> Manifest | None:
        # Opening a folder would make it.
        path = Path(urlsplit(settings.edge_address).path, "v1", settings.tenant)
        if settings.edge_url is None and not path.exists():
            return None
        return edge_tier(settings).manifest()

    return ManifestCache(read)
