"""Slots that several parties share, so that none of them can keep the others waiting for long."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


def may_take(held: int, free: int) -> bool:
    """Return whether a party may take one more slot: only while it holds fewer than are free.

    So a party that comes late always finds a slot, however many the first one wants: that one gets half of all, the next one half
    of the rest, and so on.
    """
    return held < free


class FairSlots:
    """A number of slots. A free one goes to the party that holds the fewest and, among equals, has waited longest for its turn.

    Args:
        total: The number of slots.
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._held = Counter[str]()
        # In the order in which their turn comes.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def try_acquire(self, party: str) -> bool:
        """Take a slot if the party may have one now, and return whether it did."""
        if not may_take(self._held[party], self._free):
            return False
        self._take(party)
        return True

    async def acquire(self, party: str) -> None:
        """Wait for a slot, as long as needed, and take it."""
        if self.try_acquire(party):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(party)
            else:
                self._forget(party, granted)
            raise

    def release(self, party: str) -> None:
        """Return a slot, which goes to those that wait."""
        self._free += 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
        while chosen := self._next_party():
            queue = self._waiting.pop(chosen)
            granted = queue.popleft()
            if queue:
                # Behind the others.
                self._waiting[chosen] = queue
            self._take(chosen)
            granted.set_result(None)

    @asynccontextmanager
    async def hold(self, party: str) -> AsyncGenerator[None]:
        """Hold a slot while the block lasts."""
        await self.acquire(party)
        try:
            yield
        finally:
            self.release(party)

    def _next_party(self) -> str | None:
        permitted = [party for party in self._waiting if may_take(self._held[party], self._free)]
        return min(permitted, key=lambda party: self._held[party], default=None)

    def _take(self, party: str) -> None:
        self._free -= 1
        self._held[party] += 1

    def _forget(self, party: str, granted: asyncio.Future[None]) -> None:
        queue = self._waiting[party]
        queue.remove(granted)
        if not queue:
            del self._waiting[party]
