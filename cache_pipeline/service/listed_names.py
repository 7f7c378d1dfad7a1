"""The entries of a vendor's listings by name: read from the vendor if that was never done, and again once they are a day old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cache_pipeline.errors import CachePipelineError, PlatformNotConfigured
from cache_pipeline.query.lane import INTERACTIVE
from cache_pipeline.query.names import NamePage, NameSelection
from cache_pipeline.service.live_answers import NothingListed
from cache_pipeline.service.names import MAX_NAMES_AGE, refresh_lookup
from cache_pipeline.service.recent_failures import RecentFailures
from cache_pipeline.storage.coalescer import Coalescer
from cache_pipeline.storage.ports.names import NameScope, NameStore
from cache_pipeline.storage.ports.single_flight import SingleFlight
from cache_pipeline.vendors.registry import find_vendor
from cache_pipeline.vendors.spec import Lookup

if TYPE_CHECKING:
    from cache_pipeline.upstream.http import httpx

#: For so long after a failure this process does not read the listing again, however many callers it has.
_PAUSE_AFTER_FAILURE = timedelta(seconds=5)
_PAUSE_AFTER_REFUSAL = timedelta(minutes=1)


@dataclass(frozen=True)
class ListedNames:
    """Reads the stored listings of all accounts.

    Attributes:
        clients: The HTTP client of each vendor account, whose requests count against the shared quota.
        store: The stored names.
        single_flight: Lets one process at a time read a listing.
        coalescer: Shares one task between all callers of this process.
        clock: The current time, in UTC.
    """

    clients: Mapping[str, httpx.AsyncClient]
    store: NameStore
    single_flight: SingleFlight
    coalescer: Coalescer[datetime, None]
    clock: Callable[[], datetime]
    _listed_at: dict[str, datetime] = field(default_factory=dict[str, datetime])
    _failures: RecentFailures = field(default_factory=RecentFailures)

    async def page(self, scope: NameScope, lookup: Lookup, selection: NameSelection) -> tuple[NamePage, datetime]:
        """Return some entries of a listing, and when it was read.

        Raises:
            PlatformNotConfigured: The account is not in the settings.
            NothingListed: The listing may not be read.
            UpstreamError: It could not be read.
        """
        listed_at = await self._ensure(scope, lookup)
        return await asyncio.to_thread(self.store.page, scope, lookup.name, selection), listed_at

    async def _ensure(self, scope: NameScope, lookup: Lookup) -> datetime:
        """Return when a listing was read; if it never was, read it, and if that is long ago, have it read again."""
        key = f"names {scope.tenant} {scope.account} {lookup.name}"
        listed_at = self._listed_at.get(key)
        if listed_at is None or self._is_old(listed_at):
            listed_at = await self._stored_at(key, scope, lookup)
        if listed_at is None:
            return await self.coalescer.run(key, lambda _notify: self._refresh(key, scope, lookup))
        if self._is_old(listed_at) and self._failures.find(key, self.clock()) is None:
            self.coalescer.run_in_background(key, lambda: self._refresh(key, scope, lookup))
        return listed_at

    def _is_old(self, listed_at: datetime) -> bool:
        return self.clock() - listed_at >= MAX_NAMES_AGE

    async def _stored_at(self, key: str, scope: NameScope, lookup: Lookup) -> datetime | None:
        state = (await asyncio.to_thread(self.store.state, scope)).get(lookup.name)
        listed_at = state.listed_at if state else None
        if listed_at is not None:
            self._listed_at[key] = listed_at
        return listed_at

    async def _refresh(self, key: str, scope: NameScope, lookup: Lookup) -> datetime:
        """Read a listing, unless another process has done so meanwhile."""
        if (error := self._failures.find(key, self.clock())) is not None:
            raise error

        async def is_listed() -> bool:
            listed_at = await self._stored_at(key, scope, lookup)
            return listed_at is not None and not self._is_old(listed_at)

        async with self.single_flight.acquire(key, is_listed, priority=INTERACTIVE):
            if not await is_listed():
                try:
                    self._listed_at[key] = await self._read(scope, lookup)
                except CachePipelineError as error:
                    pause = _PAUSE_AFTER_REFUSAL if isinstance(error, NothingListed) else _PAUSE_AFTER_FAILURE
                    now = self.clock()
                    self._failures.record(key, error, now, now + pause)
                    raise
        self._failures.forget(key)
        return self._listed_at[key]

    async def _read(self, scope: NameScope, lookup: Lookup) -> datetime:
        client = self.clients.get(scope.account)
        if client is None:
            raise PlatformNotConfigured(f"{scope.account} is not in the settings: its {lookup.name} cannot be listed")
        now = self.clock()
        vendor = find_vendor(scope.account.partition("/")[0])
        result = await refresh_lookup(client, vendor, lookup, self.store, scope, now)
        if result.problem is not None:
            raise NothingListed(
                f"the {lookup.name} of {scope.account} cannot be listed: {result.problem}",
                remedy=f"give the OAuth client a role with {lookup.permission}",
            )
        return now
