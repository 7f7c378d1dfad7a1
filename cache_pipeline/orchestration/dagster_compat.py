"""Lets an interrupt end a step's requests in good order before it ends the run.

Dagster raises its interrupt out of whatever the event loop does at that instant and leaves the loop's tasks as they are:
what they hold would be held until it lapses, and an interrupt that strikes a task of the background would be lost.
"""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

import dagster as dg

T = TypeVar("T")


async def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
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


Function = TypeVar("Function", bound=Callable[..., Any])


def with_signature(function: Function) -> Function:
    """The function, which from now on needs not be looked at again for its signature."""
    vars(function)["__signature__"] = inspect.signature(function)
    return function


_BATCH_SIZE = "DAGSTER_EVENT_BATCH_SIZE"

# A server that is started anew is away for longer, so that no connection from before is written to.
_KEPT_SECONDS = 1


def write_events_in_batches(environment: MutableMapping[str, str]) -> None:
    """Let Dagster write fifty materialisations at once in this process, unless the environment says otherwise already.

    What a step has recorded while it ran is not among them: a run that is killed keeps that.
    """
    environment.setdefault(_BATCH_SIZE, "50")


def keep_connections(instance: dg.DagsterInstance) -> None:
    """Let a run's process use a connection to Dagster's storage again within a second, one for each kind of storage.

    The webserver asks Dagster for the same, hence the name of what is called; no statement is timed out here. They are closed
    with the process, or when the instance is collected.
    """
    instance.optimize_for_webserver(statement_timeout=0, pool_recycle=_KEPT_SECONDS, max_overflow=-1)
