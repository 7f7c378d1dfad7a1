"""What the gateway and its workers want of a message broker: three methods, whichever broker it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Delivery:
    """One message, as often as it takes until it is acknowledged.

    Attributes:
        body: a job's id, unless somebody else has put something there.
        ack: tells the broker to forget it. It may come too late, when the message has gone to another worker already;
            then nothing happens.
    """

    body: bytes
    ack: Callable[[], Awaitable[None]]


class JobQueue(Protocol):
    """At least once: a message stays until it is acknowledged, and goes to another worker when its own is gone.

    A message is a hint that a job waits; the job's row is what is true. Losing one costs time, not a job.
    """

    async def publish(self, job_id: str) -> None:
        """Put a job's id on the queue.

        Raises:
            QueueUnavailable: the broker did not take it.
        """
        ...

    def consume(self) -> AsyncGenerator[Delivery]:
        """Messages as they come, for ever; a broker that goes away is waited for."""
        ...

    async def health(self) -> None:
        """Return when the broker answers.

        Raises:
            QueueUnavailable: it does not.
        """
        ...
