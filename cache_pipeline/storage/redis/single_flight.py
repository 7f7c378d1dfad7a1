"""What a flight is of: a name, and of a thing that lies in time the part that is fetched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self, cast
from uuid import uuid4

from redis.asyncio import Redis

from cache_pipeline.aio import cancel_and_wait, finish
from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.redis.link import AWAY, RedisLink

#: Whole numbers up to here are exact in the doubles that Redis' scripts reckon with.
_FOREVER = 2**53 - 1


def _micros(instant: datetime) -> int:
    # Whole microseconds: exact until the year 2255, which no bucket lies beyond.
    return round(instant.timestamp() * 1_000_000)


@dataclass(frozen=True)
class FlightKey:
    """Two flights of one name exclude each other where they overlap; ends are microseconds since the epoch, half-open."""

    name: str
    start: int = -_FOREVER
    end: int = _FOREVER

    @classmethod
    def of(cls, name: str, within: Interval | None) -> FlightKey:
        """The flight of a part of what is named, or of all of it."""
        return cls(name) if within is None else cls(name, _micros(within.start), _micros(within.end))

    def overlaps(self, other: FlightKey) -> bool:
        """Whether both would fetch the same."""
        return self.name == other.name and self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start} {self.end} {self.name}"

    @classmethod
    def parse(cls, text: str) -> FlightKey:
        """Read what ``str`` gives."""
        start, end, name = text.split(" ", 2)
        return cls(name, int(start), int(end))


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


class SingleFlightLock:
    """Takes, extends and gives back; every script touches one key, so that it runs on a cluster too."""

    def __init__(self, redis: Redis, lease_seconds: float) -> None:
        self._lease = round(lease_seconds * 1000)
        self._take = redis.register_script(_TAKE)
        self._release = redis.register_script(_RELEASE)

    @staticmethod
    def _key(flight: FlightKey) -> str:
        return f"cache_pipeline:flight:{flight.name}"

    async def take(self, flight: FlightKey, token: str) -> bool:
        """Whether nobody else holds any of the flight, which is the token's then, for a lease from now."""
        args = [token, flight.start, flight.end, self._lease]
        return bool(cast("int", await self._take(keys=[self._key(flight)], args=args)))

    async def release(self, flight: FlightKey, token: str) -> None:
        """Give the flight back, and tell all who wait for any of it."""
        await self._release(keys=[self._key(flight)], args=[token, CHANNEL, str(flight)])


_QUIET_SECONDS = 30.0
_AGAIN_SECONDS = 1.0


