"""The port to a message broker: the three methods that the API and its workers need, whatever the broker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Delivery:
    """One message, delivered again until it is acknowledged.

    Attributes:
        body: A job's id, unless another program has put something else on the queue.
        ack: Acknowledges the message, so that the broker forgets it. It has no effect if the message has already gone to
            another worker.
    """

    body: bytes
    ack: Callable[[], Awaitable[None]]


class JobQueue(Protocol):
    """A queue with at-least-once delivery: an unacknowledged message goes to another worker when its own is gone.

    A message is only a hint that a job waits. The job's row decides. Losing a message costs time, not a job.
    """

    async def publish(self, job_id: str) -> None:
        """Put a job's id on the queue.

        Raises:
            QueueUnavailable: The broker did not take it.
        """
        ...

    def consume(self) -> AsyncGenerator[Delivery]:
        """Yield messages as they arrive, without end; wait while the broker is unavailable."""
        ...

    async def health(self) -> None:
        """Check that the broker answers.

        Raises:
            QueueUnavailable: The broker does not answer.
        """
        ...
