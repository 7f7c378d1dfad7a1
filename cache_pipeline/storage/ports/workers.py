"""The heartbeats of the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class WorkerCounts:
    """Workers at one moment.

    Attributes:
        alive: Workers that sent a heartbeat within the lease.
        lost: Workers that fell silent lately without deregistering.
    """

    alive: int
    lost: int


class WorkerHeartbeats(Protocol):
    """Which workers are alive, and which were lost without deregistering."""

    async def heartbeat(self, name: str) -> None:
        """Send a worker's heartbeat at regular intervals until cancelled."""
        ...

    async def deregister(self, name: str) -> None:
        """Remove a worker that shuts down in order, so that it does not count as lost."""
        ...

    async def count(self) -> WorkerCounts:
        """Count the workers that are alive and those that were lost.

        Raises:
            RedisUnavailable: Nothing can be read.
        """
        ...
