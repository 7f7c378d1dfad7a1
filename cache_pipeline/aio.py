"""Asyncio helpers that never leave work running: finish, cancel or gather tasks even if the caller is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
#: Time after which a task that has not ended is cancelled again.
_RECANCEL_SECONDS = 0.5


async def finish(work: Awaitable[T]) -> T:
    """Await `work` to completion even if the caller is cancelled, then re-raise the cancellation.

    The outcome of the work is therefore always known when this returns.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # Nested task groups may cancel the caller again while it waits here, which must not abandon the work.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        retrieve_exception(running)
        raise


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, but no longer than `seconds`, and clear it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


async def run_in_thread(work: Callable[[], T], threads: Executor | None = None) -> T:
    """Run blocking work in a thread and await its end, even if the caller is cancelled.

    Args:
        work: The function to call, in the caller's context.
        threads: The executor to use. The default is the event loop's own.
    """
    context = contextvars.copy_context()
    return await finish(asyncio.get_running_loop().run_in_executor(threads, context.run, work))


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks repeatedly until they have ended, even if the caller is cancelled meanwhile.

    Asyncio (before Python 3.12) and the Redis client may swallow a cancellation that arrives just as an operation finishes.
    """
    if pending := {task for task in tasks if not task.done()}:
        await finish(_cancel_until_done(pending))


async def _cancel_until_done(pending: set[asyncio.Task[Any]]) -> None:
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_RECANCEL_SECONDS)


async def gather_or_cancel(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return all results. If one fails, cancel the others, because their results would not be used."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        # Not `asyncio.gather`, which waits without end for a task that swallows the cancellation.
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for failed in tasks:
            if failed.done():
                failed.result()
        return [task.result() for task in tasks]
    finally:
        await cancel_and_wait(tasks)
        for task in tasks:
            retrieve_exception(task)


def retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Mark the exception of a task that has ended as retrieved, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()


@asynccontextmanager
async def run_in_background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run coroutines in the background while the block lasts."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        await cancel_and_wait(tasks)
