"""Work and tasks that have surely ended before whoever began them goes on, cancelled or not."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
_AGAIN_SECONDS = 0.5


async def finish(work: Awaitable[T]) -> T:
    """Wait for some work; a caller who is cancelled leaves only once it has ended, for until then nobody can say what it did."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # Cancelled again while it waits here, as nested task groups do, it would leave the work behind after all.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


async def run_in_thread(work: Callable[[], T], threads: Executor | None = None) -> T:
    """Do blocking work in a thread, to its end.

    Args:
        work: what to do, in the caller's context.
        threads: whose thread does it; by default one of those that the event loop shares out.
    """
    context = contextvars.copy_context()
    return await finish(asyncio.get_running_loop().run_in_executor(threads, context.run, work))


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: asyncio and the Redis client may swallow a cancellation that comes as they finish."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)


async def gather_or_cancel(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results; when one fails the others are stopped, for they would be asked for in vain."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await finish(asyncio.gather(*tasks, return_exceptions=True))


@asynccontextmanager
async def run_in_background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Do some work in the background while the block lasts."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        await cancel_and_wait(tasks)
