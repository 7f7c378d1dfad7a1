"""Single flight across processes: at most one caller fetches a name, or an interval of it, while the others wait.

A caller locks the name in Redis under a lease that it extends while it works. When it releases the lock, it publishes the
fact on one channel, which wakes the waiters of every process. Waiters also look again every few seconds (G20), so that a
lost message only delays them. Locks of one name exclude each other only where their intervals overlap.

`RedisSingleFlight` is the interface; `SingleFlightLock` holds the Redis scripts and `ReleaseNotifier` the subscription.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Self, cast
from uuid import uuid4

from redis.asyncio import Redis

from cache_pipeline.aio import cancel_and_wait, wait_for_event
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import INTERACTIVE, Lane, Priority
from cache_pipeline.redis_connection import subscription_to
from cache_pipeline.redis_errors import REDIS_ERRORS
from cache_pipeline.storage.ports.single_flight import Flight, OnWait
from cache_pipeline.storage.redis.link import RedisLink

#: Lease of a lock. The lock of a dead holder lapses after this long; a live holder extends it.
LEASE_SECONDS = 15.0
#: Waiters look again at least this often (G20), whether they were notified or not.
LOOK_SECONDS = 3.0
#: One channel announces every released lock, so that one subscription serves all waiters of a process.
CHANNEL = "cache_pipeline:single_flight:released"

_SUBSCRIPTION_POLL_SECONDS = 30.0
_RESUBSCRIBE_SECONDS = 1.0
#: The largest integer that is exact in the doubles of Redis scripts.
_MAX_EXACT = 2**53 - 1
_NO_CALLERS = "-"

# KEYS: the locks of one name, a hash by token. ARGV: token, start, end, lease in milliseconds, rank of the lane, ids of the callers
# with a comma behind each, or '-' for none. Extending is acquiring once more: a lock that was lost in a flush is restored, unless
# another caller has acquired it. A caller that has to wait adds its priority to that of the locks that it waits for.
_ACQUIRE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local locks = redis.call('HGETALL', KEYS[1])
local rank, callers, is_free = tonumber(ARGV[5]), ARGV[6], 1
local function join(one, other)
    if one == '-' then return other end
    for caller in string.gmatch(other, '[^,]+,') do
        if not string.find(',' .. one, ',' .. caller, 1, true) then one = one .. caller end
    end
    return one
end
for at = 1, #locks, 2 do
    local from, to, lapses, held, holders = string.match(locks[at + 1], '^(%S+) (%S+) (%S+) (%S+) ?(%S*)$')
    holders = holders ~= '' and holders or '-'
    if locks[at] == ARGV[1] then
        rank, callers = math.min(rank, tonumber(held)), join(holders, callers)
    elseif tonumber(lapses) <= now then
        redis.call('HDEL', KEYS[1], locks[at])
    elseif tonumber(from) < tonumber(ARGV[3]) and tonumber(ARGV[2]) < tonumber(to) then
        is_free = 0
        local joined = {from, to, lapses, math.min(rank, tonumber(held)), join(holders, callers)}
        redis.call('HSET', KEYS[1], locks[at], table.concat(joined, ' '))
    end
end
if is_free == 0 then return 0 end
local lapses = string.format('%.0f', now + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], ARGV[1], table.concat({ARGV[2], ARGV[3], lapses, rank, callers}, ' '))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
_RELEASE = """
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('PUBLISH', ARGV[2], ARGV[3])
"""


@dataclass(frozen=True)
class FlightKey:
    """What a caller locks: a name, and the interval of it that the caller fetches.

    Keys of one name exclude each other where their intervals overlap. The ends are microseconds since the epoch, half-open;
    by default the key covers the whole name.
    """

    name: str
    start: int = -_MAX_EXACT
    end: int = _MAX_EXACT

    @classmethod
    def of(cls, name: str, interval: Interval | None) -> FlightKey:
        """Return the key of an interval of a name or, without an interval, of the whole name."""
        if interval is None:
            return cls(name)
        return cls(name, _microseconds(interval.start), _microseconds(interval.end))

    def overlaps(self, other: FlightKey) -> bool:
        """Return whether both keys would fetch the same."""
        return self.name == other.name and self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start} {self.end} {self.name}"

    @classmethod
    def parse(cls, text: str) -> FlightKey:
        """Parse what `str` returns."""
        start, end, name = text.split(" ", 2)
        return cls(name, int(start), int(end))


def _microseconds(instant: datetime) -> int:
    # Whole microseconds are exact in a double until the year 2255, and no bucket is later.
    return round(instant.timestamp() * 1_000_000)


def _ignore_wait(seconds: float, *, is_whole: bool) -> None:
    del seconds, is_whole


@dataclass
class _HeldLock:
    """A lock that this process holds, and the priority with which the callers of this process want it."""

    key: FlightKey
    priority: Priority


class RedisSingleFlight:
    """Lets one caller at a time fetch a name or an interval of it, over all processes.

    Use it as an async context manager, because it subscribes to the releases of other processes. While Redis is unavailable
    it works within this process only, and logs that once; the ledger still keeps other processes from sending the same
    upstream query.

    Args:
        redis: The Redis that all processes share.
        lease_seconds: How long a dead holder keeps its lock.
        look_seconds: The longest time that a waiter waits before it looks again.

    Attributes:
        on_wait: Called after every wait for another caller: with its seconds, and whether the whole name was waited for.
    """

    def __init__(
        self, redis: Redis, *, lease_seconds: float = LEASE_SECONDS, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._lock = SingleFlightLock(redis, lease_seconds)
        self._notifier = ReleaseNotifier(redis)
        self._link = RedisLink("each query is fetched once per process instead of once in all")
        self._lease_seconds, self._look_seconds = lease_seconds, look_seconds
        self._held: dict[str, dict[str, _HeldLock]] = {}
        self.on_wait: OnWait = _ignore_wait

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._notifier.stop()

    @asynccontextmanager
    async def acquire(
        self,
        name: str,
        is_done: Callable[[], Awaitable[bool]],
        interval: Interval | None = None,
        *,
        priority: Priority = INTERACTIVE,
    ) -> AsyncGenerator[Flight | None]:
        """Acquire the lock of a name, or wait until another caller has done the work; see the port for the arguments."""
        key, token = FlightKey.of(name, interval), uuid4().hex
        started, has_waited = time.monotonic(), False
        is_acquired = await self._acquire_or_wait(key, token, priority)
        while not is_acquired:
            has_waited = True
            if await is_done():
                break
            is_acquired = await self._acquire_or_wait(key, token, priority)
        if has_waited:
            self.on_wait(time.monotonic() - started, is_whole=interval is None)
        if not is_acquired:
            yield None
            return
        held = self._held[name][token]
        extending = asyncio.create_task(self._extend(held, token))
        try:
            yield Flight(lambda: self._priority_of(held, token))
        finally:
            await cancel_and_wait([extending])
            await self._release(key, token)

    async def wait_for_release(self, name: str, interval: Interval | None = None) -> None:
        """Wait until a lock of any part of it is released, but at most `look_seconds`."""
        with self._notifier.subscribe(FlightKey.of(name, interval)) as released:
            await self._notifier.start(self._look_seconds)
            await wait_for_event(released, self._look_seconds)

    async def _acquire_or_wait(self, key: FlightKey, token: str, priority: Priority) -> bool:
        """Return True if the lock is ours; False once it has been released or it is time to look again."""
        with self._notifier.subscribe(key) as released:
            if await self._try_acquire(key, token, priority):
                return True
            # Only announced releases can wake us, and one before the subscription began was not received.
            if (
                not self._locks_over(key)
                and await self._notifier.start(self._look_seconds)
                and await self._try_acquire(key, token, priority)
            ):
                return True
            await wait_for_event(released, self._look_seconds)
            return False

    def _locks_over(self, key: FlightKey) -> list[_HeldLock]:
        """Return the locks of this process that overlap a key."""
        return [held for held in self._held.get(key.name, {}).values() if key.overlaps(held.key)]

    async def _priority_of(self, held: _HeldLock, token: str) -> Priority:
        shared = await self._link.execute(lambda: self._lock.read_priority(held.key, token), fallback=None)
        return held.priority if shared is None else held.priority | shared

    async def _try_acquire(self, key: FlightKey, token: str, priority: Priority) -> bool:
        if locks := self._locks_over(key):
            for held in locks:
                held.priority |= priority
            return False
        try:
            is_acquired = await self._link.execute(lambda: self._lock.acquire(key, token, priority), fallback=True)
        except asyncio.CancelledError:
            await self._release(key, token)
            raise
        if not is_acquired:
            return False
        if self._locks_over(key):
            # While Redis is unavailable every caller is let through here; the first one to register holds the lock.
            await self._link.execute(lambda: self._lock.release(key, token), fallback=None)
            return False
        self._held.setdefault(key.name, {})[token] = _HeldLock(key, priority)
        return True

    async def _release(self, key: FlightKey, token: str) -> None:
        held = self._held.get(key.name, {})
        held.pop(token, None)
        if not held:
            self._held.pop(key.name, None)
        self._notifier.notify(key)
        # If Redis cannot be reached now, the lock lapses with its lease.
        await self._link.execute(lambda: self._lock.release(key, token), fallback=None)

    async def _extend(self, held: _HeldLock, token: str) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self._link.execute(lambda: self._lock.acquire(held.key, token, held.priority), fallback=False)


class SingleFlightLock:
    """The lock in Redis. Every script touches one key, so that it also runs on a cluster."""

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._redis = redis
        self._lease_milliseconds = round(lease_seconds * 1000)
        self._acquire_script = redis.register_script(_ACQUIRE)
        self._release_script = redis.register_script(_RELEASE)

    @staticmethod
    def _redis_key(key: FlightKey) -> str:
        return f"cache_pipeline:single_flight:{key.name}"

    async def acquire(self, key: FlightKey, token: str, priority: Priority) -> bool:
        """Lock a key for a lease from now, or extend the token's lock; return False if another token holds any of it."""
        callers = "".join(f"{caller}," for caller in sorted(priority.callers)) or _NO_CALLERS
        args = [token, key.start, key.end, self._lease_milliseconds, priority.lane.rank, callers]
        return bool(cast("int", await self._acquire_script(keys=[self._redis_key(key)], args=args)))

    async def read_priority(self, key: FlightKey, token: str) -> Priority | None:
        """Return the priority of a token's lock, to which waiters may have raised it; None if the lock is lost."""
        value = await self._redis.hget(self._redis_key(key), token)
        if value is None:
            return None
        text = value.decode() if isinstance(value, bytes) else value
        # The lock of an earlier version has no callers.
        rank, callers = [*text.split()[3:], _NO_CALLERS][:2]
        named = [] if callers == _NO_CALLERS else callers.rstrip(",").split(",")
        return Priority(list(Lane)[int(rank)], frozenset(named))

    async def release(self, key: FlightKey, token: str) -> None:
        """Release a key, and announce that to all processes."""
        await self._release_script(keys=[self._redis_key(key)], args=[token, CHANNEL, str(key)])


