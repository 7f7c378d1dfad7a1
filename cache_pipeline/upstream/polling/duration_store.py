"""What was learned of how long jobs take, in Redis, where every process adds to it."""

import json
import logging
from typing import Any, cast

import redis.asyncio

from cache_pipeline.upstream.polling.duration_estimates import DurationEstimates
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import AWAY, unbroken

_log = logging.getLogger(__name__)

_KEPT_SECONDS = 30 * 86_400
_TIMEOUT_SECONDS = 1.0


class DurationStore:
    """The durations of a platform's jobs, by kind. Redis away, nothing is known; two that learn at once may lose one job.

    Args:
        redis: An asyncio client; how its answers are decoded does not matter.
        platform: Name of the vendor, for the keys.
    """

    def __init__(self, redis: redis.asyncio.Redis, platform: str) -> None:
        self._redis = redis
        self._keys = UpstreamKeys(platform)

    async def of(self, kind: str) -> DurationEstimates:
        """What is known of jobs of this kind."""
        try:
            kept = await unbroken(self._redis.get(self._keys.durations(kind)), _TIMEOUT_SECONDS)
        except AWAY:
            _log.debug("durations of jobs are not known: Redis did not answer", exc_info=True)
            return DurationEstimates()
        return _read(kept)

    async def learn(self, kind: str, *, after: float, by: float) -> None:
        """Adds a job that took more than `after` and at most `by` seconds."""
        weights = (await self.of(kind)).seen(after, by).weights
        body = json.dumps({str(number): round(weight, 4) for number, weight in weights.items()})
        try:
            await unbroken(self._redis.set(self._keys.durations(kind), body, ex=_KEPT_SECONDS), _TIMEOUT_SECONDS)
        except AWAY:
            _log.debug("the duration of a job was not kept: Redis did not answer", exc_info=True)


def _read(kept: Any) -> DurationEstimates:
    try:
        body = cast("dict[str, float]", json.loads(kept or "{}"))
        return DurationEstimates({int(number): float(weight) for number, weight in body.items()})
    except (ValueError, TypeError, AttributeError):
        # Whatever stands there is no histogram of ours: learn anew.
        return DurationEstimates()
