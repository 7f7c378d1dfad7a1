"""One task for all identical callers of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from cache_pipeline.aio import finish

T = TypeVar("T")
Event = TypeVar("Event")
Tell = Callable[[Event], None]


@dataclass
class _Shared(Generic[T, Event]):
    task: asyncio.Task[T]
    listeners: list[Tell[Event]]
    waiting: set[asyncio.Future[T]] = field(default_factory=set["asyncio.Future[T]"])

    def hand_out(self) -> None:
        """Give every caller what the task gave or raised."""
        for caller in self.waiting:
            if caller.done():
                continue
            if self.task.cancelled():
                caller.cancel()
            elif (error := self.task.exception()) is not None:
                caller.set_exception(error)
            else:
                caller.set_result(self.task.result())


class Coalescer(Generic[T, Event]):
    """Work by key: whoever asks for what is being worked on already waits for that. To be opened and closed."""

    def __init__(self) -> None:
        self._running: dict[str, _Shared[T, Event]] = {}
        self._unasked: dict[str, asyncio.Task[T]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*(shared.task for shared in self._running.values()), *self._unasked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(
        self, key: str, work: Callable[[Tell[Event]], Coroutine[Any, Any, T]], listener: Tell[Event] | None = None
    ) -> T:
        """What the work gives, or raises, to every caller alike. It is cancelled when the last caller is.

        Args:
            key: what tells one work from another.
            work: begun by the first caller; it is given a function that tells news to the listeners of all.
            listener: hears of news from now on.
        """
        shared = self._running.get(key) or self._begun(key, work)
        task = shared.task
        # Of a crowd, whoever is woken last waits for all the others' waking: a bare future for each, and nothing held
        # that would be freed on the way.
        del work
        caller = asyncio.get_running_loop().create_future()
        shared.waiting.add(caller)
        if listener is not None:
            shared.listeners.append(listener)
        try:
            return await caller
        finally:
            shared.waiting.discard(caller)
            if not task.done():
                if listener is not None:
                    shared.listeners.remove(listener)
                if not shared.waiting:
                    # Nobody may join what is being stopped.
                    self._running.pop(key, None)
                    task.cancel()
                    await finish(asyncio.wait({task}))

    def _begun(self, key: str, work: Callable[[Tell[Event]], Coroutine[Any, Any, T]]) -> _Shared[T, Event]:
        listeners: list[Tell[Event]] = []

        def tell(news: Event) -> None:
            for listener in listeners:
                listener(news)

        shared = _Shared(asyncio.create_task(work(tell)), listeners)
        self._running[key] = shared
        shared.task.add_done_callback(lambda done: self._over(key, shared, done))
        return shared

    def begin(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Work that nobody waits for, one at a time for each key; what it raises is lost."""
        if key not in self._unasked:
            task = asyncio.create_task(work())
            self._unasked[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))

    def _over(self, key: str, mine: _Shared[T, Event], done: asyncio.Task[T]) -> None:
        if self._running.get(key) is mine:
            del self._running[key]
        if not done.cancelled():
            done.exception()
        mine.hand_out()

    def _forget(self, key: str, done: asyncio.Task[T]) -> None:
        del self._unasked[key]
        if not done.cancelled():
            done.exception()
