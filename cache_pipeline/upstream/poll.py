"""When to ask a job again: the guide's schedule, and a loop over any schedule."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from cache_pipeline.upstream.errors import JobOverdue

T = TypeVar("T")


def guide_delays(first: float = 1.0, cap: float = 15.0) -> Iterator[float]:
    """Seconds to wait before each poll, without end: 1, 2, 4, 8, 15, 15, ... (G3)."""
    delay = first
    while True:
        yield min(delay, cap)
        delay = min(delay * 2, cap)


async def poll_until_done(
    check: Callable[[], Awaitable[T | None]],
    delays: Iterable[float],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    deadline: float,
) -> T:
    """Waits, asks, and waits again until `check` gives something.

    Args:
        check: Asks once. Gives None while the job is unfinished, the outcome once it is done, and raises when the job
            failed: both end the loop at once (G3).
        delays: Seconds before the first, second, ... ask. The last one is repeated where they run out.
        sleep: Waits so many seconds.
        clock: Seconds that only grow.
        deadline: Seconds from now. The wait that would pass it is cut short and followed by one last ask.

    Raises:
        JobOverdue: The last ask at the deadline still found the job unfinished.
        ValueError: `delays` is empty.
    """
    started = clock()
    schedule = iter(delays)
    delay: float | None = None
    polls = 0
    while True:
        delay = next(schedule, delay)
        if delay is None:
            raise ValueError("a poll schedule needs at least one delay")
        left = deadline - (clock() - started)
        await sleep(max(0.0, min(delay, left)))
        polls += 1
        outcome = await check()
        if outcome is not None:
            return outcome
        if clock() - started >= deadline:
            raise JobOverdue(waited_seconds=clock() - started, polls=polls)
