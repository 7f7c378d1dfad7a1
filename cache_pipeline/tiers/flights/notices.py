"""Who waits for which flight, woken by one subscription for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

from redis.asyncio import Redis

from cache_pipeline.tiers.flights.lock import CHANNEL
from cache_pipeline.tiers.redis_link import AWAY

_QUIET_SECONDS = 30.0
_AGAIN_SECONDS = 1.0


class Notices:
    """Wakes waiters when their flight has landed, here or in another process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    @contextmanager
    def expecting(self, name: str) -> Generator[asyncio.Event]:
        """An event that is set by the next landing; to be had before one looks whether there is anything to wait for."""
        event = asyncio.Event()
        self._waiting.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[name]
            waiting.discard(event)
            if not waiting:
                del self._waiting[name]

    def tell(self, name: str) -> None:
        """Wake those who wait for a flight in this process."""
        for event in self._waiting.get(name, ()):
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
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

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
            name = message["data"]
            self.tell(name.decode() if isinstance(name, bytes) else str(name))
        elif message["type"] == "subscribe":
            self._subscribed.set()
            # What landed while nobody listened was not heard.
            for name in list(self._waiting):
                self.tell(name)
