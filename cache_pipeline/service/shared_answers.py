"""Answers of a vendor that equal questions share: the vendor is asked once, and for a while everybody gets what it said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cache_pipeline.query.lane import Priority
from cache_pipeline.storage.ports.shared_answers import SharedAnswerStore
from cache_pipeline.storage.ports.single_flight import SingleFlight


@dataclass(frozen=True)
class SharedAnswers:
    """Finds answers of a vendor, or asks for them, once for all callers and processes.

    Attributes:
        store: Keeps them.
        single_flight: Lets one caller at a time ask for an answer.
    """

    store: SharedAnswerStore
    single_flight: SingleFlight

    async def find(
        self, name: str, priority: Priority, ask: Callable[[], Awaitable[tuple[bytes, int]]]
    ) -> tuple[bytes, bool]:
        """Return an answer, and whether it was kept.

        Args:
            name: A text without secrets that says what is asked.
            priority: The caller's priority.
            ask: Asks the vendor, and returns its answer and for how many seconds it is kept. What it raises is raised.
        """

        async def is_kept() -> bool:
            return await self.store.get(name) is not None

        while True:
            if (kept := await self.store.get(name)) is not None:
                return kept, True
            async with self.single_flight.acquire(f"shared_answer:{name}", is_kept, priority=priority) as flight:
                if flight is None or (kept := await self.store.get(name)) is not None:
                    continue
                content, seconds = await ask()
                await self.store.put(name, content, seconds)
                return content, False
