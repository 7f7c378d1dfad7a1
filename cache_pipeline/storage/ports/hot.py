"""The hot tier: finished answers, for a few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cache_pipeline.query.series import CanonicalQuery
from cache_pipeline.storage.answer import Answer


@dataclass(frozen=True)
class HotEntry:
    """A stored answer.

    Attributes:
        answer: The answer as it is sent out.
        is_refresh_due: Whether this reader should have it recomputed, so that it never expires under load.
    """

    answer: Answer
    is_refresh_due: bool = False


#: Larger answers are not kept hot: history renders each of them again, rather than that a few of them fill the store's memory.
MAX_HOT_BYTES = 1_000_000


class HotTier(Protocol):
    """Finished answers of at most a megabyte, for a few seconds.

    While its store is unavailable it holds nothing, and history answers.
    """

    async def get(self, query: CanonicalQuery) -> Answer | None:
        """Return a query's answer, or None if none is stored."""
        ...

    async def get_entry(self, key: str) -> HotEntry | None:
        """Return the answer with a key and whether to refresh it, or None if none is stored."""
        ...

    async def put(self, answers: Iterable[tuple[CanonicalQuery, Answer]], as_of: datetime, cost: float = 0.0) -> None:
        """Store answers for less than five seconds each (G8, G21) and not beyond their freshness (G11).

        Args:
            answers: Pairs of a query and its answer.
            as_of: The time from which the age of their rows is counted.
            cost: Seconds that computing one of them takes.
        """
        ...

    async def put_for(self, key: str, answer: Answer, life: timedelta, cost: float = 0.0) -> None:
        """Store an answer of any size for a time of its own.

        Args:
            key: Its key.
            answer: The answer.
            life: The longest time.
            cost: Seconds that computing it takes.
        """
        ...
