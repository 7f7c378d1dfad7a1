"""taskiq's broker on a Redis stream, with messages kept from other workers while theirs is alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError
from taskiq import AckableMessage
from taskiq_redis import RedisStreamBroker

_SOCKET_SECONDS = 10
#: Acknowledged messages stay in a stream until it is cut. What may be cut unread is found again by its row.
_MOST_MESSAGES = 100_000
_MOST_AT_A_TIME = 10


class HeldRedisStream(RedisStreamBroker):
    """A stream whose unacknowledged messages are claimed anew while this process lives."""

    def __init__(self, url: str, name: str, *, at_once: int, visibility_seconds: float) -> None:
        super().__init__(
            url,
            queue_name=name,
            consumer_group_name=name,
            # From the beginning: what was published before the first worker came counts too.
            consumer_id="0",
            maxlen=_MOST_MESSAGES,
            xread_count=min(at_once, _MOST_AT_A_TIME),
            idle_timeout=int(visibility_seconds * 1000),
            socket_timeout=_SOCKET_SECONDS,
        )
        self._visibility_seconds = visibility_seconds
        self._held: set[str] = set()
        self._holding: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Connect, and begin to hold what is delivered."""
        await super().startup()
        if self.is_worker_process:
            self._holding = asyncio.create_task(self._hold())

    async def shutdown(self) -> None:
        """Let go of everything."""
        if self._holding is not None:
            self._holding.cancel()
            with suppress(asyncio.CancelledError):
                await self._holding
        await super().shutdown()

    async def listen(self) -> AsyncGenerator[AckableMessage]:
        """Messages whose worker is gone, then new ones; taskiq's own looks for the former only when there are latter."""
        async with Redis(connection_pool=self.connection_pool) as redis:
            while True:
                given_up = await redis.xautoclaim(
                    self.queue_name,
                    self.consumer_group_name,
                    self.consumer_name,
                    min_idle_time=self.idle_timeout,
                    count=self.count,
                )
                new = await redis.xreadgroup(
                    self.consumer_group_name,
                    self.consumer_name,
                    {self.queue_name: ">"},
                    count=self.count,
                    # Messages that are given up by others wait for it to end.
                    block=self.block,
                )
                entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", given_up[1])
                for _stream, fresh in cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", new or []):
                    entries.extend(fresh)
                for message_id, fields in entries:
                    acknowledge = self._ack_generator(message_id.decode(), self.queue_name)
                    yield AckableMessage(data=fields[b"data"], ack=acknowledge)

    async def ping(self) -> None:
        """Return when the server answers."""
        await Redis(connection_pool=self.connection_pool).ping()

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:  # noqa: A002 - taskiq's name
        acknowledge = super()._ack_generator(id, queue_name)
        self._held.add(id)

        async def acknowledged() -> None:
            self._held.discard(id)
            await acknowledge()

        return acknowledged

    async def _hold(self) -> None:
        redis = Redis(connection_pool=self.connection_pool)
        while True:
            await asyncio.sleep(self._visibility_seconds / 3)
            if held := list(self._held):
                with suppress(RedisError):
                    # Claiming sets the idle time back; just the ids, so that no delivery is counted.
                    await redis.xclaim(
                        self.queue_name, self.consumer_group_name, self.consumer_name, 0, list(held), justid=True
                    )
