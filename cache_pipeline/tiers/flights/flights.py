"""One flight for each thing over all processes and machines: who holds it fetches, the others wait and look again (G20)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, Self
from uuid import uuid4

from redis.asyncio import Redis

from cache_pipeline.aio import ended, to_the_end
from cache_pipeline.query.interval import Interval
from cache_pipeline.tiers.flights.flight import Flight
from cache_pipeline.tiers.flights.lock import FlightLock
from cache_pipeline.tiers.flights.notices import Notices
from cache_pipeline.tiers.redis_link import RedisLink

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


class Flights:
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
        self._lock = FlightLock(redis, lease_seconds)
        self._notices = Notices(redis)
        self._link = RedisLink("flights are single within each process only")
        self._lease, self._look = lease_seconds, look_seconds
        self._held: dict[str, dict[str, Flight]] = {}
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
        flight, token = Flight.of(name, within), uuid4().hex
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
            await ended([extending])
            await self._free(flight, token)

    async def next_look(self, name: str, within: Interval | None = None) -> None:
        """Wait until a flight of any of it lands, or three seconds have passed."""
        with self._notices.expecting(Flight.of(name, within)) as landing:
            await self._notices.begin(self._look)
            await self._wait(landing)

    async def _taken_or_waited(self, flight: Flight, token: str) -> bool:
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

    def _holds_any(self, flight: Flight) -> bool:
        """Whether this process holds some of a flight."""
        return any(flight.overlaps(held) for held in self._held.get(flight.name, {}).values())

    async def _take(self, flight: Flight, token: str) -> bool:
        if self._holds_any(flight):
            return False
        try:
            taken = await to_the_end(self._link.ask(lambda: self._lock.take(flight, token), otherwise=True))
        except asyncio.CancelledError:
            await self._free(flight, token)
            raise
        if not taken:
            return False
        if self._holds_any(flight):
            # With Redis away all who asked are told yes, and the first of them has it.
            await to_the_end(self._link.ask(lambda: self._lock.release(flight, token), otherwise=None))
            return False
        self._held.setdefault(flight.name, {})[token] = flight
        return True

    async def _free(self, flight: Flight, token: str) -> None:
        held = self._held.get(flight.name, {})
        held.pop(token, None)
        if not held:
            self._held.pop(flight.name, None)
        self._notices.tell(flight)
        # What is not given back ends with its lease.
        await to_the_end(self._link.ask(lambda: self._lock.release(flight, token), otherwise=None))

    async def _keep(self, flight: Flight, token: str) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            # To its end: one that arrived after the flight was given back would hold it for a lease, for nobody.
            await to_the_end(self._link.ask(lambda: self._lock.take(flight, token), otherwise=False))
