"""taskiq's broker on a Redis stream, extended so that a live worker keeps its unacknowledged messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import cast

from redis.asyncio import RedisCluster
from redis.exceptions import RedisError, ResponseError
from taskiq import AckableMessage
from taskiq_redis import RedisStreamClusterBroker

from cache_pipeline.redis_connection import check_writable, open_redis

_SOCKET_SECONDS = 10
_READ_MILLISECONDS = 2000
#: Acknowledged messages stay in a stream until it is trimmed. If an unread message is trimmed, the job is found by its row.
_MAX_STREAM_LENGTH = 100_000
_MAX_READ_COUNT = 10


class VisibilityRedisStream(RedisStreamClusterBroker):
    """A stream whose unacknowledged messages are claimed again at regular intervals while this process lives.

    A stream is one key, so that it works the same on a single server and on a cluster.
    """

    def __init__(self, url: str, name: str, *, prefetch: int, visibility_seconds: float) -> None:
        # The broker creates a client of this address, which opens no connection. Ours also follows a failover.
        super().__init__(
            "redis://127.0.0.1",
            queue_name=name,
            consumer_group_name=name,
            # Read from the beginning, so that messages published before the first worker started are delivered too.
            consumer_id="0",
            maxlen=_MAX_STREAM_LENGTH,
            xread_block=_READ_MILLISECONDS,
        )
        self._client = open_redis(url, timeout_seconds=_SOCKET_SECONDS)
        self.redis = cast("RedisCluster", self._client)
        self._count = min(prefetch, _MAX_READ_COUNT)
        self._visibility_seconds = visibility_seconds
        self._unacknowledged: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Connect, and start to renew the claims on delivered messages."""
        await super().startup()
        if self.is_worker_process:
            self._renewing = asyncio.create_task(self._renew_claims())

    async def shutdown(self) -> None:
        """Stop renewing claims, and disconnect."""
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing
        await super().shutdown()

    async def listen(self) -> AsyncGenerator[AckableMessage]:
        """Yield messages whose worker is gone, then new ones.

        taskiq's own method does not look for abandoned messages.
        """
        while True:
            abandoned = await self._client.xautoclaim(
                self.queue_name,
                self.consumer_group_name,
                self.consumer_name,
                min_idle_time=int(self._visibility_seconds * 1000),
                count=self._count,
            )
            new = await self._client.xreadgroup(
                self.consumer_group_name,
                self.consumer_name,
                {self.queue_name: ">"},
                count=self._count,
                # Abandoned messages wait until this read ends.
                block=self.block,
            )
            entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", abandoned[1])
            for _stream, new_entries in cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", new or []):
                entries.extend(new_entries)
            for message_id, fields in entries:
                acknowledge = self._ack_generator(message_id.decode(), self.queue_name)
                yield AckableMessage(data=fields[b"data"], ack=acknowledge)

    async def ping(self) -> None:
        """Check that the server accepts writes."""
        await check_writable(self._client)

    async def _declare_consumer_group(self) -> None:
        # The broker's own method closes a single server's connections afterwards.
        try:
            await self._client.xgroup_create(
                self.queue_name, self.consumer_group_name, id=self.consumer_id, mkstream=True
            )
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:  # noqa: A002 - taskiq's name
        ack = super()._ack_generator(id, queue_name)
        self._unacknowledged.add(id)

        async def acknowledge() -> None:
            self._unacknowledged.discard(id)
            await ack()

        return acknowledge

    async def _renew_claims(self) -> None:
        while True:
            await asyncio.sleep(self._visibility_seconds / 3)
            if message_ids := list(self._unacknowledged):
                with suppress(RedisError):
                    # Claiming resets the idle time. With `justid` it does not count as a delivery.
                    await self._client.xclaim(
                        self.queue_name, self.consumer_group_name, self.consumer_name, 0, list(message_ids), justid=True
                    )
