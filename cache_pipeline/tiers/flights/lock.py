"""The lock of a flight in Redis: a token with a lease, extended by a live holder, given back with a notice to the waiters.

It carries no fencing number: Redis can be flushed, and a number that can begin anew fences nothing. Who may write is
decided where it is written, by the ledger's.
"""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis

#: Says in every process which flight has landed. Not per flight: one subscription serves all waiters of a process.
CHANNEL = "cache_pipeline:flights"

# A lock that vanished with a flush is put back, where nobody else has taken it.
_EXTEND = """
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.call('PUBLISH', ARGV[2], ARGV[3])
"""


class FlightLock:
    """Takes, extends and gives back; every script touches one key, so that it runs on a cluster too."""

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._redis = redis
        self._lease = round(lease_seconds * 1000)
        self._extend = redis.register_script(_EXTEND)
        self._release = redis.register_script(_RELEASE)

    @staticmethod
    def _key(name: str) -> str:
        return f"cache_pipeline:flight:{name}"

    async def take(self, name: str, token: str) -> bool:
        """Whether the flight was free, and is the token's now."""
        return bool(await self._redis.set(self._key(name), token, nx=True, px=self._lease))

    async def extend(self, name: str, token: str) -> bool:
        """Whether the flight is still the token's, for another lease."""
        return bool(cast("int", await self._extend(keys=[self._key(name)], args=[token, self._lease])))

    async def release(self, name: str, token: str) -> None:
        """Give the flight back, if it is still the token's, and tell all who wait for it."""
        await self._release(keys=[self._key(name)], args=[token, CHANNEL, name])
