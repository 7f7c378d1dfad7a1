"""The facts that a vendor reports about an account, in Redis, and when they were last read."""

from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio

from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline.upstream.redis_scripts import decode_text

#: How often a vendor is asked.
_READ_EVERY_SECONDS = 86_400
#: How long an answer is kept if the vendor is not asked again.
_KEPT_SECONDS = 30 * 86_400
_RETENTION = "retention_days"


@dataclass(frozen=True)
class FactStore:
    """The facts of one account; its methods raise Redis's errors.

    Attributes:
        redis: An asyncio client; it may decode answers or not.
        keys: The names of the account's keys.
    """

    redis: redis.asyncio.Redis
    keys: UpstreamKeys

    async def claim_reading(self) -> bool:
        """Return whether this process should read the facts now. No other process is given the same answer within a day."""
        return bool(await self.redis.set(self.keys.facts_read, "1", nx=True, ex=_READ_EVERY_SECONDS))

    async def store_retention(self, days: int | None) -> None:
        """Remember the retention, or that the vendor names none."""
        if days is None:
            await self.redis.delete(self.keys.facts)
            return
        await cast("Any", self.redis.hset(self.keys.facts, _RETENTION, str(days)))
        await self.redis.expire(self.keys.facts, _KEPT_SECONDS)

    async def retention_days(self) -> int | None:
        """Return the retention that the vendor named last, if it did."""
        stored = await cast("Any", self.redis.hget(self.keys.facts, _RETENTION))
        return None if stored is None else int(decode_text(stored))