class ReleaseNotifier:
    """Wakes waiters when a lock is released, in this process or in another."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, dict[asyncio.Event, FlightKey]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._is_subscribed = asyncio.Event()

    @contextmanager
    def subscribe(self, key: FlightKey) -> Generator[asyncio.Event]:
        """Yield an event that the next release sets. Subscribe before checking whether there is anything to wait for."""
        event = asyncio.Event()
        self._waiting.setdefault(key.name, {})[event] = key
        try:
            yield event
        finally:
            waiting = self._waiting[key.name]
            del waiting[event]
            if not waiting:
                del self._waiting[key.name]

    def notify(self, released: FlightKey) -> None:
        """Wake the waiters of this process whose keys overlap a released one."""
        for event, key in self._waiting.get(released.name, {}).items():
            if key.overlaps(released):
                event.set()

    async def start(self, seconds: float) -> bool:
        """Start receiving the releases of other processes, unless that has started.

        Returns:
            True if this call started it, so that a release just before may have been missed.
        """
        if self._is_subscribed.is_set():
            return False
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_subscribed.wait()
                return True
        return False

    async def stop(self) -> None:
        """Stop receiving."""
        if self._listening is not None:
            await cancel_and_wait([self._listening])

    async def _listen(self) -> None:
        while True:
            try:
                async with subscription_to(self._redis, CHANNEL) as subscription:
                    while True:
                        self._handle(await subscription.get_message(timeout=_SUBSCRIPTION_POLL_SECONDS))
            except REDIS_ERRORS:
                # Meanwhile the waiters look by themselves, less often.
                self._is_subscribed.clear()
                await asyncio.sleep(_RESUBSCRIBE_SECONDS)

    def _handle(self, message: Mapping[str, object] | None) -> None:
        if message is None:
            return
        if message["type"] == "message":
            data = message["data"]
            self.notify(FlightKey.parse(data.decode() if isinstance(data, bytes) else str(data)))
        elif message["type"] == "subscribe":
            self._is_subscribed.set()
            # Releases before this moment were not received, so wake every waiter to look for itself.
            for name in self._waiting:
                self.notify(FlightKey(name))
