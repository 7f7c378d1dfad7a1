"""The locks of flights in Redis: a token with a lease, extended by a live holder, given back with a notice to the waiters.

They carry no fencing number: Redis can be flushed, and a number that can begin anew fences nothing. Who may write is
decided where it is written, by the ledger's.
"""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis

from cache_pipeline.tiers.flights.flight import Flight

#: Says in every process which flight has landed. Not per flight: one subscription serves all waiters of a process.
CHANNEL = "cache_pipeline:flights"

# KEYS: the flights of one name, by token. ARGV: token, start, end, lease in milliseconds.
# To extend is to take once more: a lock that vanished with a flush is put back, where nobody else has taken it.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local flights = redis.call('HGETALL', KEYS[1])
for at = 1, #flights, 2 do
    if flights[at] ~= ARGV[1] then
        local from, to, lapses = string.match(flights[at + 1], '^(%S+) (%S+) (%S+)$')
        if tonumber(lapses) <= now then
            redis.call('HDEL', KEYS[1], flights[at])
        elseif tonumber(from) < tonumber(ARGV[3]) and tonumber(ARGV[2]) < tonumber(to) then
            return 0
        end
    end
end
local lapses = string.format('%.0f', now + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. lapses)
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
_RELEASE = """
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('PUBLISH', ARGV[2], ARGV[3])
"""


class FlightLock:
    """Takes, extends and gives back; every script touches one key, so that it runs on a cluster too."""

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._lease = round(lease_seconds * 1000)
        self._take = redis.register_script(_TAKE)
        self._release = redis.register_script(_RELEASE)

    @staticmethod
    def _key(flight: Flight) -> str:
        return f"cache_pipeline:flight:{flight.name}"

    async def take(self, flight: Flight, token: str) -> bool:
        """Whether nobody else holds any of the flight, which is the token's then, for a lease from now."""
        args = [token, flight.start, flight.end, self._lease]
        return bool(cast("int", await self._take(keys=[self._key(flight)], args=args)))

    async def release(self, flight: Flight, token: str) -> None:
        """Give the flight back, and tell all who wait for any of it."""
        await self._release(keys=[self._key(flight)], args=[token, CHANNEL, str(flight)])
