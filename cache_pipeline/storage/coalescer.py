"""In-process coalescing: identical concurrent callers share one task.

This works within one process only. `cache_pipeline.storage.redis.single_flight` does the same across processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from cache_pipeline.aio import cancel_and_wait, retrieve_exception

T = TypeVar("T")
Event = TypeVar("Event")
Notify = Callable[[Event], None]


@dataclass
class _SharedTask(Generic[T, Event]):
    task: asyncio.Task[T]
    listeners: list[Notify[Event]]
    callers: set[asyncio.Future[T]] = field(default_factory=set["asyncio.Future[T]"])

    def resolve_callers(self) -> None:
        """Pass the task's result or exception to every caller."""
        for caller in self.callers:
            if caller.done():
                continue
            if self.task.cancelled():
                caller.cancel()
            elif (error := self.task.exception()) is not None:
                caller.set_exception(error)
            else:
                caller.set_result(self.task.result())


class Coalescer(Generic[T, Event]):
    """Runs work by key, and lets a caller of a key that is already running wait for that run.

    Use it as an async context manager: leaving it cancels everything that still runs.
    """

    def __init__(self) -> None:
        self._running: dict[str, _SharedTask[T, Event]] = {}
        self._background: dict[str, asyncio.Task[T]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*(shared.task for shared in self._running.values()), *self._background.values()]
        await cancel_and_wait(tasks)

    async def run(
        self, key: str, work: Callable[[Notify[Event]], Coroutine[Any, Any, T]], listener: Notify[Event] | None = None
    ) -> T:
        """Return or raise what the work does, the same for every caller. The work is cancelled when its last caller is.

        Args:
            key: Identifies the work; concurrent callers with equal keys share one run.
            work: Started by the first caller. It is passed a function that sends an event to all listeners.
            listener: Receives the events that are sent from now on.
        """
        shared = self._running.get(key) or self._start(key, work)
        task = shared.task
        # The last caller to be woken waits until all others have been. So each caller awaits a bare future and holds
        # no object that would have to be freed in between.
        del work
        caller = asyncio.get_running_loop().create_future()
        shared.callers.add(caller)
        if listener is not None:
            shared.listeners.append(listener)
        try:
            return await caller
        finally:
            shared.callers.discard(caller)
            if not task.done():
                if listener is not None:
                    shared.listeners.remove(listener)
                if not shared.callers:
                    # Remove the key first, so that no new caller joins a task that is being cancelled.
                    self._running.pop(key, None)
                    await cancel_and_wait([task])

    def run_in_background(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Start work that no caller waits for, unless that key already runs in the background; its errors are dropped."""
        if key not in self._background:
            task = asyncio.create_task(work())
            self._background[key] = task
            task.add_done_callback(lambda done: self._forget_background(key, done))

    def _start(self, key: str, work: Callable[[Notify[Event]], Coroutine[Any, Any, T]]) -> _SharedTask[T, Event]:
        listeners: list[Notify[Event]] = []

        def notify(event: Event) -> None:
            for listener in listeners:
                listener(event)

        shared = _SharedTask(asyncio.create_task(work(notify)), listeners)
        self._running[key] = shared
        shared.task.add_done_callback(lambda done: self._finish(key, shared, done))
        return shared

    def _finish(self, key: str, shared: _SharedTask[T, Event], done: asyncio.Task[T]) -> None:
        if self._running.get(key) is shared:
            del self._running[key]
        retrieve_exception(done)
        shared.resolve_callers()

    def _forget_background(self, key: str, done: asyncio.Task[T]) -> None:
        del self._background[key]
        retrieve_exception(done)
