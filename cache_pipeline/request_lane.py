"""The priority of a request that is being sent, which a caller that waits for its result may raise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from cache_pipeline.query.lane import Lane, Priority


class RaisableLane:
    """The priority of one request, which others may raise while the request waits for the quota.

    Args:
        priority: The priority with which it begins.
    """

    def __init__(self, priority: Priority) -> None:
        self._priority, self._raised = priority, asyncio.Event()

    @property
    def current(self) -> Priority:
        """The priority now."""
        return self._priority

    def raise_to(self, priority: Priority) -> None:
        """Continue in a lane if it is more urgent, and for further callers."""
        raised = self._priority | priority
        if raised != self._priority:
            self._priority = raised
            self._raised.set()
            self._raised = asyncio.Event()

    def wait_until_raised(self) -> Awaitable[object]:
        """Return an awaitable that ends when the priority is raised the next time, counted from this call."""
        return self._raised.wait()


#: The priority of a request: fixed, or one that may be raised while it waits. A lane alone is that of the deployment's own work.
RequestLane = Lane | Priority | RaisableLane


def current_priority(lane: RequestLane) -> Priority:
    """Return the priority of a request now."""
    if isinstance(lane, RaisableLane):
        return lane.current
    return Priority(lane) if isinstance(lane, Lane) else lane
