"""What many callers may ask for without a key, and what takes every store to find out: made once for all of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cache_pipeline.storage.coalescer import Coalescer

T = TypeVar("T")

_MAX_PER_SECOND = 4


class SharedResults:
    """Results by name. Concurrent callers share one, and when it was made several times within a second, later callers get the last.

    So a monitor that asks now and then gets a new one, and a crowd costs no more than a few a second.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._made: dict[str, deque[float]] = {}
        self._latest: dict[str, Any] = {}

    async def get(self, name: str, coalescer: Coalescer[Any, None], make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return a result that was made within the last second or is made now.

        Args:
            name: Names the result. There are few of them.
            coalescer: Shares the work of concurrent callers.
            make: Makes the result.
        """
        made, now = self._made.setdefault(name, deque(maxlen=_MAX_PER_SECOND)), self._now()
        if len(made) == _MAX_PER_SECOND and now - made[0] < 1.0:
            return self._latest[name]

        async def make_and_keep() -> T:
            result = await make()
            self._latest[name] = result
            made.append(self._now())
            return result

        return await coalescer.run(f"shared {name}", lambda _notify: make_and_keep())
