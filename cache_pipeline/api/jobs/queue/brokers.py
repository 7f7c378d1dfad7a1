"""The queue port on taskiq's brokers: Redis streams, RabbitMQ and AWS SQS.

Only taskiq's transport is used. Its receiver acknowledges a task that failed, which would lose the job; here the consumer
acknowledges a message once its job is finished.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from taskiq import AsyncBroker, BrokerMessage
from taskiq.utils import maybe_awaitable

from cache_pipeline.api.jobs.queue.port import Delivery, JobQueue
from cache_pipeline.api.jobs.queue.redis_streams import VisibilityRedisStream
from cache_pipeline.errors import QueueUnavailable, SettingsError
from cache_pipeline.settings import Settings

logger = logging.getLogger(__name__)
_QUEUE_NAME = "cache-pipeline-jobs"
_TASK_NAME = "cache_pipeline.job"
_TIMEOUT_SECONDS = 3.0
_RECONNECT_SECONDS = 1.0
#: A message whose worker has not kept it alive for this long goes to another worker.
_VISIBILITY_SECONDS = 60


@dataclass(frozen=True)
class _BrokerKind:
    """One kind of broker.

    Attributes:
        address: Its address for logs and errors, without a password.
        create: Creates a broker that is not connected yet, given how many messages may be unacknowledged.
        check: Returns when a started broker answers.
    """

    address: str
    create: Callable[[int], AsyncBroker]
    check: Callable[[Any], Awaitable[object]]


def _redis(url: str) -> _BrokerKind:
    def create(prefetch: int) -> AsyncBroker:
        return VisibilityRedisStream(url, _QUEUE_NAME, prefetch=prefetch, visibility_seconds=_VISIBILITY_SECONDS)

    return _BrokerKind(_redacted(url), create, VisibilityRedisStream.ping)


def _rabbitmq(url: str) -> _BrokerKind:
    from aio_pika import connect
    from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

    def create(prefetch: int) -> AsyncBroker:
        return AioPikaBroker(
            url,
            qos=prefetch,
            exchange=Exchange(name=_QUEUE_NAME),
            task_queues=[Queue(name=_QUEUE_NAME)],
            dead_letter_queue=Queue(name=f"{_QUEUE_NAME}.dead"),
        )

    async def check(_broker: AioPikaBroker) -> None:
        # The broker's own connection reconnects by itself, and so never reports that it is broken.
        async with await connect(url, timeout=_TIMEOUT_SECONDS):
            return

    return _BrokerKind(_redacted(url), create, check)


def _sqs(url: str) -> _BrokerKind:
    from taskiq_aio_sqs import SQSBroker

    parts = urlsplit(url)
    endpoint = parse_qs(parts.query).get("endpoint", [None])[0]
    region, name = parts.hostname or "", parts.path.strip("/")
    if not region or not name:
        raise SettingsError(
            "CACHE_PIPELINE_JOBS__QUEUE_URL lacks a region or a queue name: write sqs://region/queue-name"
        )

    def create(prefetch: int) -> AsyncBroker:
        return SQSBroker(
            name,
            endpoint_url=endpoint,
            region_name=region,
            max_number_of_messages=min(10, prefetch),
            visibility_timeout=_VISIBILITY_SECONDS,
            # The broker polls once a second whatever the value, and shuts down no sooner than this.
            wait_time_seconds=1,
            enable_heartbeat=True,
        )

    async def check(broker: SQSBroker) -> None:
        await broker._sqs_client.get_queue_url(QueueName=name)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    return _BrokerKind(_redacted(url), create, check)


_KIND_BY_SCHEME: dict[str, Callable[[str], _BrokerKind]] = {
    "redis": _redis,
    "redis+cluster": _redis,
    "redis+sentinel": _redis,
    "rediss": _redis,
    "rediss+cluster": _redis,
    "rediss+sentinel": _redis,
    "unix": _redis,
    "amqp": _rabbitmq,
    "amqps": _rabbitmq,
    "sqs": _sqs,
}


def _redacted(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class TaskiqQueue:
    """The queue port on one kind of broker. It connects when first used, and again after the broker was unavailable."""

    def __init__(self, kind: _BrokerKind, prefetch: int) -> None:
        self._kind = kind
        self._prefetch = prefetch
        self._publisher: AsyncBroker | None = None
        self._starting = asyncio.Lock()
        self._unavailable_until = 0.0

    async def publish(self, job_id: str) -> None:
        """Put a job's id on the queue. Fail at once if the broker has just failed, so that not every caller waits."""
        if time.monotonic() < self._unavailable_until:
            raise self._unavailable("it did not answer a moment ago")
        message = BrokerMessage(task_id=job_id, task_name=_TASK_NAME, message=job_id.encode(), labels={})
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await (await self._started_publisher()).kick(message)
        except Exception as error:
            self._unavailable_until = time.monotonic() + _TIMEOUT_SECONDS
            raise self._unavailable(type(error).__name__) from error

    async def consume(self) -> AsyncGenerator[Delivery]:
        """Yield messages as they arrive."""
        while True:
            try:
                async with self._started_consumer() as broker, aclosing(broker.listen()) as messages:
                    async for message in messages:
                        if isinstance(message, bytes):
                            raise TypeError(f"{self._kind.address} delivers messages that cannot be acknowledged")
                        yield Delivery(message.data, _log_failure(message.ack))
            except Exception as error:  # noqa: BLE001 - retried, whatever error the broker's library raises
                logger.warning("job queue %s: %s; reconnecting", self._kind.address, type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def health(self) -> None:
        """Check that the broker answers."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._kind.check(await self._started_publisher())
        except Exception as error:
            raise self._unavailable(type(error).__name__) from error

    async def close(self) -> None:
        """Close the connection that was opened for publishing."""
        if self._publisher is not None:
            with suppress(Exception):
                await self._publisher.shutdown()
            self._publisher = None

    async def _started_publisher(self) -> AsyncBroker:
        async with self._starting:
            if self._publisher is None:
                broker = self._kind.create(self._prefetch)
                await broker.startup()
                self._publisher = broker
            return self._publisher

    @asynccontextmanager
    async def _started_consumer(self) -> AsyncGenerator[AsyncBroker]:
        broker = self._kind.create(self._prefetch)
        broker.is_worker_process = True
        try:
            await broker.startup()
            yield broker
        finally:
            with suppress(Exception):
                await broker.shutdown()

    def _unavailable(self, reason: str) -> QueueUnavailable:
        return QueueUnavailable(
            f"the job queue at {self._kind.address} cannot be used ({reason}): check CACHE_PIPELINE_JOBS__QUEUE_URL and "
            "that the broker is up"
        )


def _log_failure(ack: Callable[[], Awaitable[None] | None]) -> Callable[[], Awaitable[None]]:
    """Wrap `ack` so that a failure is only logged."""

    async def acknowledge() -> None:
        try:
            await maybe_awaitable(ack())
        except Exception as error:  # noqa: BLE001 - the message is delivered again, and its job is found to be finished
            logger.info("a message could not be acknowledged: %s", type(error).__name__)

    return acknowledge


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncGenerator[JobQueue]:
    """Open the queue that the settings name.

    Raises:
        SettingsError: No URL is set, or the broker is unknown or not installed.
    """
    configured = settings.jobs.queue_url
    url = configured.get_secret_value() if configured else settings.required_redis_url()
    scheme = urlsplit(url).scheme
    if scheme not in _KIND_BY_SCHEME:
        raise SettingsError(
            f"CACHE_PIPELINE_JOBS__QUEUE_URL: unknown scheme {scheme!r}; expected one of {', '.join(_KIND_BY_SCHEME)}"
        )
    try:
        queue = TaskiqQueue(_KIND_BY_SCHEME[scheme](url), settings.jobs.concurrency)
    except ModuleNotFoundError as error:
        extra = "sqs" if scheme == "sqs" else "rabbitmq"
        raise SettingsError(
            f"CACHE_PIPELINE_JOBS__QUEUE_URL: {scheme} needs {error.name}: install cache-pipeline[{extra}]"
        ) from error
    try:
        yield queue
    finally:
        await queue.close()
