"""Optional Redis: a feature that needs it continues without it, and logs that once per outage."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cache_pipeline.aio import finish
from cache_pipeline.redis_errors import REDIS_ERRORS

#: After a failure Redis is not called for this long, so that many callers do not wait for it one by one.
_PAUSE_SECONDS = 1.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


class RedisLink:
    """One feature's use of Redis.

    Args:
        consequence: What happens without Redis, for the warning.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, consequence: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._consequence = consequence
        self._clock = clock
        self._paused_until: float | None = None

    async def execute(self, command: Callable[[], Awaitable[T]], fallback: T) -> T:
        """Return the command's result, or `fallback` while Redis is unavailable."""
        if self._paused_until is not None and self._clock() < self._paused_until:
            return fallback
        try:
            # A cancellation inside redis-py may be swallowed, or break a connection that others share.
            result = await finish(command())
        except REDIS_ERRORS as error:
            if self._paused_until is None:
                logger.warning(
                    "Redis is unavailable (%s: %s), so %s; check CACHE_PIPELINE_REDIS_URL",
                    type(error).__name__,
                    error,
                    self._consequence,
                )
            self._paused_until = self._clock() + _PAUSE_SECONDS
            return fallback
        if self._paused_until is not None:
            self._paused_until = None
            logger.warning("Redis is available again (until now, %s)", self._consequence)
        return result