class ReleaseNotifier:
    """Wakes waiters when their flight has landed, here or in another process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, dict[asyncio.Event, FlightKey]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @contextmanager
    def expecting(self, flight: FlightKey) -> Generator[asyncio.Event]:
        """An event that is set by the next landing; to be had before one looks whether there is anything to wait for."""
        event = asyncio.Event()
        self._waiting.setdefault(flight.name, {})[event] = flight
        try:
            yield event
        finally:
            waiting = self._waiting[flight.name]
            del waiting[event]
            if not waiting:
                del self._waiting[flight.name]

    def tell(self, landed: FlightKey) -> None:
        """Wake those who wait for any of a flight in this process."""
        for event, flight in self._waiting.get(landed.name, {}).items():
            if flight.overlaps(landed):
                event.set()

    async def begin(self, seconds: float) -> bool:
        """Hear from other processes from now on.

        Returns:
            True where this call began it, so that a landing just before may have been missed.
        """
        if self._subscribed.is_set():
            return False
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._subscribed.wait()
                return True
        return False

    async def end(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            await cancel_and_wait([self._listening])

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(CHANNEL)
                    while True:
                        self._hear(await subscription.get_message(timeout=_QUIET_SECONDS))
            except AWAY:
                # The waiters look by themselves meanwhile, less often.
                self._subscribed.clear()
                await asyncio.sleep(_AGAIN_SECONDS)

    def _hear(self, message: Mapping[str, object] | None) -> None:
        if message is None:
            return
        if message["type"] == "message":
            said = message["data"]
            self.tell(FlightKey.parse(said.decode() if isinstance(said, bytes) else str(said)))
        elif message["type"] == "subscribe":
            self._subscribed.set()
            # What landed while nobody listened was not heard.
            for name in self._waiting:
                self.tell(FlightKey(name))


#: A holder that dies frees the others after this long; a live one extends it.
LEASE_SECONDS = 15.0
#: Waiters look again at least this often (G20), whatever they were told.
LOOK_SECONDS = 3.0


class OnWait(Protocol):
    """Hears of waits."""

    def __call__(self, seconds: float, *, whole: bool) -> None:
        """Hear of one."""
        ...


def _unheard(seconds: float, *, whole: bool) -> None:
    del seconds, whole


class SingleFlight:
    """Flights by name, and within a name by interval. To be opened and closed, for it listens for landings elsewhere.

    With Redis away a flight is single within this process only, which is said once; the ledger still keeps other
    processes from asking the same.

    Args:
        redis: shared by all processes.
        lease_seconds: how long a dead holder keeps a flight.
        look_seconds: the longest wait between two looks.

    Attributes:
        on_wait: hears of every wait for somebody else's flight: seconds, and whether it was of all that is named.
    """

    def __init__(
        self, redis: Redis, *, lease_seconds: float = LEASE_SECONDS, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._lock = SingleFlightLock(redis, lease_seconds)
        self._notices = ReleaseNotifier(redis)
        self._link = RedisLink("flights are single within each process only")
        self._lease, self._look = lease_seconds, look_seconds
        self._held: dict[str, dict[str, FlightKey]] = {}
        self.on_wait: OnWait = _unheard

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._notices.end()

    @asynccontextmanager
    async def hold(
        self, name: str, landed: Callable[[], Awaitable[bool]], within: Interval | None = None
    ) -> AsyncGenerator[bool]:
        """Hold a flight, or find that somebody else's has landed.

        Args:
            name: what is fetched; a short text without secrets.
            landed: looks whether the thing is there now; asked after each landing, and every three seconds at least.
            within: the part of it that is fetched; without it all, which excludes every part.

        Yields:
            True when this caller holds the flight, and should look once more before it fetches; False when ``landed``
            said that there is nothing left to wait for.
        """
        flight, token = FlightKey.of(name, within), uuid4().hex
        began, waited = time.monotonic(), False
        mine = await self._taken_or_waited(flight, token)
        while not mine:
            waited = True
            if await landed():
                break
            mine = await self._taken_or_waited(flight, token)
        if waited:
            self.on_wait(time.monotonic() - began, whole=within is None)
        if not mine:
            yield False
            return
        extending = asyncio.create_task(self._keep(flight, token))
        try:
            yield True
        finally:
            await cancel_and_wait([extending])
            await self._free(flight, token)

    async def next_look(self, name: str, within: Interval | None = None) -> None:
        """Wait until a flight of any of it lands, or three seconds have passed."""
        with self._notices.expecting(FlightKey.of(name, within)) as landing:
            await self._notices.begin(self._look)
            await self._wait(landing)

    async def _taken_or_waited(self, flight: FlightKey, token: str) -> bool:
        """Whether the flight is ours; if not, it has landed since, or it is time to look."""
        with self._notices.expecting(flight) as landing:
            if await self._take(flight, token):
                return True
            # Only what is heard of can wake us, and what landed before the listening began was not.
            if (
                not self._holds_any(flight)
                and await self._notices.begin(self._look)
                and await self._take(flight, token)
            ):
                return True
            await self._wait(landing)
            return False

    async def _wait(self, landing: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._look):
                await landing.wait()

    def _holds_any(self, flight: FlightKey) -> bool:
        """Whether this process holds some of a flight."""
        return any(flight.overlaps(held) for held in self._held.get(flight.name, {}).values())

    async def _take(self, flight: FlightKey, token: str) -> bool:
        if self._holds_any(flight):
            return False
        try:
            taken = await finish(self._link.ask(lambda: self._lock.take(flight, token), otherwise=True))
        except asyncio.CancelledError:
            await self._free(flight, token)
            raise
        if not taken:
            return False
        if self._holds_any(flight):
            # With Redis away all who asked are told yes, and the first of them has it.
            await finish(self._link.ask(lambda: self._lock.release(flight, token), otherwise=None))
            return False
        self._held.setdefault(flight.name, {})[token] = flight
        return True

    async def _free(self, flight: FlightKey, token: str) -> None:
        held = self._held.get(flight.name, {})
        held.pop(token, None)
        if not held:
            self._held.pop(flight.name, None)
        self._notices.tell(flight)
        # What is not given back ends with its lease.
        await finish(self._link.ask(lambda: self._lock.release(flight, token), otherwise=None))

    async def _keep(self, flight: FlightKey, token: str) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            # To its end: one that arrived after the flight was given back would hold it for a lease, for nobody.
            await finish(self._link.ask(lambda: self._lock.take(flight, token), otherwise=False))
