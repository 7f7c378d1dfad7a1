"""Keep the durations of vendor jobs in Redis, where all processes share them."""

import json
import logging
from typing import Any, cast

import redis.asyncio

from cache_pipeline.redis_errors import REDIS_ERRORS
from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import run_command

logger = logging.getLogger(__name__)

_TTL_SECONDS = 30 * 86_400
_TIMEOUT_SECONDS = 1.0


class DurationStore:
    """The durations of an account's jobs, by kind.

    While Redis is unavailable, no durations are known. If two processes record at once, one job may be lost.

    Args:
        redis: An asyncio client; it may decode answers or not.
        account: Vendor and name of the account, for the keys.
    """

    def __init__(self, redis: redis.asyncio.Redis, account: str) -> None:
        self._redis = redis
        self._keys = UpstreamKeys(account)

    async def get(self, kind: str) -> DurationEstimates:
        """Return what is known about jobs of this kind."""
        try:
            stored = await run_command(self._redis.get(self._keys.durations(kind)), _TIMEOUT_SECONDS)
        except REDIS_ERRORS:
            logger.debug("durations of jobs are not known: Redis did not answer", exc_info=True)
            return DurationEstimates()
        return _parse(stored)

    async def record(self, kind: str, *, after: float, by: float) -> None:
        """Add a job that took more than `after` and at most `by` seconds."""
        weights = (await self.get(kind)).with_job(after, by).weights
        body = json.dumps({str(number): round(weight, 4) for number, weight in weights.items()})
        try:
            await run_command(self._redis.set(self._keys.durations(kind), body, ex=_TTL_SECONDS), _TIMEOUT_SECONDS)
        except REDIS_ERRORS:
            logger.debug("the duration of a job was not stored: Redis did not answer", exc_info=True)


def _parse(stored: Any) -> DurationEstimates:
    try:
        body = cast("dict[str, float]", json.loads(stored or "{}"))
        return DurationEstimates({int(number): float(weight) for number, weight in body.items()})
    except (ValueError, TypeError, AttributeError):
        # The stored value is not one of our histograms: start again with an empty one.
        return DurationEstimates()
