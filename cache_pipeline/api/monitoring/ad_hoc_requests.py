"""Counts the requests for ad hoc series, so that `status` shows which of them are worth a declaration, and unused ones are dropped."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.storage.ports.ad_hoc_series import AdHocSeriesInfo, AdHocSeriesRegister

_FLUSH_SECONDS = 5.0
_MAX_SERIES = 2000


class AdHocRequests:
    """Counts in memory, and adds to the register every few seconds."""

    def __init__(self, register: AdHocSeriesRegister) -> None:
        self._register = register
        self._counts = Counter[tuple[str, str]]()

    def record(self, name: str, tenant: str) -> None:
        """Count one request for a series."""
        if (name, tenant) in self._counts or len(self._counts) < _MAX_SERIES:
            self._counts[name, tenant] += 1

    async def flush(self) -> None:
        """Add the counts to the register. They are lost if PostgreSQL is unavailable."""
        counts, self._counts = self._counts, Counter[tuple[str, str]]()
        if counts:
            await self._register.count_requests(counts)

    async def series(self, tenant: str) -> list[AdHocSeriesInfo]:
        """Return the series of a tenant with all requests so far, the most requested first."""
        await self.flush()
        return await self._register.all(tenant)

    async def run(self) -> None:
        """Flush every few seconds until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            with suppress(HistoryUnavailable):
                await self.flush()
