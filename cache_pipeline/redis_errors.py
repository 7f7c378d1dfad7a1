"""Failures of Redis, for `storage` and `upstream` alike."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from redis.exceptions import RedisError

from cache_pipeline.errors import RedisUnavailable

#: Failures of Redis itself, of the network, or a timeout.
REDIS_ERRORS = (RedisError, OSError, TimeoutError)


@contextmanager
def translated_failures() -> Generator[None]:
    """Raise `RedisUnavailable` in place of the driver's own errors."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise RedisUnavailable(str(error) or type(error).__name__) from error
