"""Single flight: one caller at a time fetches an interval, over all processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import INTERACTIVE, Priority


@dataclass(frozen=True)
class Flight:
    """A lock that a caller holds.

    Attributes:
        priority: Returns the priority with which the holder and all waiters want the result. Read it before each request.
    """

    priority: Callable[[], Awaitable[Priority]]


class OnWait(Protocol):
    """A callback that receives every wait."""

    def __call__(self, seconds: float, *, is_whole: bool) -> None:
        """Record one wait."""
        ...


class SingleFlight(Protocol):
    """Lets one caller at a time fetch a name or an interval of it, over all processes.

    Attributes:
        on_wait: Called after every wait for another caller: with its seconds, and whether the whole name was waited for.
    """

    on_wait: OnWait

    def acquire(
        self,
        name: str,
        is_done: Callable[[], Awaitable[bool]],
        interval: Interval | None = None,
        *,
        priority: Priority = INTERACTIVE,
    ) -> AbstractAsyncContextManager[Flight | None]:
        """Acquire the lock of a name, or wait until another caller has done the work.

        Args:
            name: What is fetched: a short text without secrets.
            is_done: Checks whether the result is available. Called after each release, and every few seconds.
            interval: The part of the name that is fetched. Without it the whole name is locked, which excludes every part.
            priority: The caller's priority; if the caller has to wait, the lock's holder continues with it too.

        Returns:
            A context manager that yields the lock if this caller holds it; it should check for the result once more before it
            fetches. It yields None if `is_done` returned True, so that there is nothing to wait for.
        """
        ...

    async def wait_for_release(self, name: str, interval: Interval | None = None) -> None:
        """Wait until a lock of any part of it is released, but only for a few seconds."""
        ...
