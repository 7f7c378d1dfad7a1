"""Who waits for which flight, woken by one subscription for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

from redis.asyncio import Redis

from cache_pipeline.aio import ended
from cache_pipeline.tiers.flights.flight import Flight
from cache_pipeline.tiers.flights.lock import CHANNEL
from cache_pipeline.tiers.redis_link import AWAY

_QUIET_SECONDS = 30.0
_AGAIN_SECONDS = 1.0


class Notices:
    """Wakes waiters when their flight has landed, here or in another process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, dict[asyncio.Event, Flight]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @contextmanager
    def expecting(self, flight: Flight) -> Generator[asyncio.Event]:
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

    def tell(self, landed: Flight) -> None:
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
            await ended([self._listening])

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
            self.tell(Flight.parse(said.decode() if isinstance(said, bytes) else str(said)))
        elif message["type"] == "subscribe":
            self._subscribed.set()
            # What landed while nobody listened was not heard.
            for name in self._waiting:
                self.tell(Flight(name))
