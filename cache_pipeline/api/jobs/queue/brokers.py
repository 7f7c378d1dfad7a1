"""The port over taskiq's brokers: Redis streams, RabbitMQ, AWS SQS.

Only what moves messages is used of taskiq. Its receiver acknowledges a task that failed, and that would lose it; here
whoever consumes says when a message is done with.
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
from cache_pipeline.api.jobs.queue.redis_streams import HeldRedisStream
from cache_pipeline.errors import QueueUnavailable, SettingsError
from cache_pipeline.settings import Settings

_NAME = "cache-pipeline-jobs"
_TASK = "cache_pipeline.job"
_PATIENCE_SECONDS = 3.0
#: A message that nobody has said to be alive for so long goes to another worker.
_VISIBILITY_SECONDS = 60
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """One kind of broker.

    Attributes:
        told: what it is, for people: address without a password.
        made: a broker that is not connected yet, given how many messages may be unacknowledged.
        probed: returns when a started one answers.
    """

    told: str
    made: Callable[[int], AsyncBroker]
    probed: Callable[[Any], Awaitable[object]]


def _redis(url: str) -> _Kind:
    def made(at_once: int) -> AsyncBroker:
        return HeldRedisStream(url, _NAME, at_once=at_once, visibility_seconds=_VISIBILITY_SECONDS)

    return _Kind(_told(url), made, HeldRedisStream.ping)


def _rabbitmq(url: str) -> _Kind:
    from aio_pika import connect
    from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

    def made(at_once: int) -> AsyncBroker:
        return AioPikaBroker(
            url,
            qos=at_once,
            exchange=Exchange(name=_NAME),
            task_queues=[Queue(name=_NAME)],
            dead_letter_queue=Queue(name=f"{_NAME}.dead"),
        )

    async def probed(_broker: AioPikaBroker) -> None:
        # The broker's own connection mends itself, and so never says that it is broken.
        async with await connect(url, timeout=_PATIENCE_SECONDS):
            return

    return _Kind(_told(url), made, probed)


def _sqs(url: str) -> _Kind:
    from taskiq_aio_sqs import SQSBroker

    parts = urlsplit(url)
    endpoint = parse_qs(parts.query).get("endpoint", [None])[0]
    region, name = parts.hostname or "", parts.path.strip("/")
    if not region or not name:
        raise SettingsError("CACHE_PIPELINE_JOBS__QUEUE_URL: write sqs://region/queue-name")

    def made(at_once: int) -> AsyncBroker:
        return SQSBroker(
            name,
            endpoint_url=endpoint,
            region_name=region,
            max_number_of_messages=min(10, at_once),
            visibility_timeout=_VISIBILITY_SECONDS,
            # It asks once a second whatever is said here, and ends no sooner than this.
            wait_time_seconds=1,
            enable_heartbeat=True,
        )

    async def probed(broker: SQSBroker) -> None:
        await broker._sqs_client.get_queue_url(QueueName=name)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    return _Kind(_told(url), made, probed)


_KINDS: dict[str, Callable[[str], _Kind]] = {
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
    "amqp": _rabbitmq,
    "amqps": _rabbitmq,
    "sqs": _sqs,
}


def _told(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


class TaskiqQueue:
    """The port over one kind of broker. It connects when it is first used, and again after the broker was away."""

    def __init__(self, kind: _Kind, at_once: int) -> None:
        self._kind = kind
        self._at_once = at_once
        self._publisher: AsyncBroker | None = None
        self._starting = asyncio.Lock()
        self._broken_until = 0.0

    async def publish(self, job_id: str) -> None:
        """Put a job's id on the queue; a broker that just failed is not waited for by everybody."""
        if time.monotonic() < self._broken_until:
            raise self._unavailable("it did not answer a moment ago")
        message = BrokerMessage(task_id=job_id, task_name=_TASK, message=job_id.encode(), labels={})
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await (await self._started_publisher()).kick(message)
        except Exception as error:
            self._broken_until = time.monotonic() + _PATIENCE_SECONDS
            raise self._unavailable(type(error).__name__) from error

    async def consume(self) -> AsyncGenerator[Delivery]:
        """Messages as they come."""
        while True:
            try:
                async with self._started_consumer() as broker, aclosing(broker.listen()) as messages:
                    async for message in messages:
                        if isinstance(message, bytes):
                            raise TypeError(f"{self._kind.told} gives messages that cannot be acknowledged")
                        yield Delivery(message.data, _quiet(message.ack))
            except Exception as error:  # noqa: BLE001 - whatever a broker's library raises, it is asked again
                _LOG.warning("job queue %s: %s; trying again", self._kind.told, type(error).__name__)
            await asyncio.sleep(1)

    async def health(self) -> None:
        """Return when the broker answers."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._kind.probed(await self._started_publisher())
        except Exception as error:
            raise self._unavailable(type(error).__name__) from error

    async def close(self) -> None:
        """Close what was opened for publishing."""
        if self._publisher is not None:
            with suppress(Exception):
                await self._publisher.shutdown()
            self._publisher = None

    async def _started_publisher(self) -> AsyncBroker:
        async with self._starting:
            if self._publisher is None:
                broker = self._kind.made(self._at_once)
                await broker.startup()
                self._publisher = broker
            return self._publisher

    @asynccontextmanager
    async def _started_consumer(self) -> AsyncGenerator[AsyncBroker]:
        broker = self._kind.made(self._at_once)
        broker.is_worker_process = True
        try:
            await broker.startup()
            yield broker
        finally:
            with suppress(Exception):
                await broker.shutdown()

    def _unavailable(self, reason: str) -> QueueUnavailable:
        return QueueUnavailable(
            f"the job queue at {self._kind.told} cannot be used ({reason}): check CACHE_PIPELINE_JOBS__QUEUE_URL and "
            "that the broker is up"
        )


def _quiet(ack: Callable[[], Awaitable[None] | None]) -> Callable[[], Awaitable[None]]:
    async def acknowledged() -> None:
        try:
            await maybe_awaitable(ack())
        except Exception as error:  # noqa: BLE001 - the message comes again, and finds that its job is done
            _LOG.info("a message could not be acknowledged: %s", type(error).__name__)

    return acknowledged


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncGenerator[JobQueue]:
    """The queue of the settings.

    Raises:
        SettingsError: no URL is set, or one of a broker that is not known or not installed.
    """
    given = settings.jobs.queue_url
    url = given.get_secret_value() if given else settings.required_redis_url()
    scheme = urlsplit(url).scheme
    if scheme not in _KINDS:
        raise SettingsError(f"CACHE_PIPELINE_JOBS__QUEUE_URL: {scheme!r} is none of {', '.join(_KINDS)}")
    try:
        queue = TaskiqQueue(_KINDS[scheme](url), settings.jobs.at_once)
    except ModuleNotFoundError as error:
        extra = "sqs" if scheme == "sqs" else "rabbitmq"
        raise SettingsError(
            f"CACHE_PIPELINE_JOBS__QUEUE_URL: {scheme} needs {error.name}: install cache-pipeline[{extra}]"
        ) from error
    try:
        yield queue
    finally:
        await queue.close()
