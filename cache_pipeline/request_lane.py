"""The lane of a request that is being sent, which a caller that waits for its result may raise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from cache_pipeline.query.lane import Lane


class RaisableLane:
    """The lane of one request, which others may raise while the request waits for the quota.

    Args:
        lane: The lane in which it begins.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane, self._raised = lane, asyncio.Event()

    @property
    def current(self) -> Lane:
        """The lane now."""
        return self._lane

    def raise_to(self, lane: Lane) -> None:
        """Continue in a lane if it is more urgent."""
        if lane.rank < self._lane.rank:
            self._lane = lane
            self._raised.set()
            self._raised = asyncio.Event()

    def wait_until_raised(self) -> Awaitable[object]:
        """Return an awaitable that ends when the lane is raised the next time, counted from this call."""
        return self._raised.wait()


#: The lane of a request: fixed, or one that may be raised while it waits.
RequestLane = Lane | RaisableLane
