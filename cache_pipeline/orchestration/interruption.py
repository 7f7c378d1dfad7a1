"""Lets an interrupt end a step's requests in good order before it ends the run.

Dagster raises its interrupt out of whatever the event loop does at that instant and leaves the loop's tasks as they are:
what they hold would be held until it lapses, and an interrupt that strikes a task of the background would be lost.
"""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import dagster as dg

T = TypeVar("T")


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Await some work of a step; at SIGINT or SIGTERM cancel it, and let it give back what it holds.

    Raises:
        DagsterExecutionInterruptedError: it was interrupted.
        Whatever the work raises.
    """
    task = asyncio.ensure_future(work)
    # Elsewhere no signal arrives.
    if threading.current_thread() is not threading.main_thread():
        return await task
    loop, interrupted = asyncio.get_running_loop(), False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if interrupted:
            raise dg.DagsterExecutionInterruptedError from None
        raise
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)
