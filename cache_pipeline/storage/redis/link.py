"""Redis as something that may be away: what needs it goes on without it, and says so once."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

#: Redis, the network under it, or a time limit.
AWAY = (RedisError, OSError, TimeoutError)
#: After a failure Redis is let alone for so long, so that a crowd does not wait for it one by one.
_REST_SECONDS = 1.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


class RedisLink:
    """One use of Redis.

    Args:
        what: what it is used for, and what happens without it, for the warning.
        clock: seconds that only grow.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._away_until: float | None = None

    async def ask(self, command: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What Redis says, or ``otherwise`` while it is away."""
        if self._away_until is not None and self._clock() < self._away_until:
            return otherwise
        try:
            answer = await command()
        except AWAY as error:
            if self._away_until is None:
                _log.warning(
                    "Redis is away (%s: %s; check CACHE_PIPELINE_REDIS_URL): %s",
                    type(error).__name__,
                    error,
                    self._what,
                )
            self._away_until = self._clock() + _REST_SECONDS
            return otherwise
        if self._away_until is not None:
            self._away_until = None
            _log.warning("Redis is back: no longer %s", self._what)
        return answer
