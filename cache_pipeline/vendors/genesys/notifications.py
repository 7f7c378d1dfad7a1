"""Notification channels: the vendor reports every change of its queues over a WebSocket, at most once a second for each.

Documented: `POST /api/v2/notifications/channels` with `id`, `connectUri` and `expires`, a day later; `PUT …/channels/{id}/subscriptions`;
1,000 topics and one socket for a channel; the topic of a queue's observations; that nothing is sent again after a gap. Documented too:
`{"message": "ping"}` is answered on the topic `channel.metadata`, and a closing socket is announced. Seen in a captured notification of another
topic: `eventBody` with `group` and `data` of `interval` and `metrics`. The SDK has a flat form as well, which is read too. Assumed: a
notification names all qualifiers of the metrics that it names; one ping a second is allowed.

Whatever is not as documented ends the connection: the figures are then asked for, until another connection is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from cache_pipeline.aio import cancel_and_wait
from cache_pipeline.errors import PushLost, SchemaMismatch
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.http import httpx
from cache_pipeline.vendors.genesys.observations import (
    MAX_PREDICATES,
    QUEUES_PATH,
    SINCE,
    ObservedGroups,
    ask_for_observations,
    read_presences,
)
from cache_pipeline.vendors.genesys.permissions import raise_for_permission
from cache_pipeline.vendors.json_body import (
    read_instant,
    read_mapping,
    read_mappings,
    read_object,
    read_optional_text,
    read_text,
)
from cache_pipeline.vendors.spec import LiveRequest, LiveRow

MAX_TOPICS = 1000
_CHANNELS = "/api/v2/notifications/channels"
_METADATA, _CLOSING = "channel.metadata", "v2.system.socket_closing"
_PING = json.dumps({"message": "ping"})
_FIRST = "queueId"
#: How long one connection is used. The next one reads the ids again, and asks for all figures: a change that was lost is seen then.
_LIFETIME = timedelta(minutes=10)
#: A channel is replaced so long before it expires.
_RENEW_BEFORE = timedelta(minutes=15)
#: Changes that arrive within this time are passed on together.
_GATHER_SECONDS = 0.1
_OPEN_SECONDS, _CLOSE_SECONDS = 10.0, 1.0
_MAX_MESSAGE_BYTES = 1_000_000
#: The metric that counts what another one dates.
_COUNTS = {"oLongestWaiting": "oWaiting", "oLongestInteracting": "oInteracting"}


@dataclass(frozen=True)
class PushTimes:
    """How soon a socket is missed.

    Attributes:
        ping: Seconds between two pings.
        silent: Seconds that a ping waits for its answer before the socket counts as lost.
    """

    ping: float = 1.0
    silent: float = 5.0


@dataclass(frozen=True)
class _Channel:
    id: str
    oauth_client: str
    uri: str
    expires: datetime


@dataclass
class QueueState:
    """The last figures of each queue and medium, and the rows that they make.

    Attributes:
        request: What is shown.
        presences: The system presence of each presence of the organisation, by id.
    """

    request: LiveRequest
    presences: Mapping[str, str]
    _metrics: dict[str, dict[str | None, dict[tuple[str, str | None], Mapping[str, object]]]] = field(
        default_factory=dict[str, dict[str | None, dict[tuple[str, str | None], Mapping[str, object]]]]
    )
    _rows: dict[str, list[LiveRow]] = field(default_factory=dict[str, list[LiveRow]])

    def replace(self, queue: str, medium: str | None, metrics: Sequence[Mapping[str, object]]) -> None:
        """Replace all figures of the metrics that are named."""
        known = self._metrics.setdefault(queue, {}).setdefault(medium, {})
        named = {read_text(metric, "metric") for metric in metrics}
        gone = named | {since for since, count in _COUNTS.items() if count in named}
        for key in [key for key in known if key[0] in gone]:
            del known[key]
        for metric in metrics:
            name = read_text(metric, "metric")
            if name in self.request.report.metrics:
                known[name, read_optional_text(metric, "qualifier")] = metric
        self._rows.pop(queue, None)

    def check(self, queue: str, now: datetime) -> None:
        """Read the figures of one queue.

        Raises:
            SchemaMismatch: A figure is not what its metric has.
        """
        self._rows[queue] = self._make_rows(queue, now)

    def rows(self, observed_at: Mapping[str, datetime]) -> list[LiveRow]:
        """Return the rows of all queues.

        Args:
            observed_at: The moment of which the figures of each queue are.

        Raises:
            SchemaMismatch: A figure is not what its metric has.
        """
        found: list[LiveRow] = []
        for queue in self.request.ids:
            if queue not in self._rows:
                self._rows[queue] = self._make_rows(queue, observed_at[queue])
            found += [LiveRow(row.values, observed_at[queue]) for row in self._rows[queue]]
        return found

    def _make_rows(self, queue: str, now: datetime) -> list[LiveRow]:
        groups = ObservedGroups(self.request.report, _FIRST)
        for medium, metrics in self._metrics.get(queue, {}).items():
            group = {_FIRST: queue, **({"mediaType": medium} if medium else {})}
            groups.add(group, [metric for metric in metrics.values() if _says_something(metric)], now, self.presences)
        return groups.rows([queue], now)


def _says_something(metric: Mapping[str, object]) -> bool:
    return read_text(metric, "metric") in SINCE or read_mapping(metric, "stats").get("count") != 0


def read_notification(
    message: Mapping[str, object], queue: str
) -> Iterator[tuple[str | None, Sequence[Mapping[str, object]]]]:
    """Yield the medium and the metrics of each group in a notification of a queue.

    Raises:
        SchemaMismatch: It has neither of the two known forms.
    """
    body = read_mapping(message, "eventBody")
    if "group" in body:
        group = read_mapping(body, "group")
        if read_text(group, _FIRST) != queue:
            raise SchemaMismatch(f"a notification of queue {queue} is about another one")
        for part in read_mappings(body, "data"):
            yield read_optional_text(group, "mediaType"), read_mappings(part, "metrics")
    elif "results" in body:
        for result in read_mappings(body, "results"):
            metrics = [
                {
                    "metric": read_text(each, "metric"),
                    "stats": {
                        name: each[name] for name in ("count", "calculatedMetricValue") if each.get(name) is not None
                    },
                }
                for each in read_mappings(result, "data")
            ]
            yield read_optional_text(result, "mediaType"), metrics
    else:
        raise SchemaMismatch("a notification has neither group nor results")


@dataclass
class _Socket:
    """One open channel: its queues, and the moment up to which it has reported all their changes."""

    connection: ClientConnection
    queues: Mapping[str, str]
    current_as_of: datetime
    pinged_at: datetime | None = None
    has_answered: bool = False


class QueuePush:
    """Follows the observations of queues. Channels are used again for later connections, because a client may have twenty.

    Args:
        client: Sends the requests, through the shared quota.
        times: How soon a socket is missed.
    """

    def __init__(self, client: httpx.AsyncClient, times: PushTimes = PushTimes()) -> None:
        self._client, self._times = client, times
        self._channels: list[_Channel] = []

    async def follow(self, request: LiveRequest) -> AsyncGenerator[Sequence[LiveRow]]:
        """Yield all rows after each change and each answered ping, from the first answer on, for some minutes.

        Raises:
            PushLost: A socket is closed, silent, or sends what is not documented.
            UpstreamError: A channel could not be made, or the figures could not be asked for.
        """
        async with AsyncExitStack() as stack:
            sockets, topics_end = await self._open(stack, request)
            arrived = asyncio.Event()
            inbox: list[tuple[_Socket, object]] = []
            for socket in sockets:
                await stack.enter_async_context(self._receiving(socket, inbox, arrived))
            # Changes arrive from here on. Those that arrive before the figures are asked for are contained in them.
            state = await self._ask(request, sockets, inbox)
            ends_at = min(request.clock() + _LIFETIME, topics_end)
            last_ping = request.clock()
            await self._ping(sockets, last_ping)
            while (now := request.clock()) < ends_at:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.01, self._times.ping / 4)):
                        await arrived.wait()
                is_new = bool(inbox)
                if is_new:
                    await asyncio.sleep(min(_GATHER_SECONDS, self._times.ping / 10))
                arrived.clear()
                for socket, message in _drain(inbox):
                    _apply(socket, message, state, request.clock())
                self._raise_if_silent(sockets, request.clock())
                # Not before each socket has answered: what the vendor does not tell would be missed.
                if is_new and all(socket.has_answered for socket in sockets):
                    yield state.rows(_moments(sockets))
                now = request.clock()
                if (now - last_ping).total_seconds() >= self._times.ping:
                    last_ping = now
                    await self._ping(sockets, now)

    async def _open(self, stack: AsyncExitStack, request: LiveRequest) -> tuple[list[_Socket], datetime]:
        """Open a socket for each thousand queues. Return them, and when the first of their channels has to be replaced."""
        now = request.clock()
        self._channels = [channel for channel in self._channels if channel.expires - _RENEW_BEFORE > now]
        parts = [request.ids[start : start + MAX_TOPICS] for start in range(0, len(request.ids), MAX_TOPICS)] or [()]
        sockets: list[_Socket] = []
        for number, ids in enumerate(parts):
            if number == len(self._channels):
                self._channels.append(await self._create_channel())
            channel, queues = self._channels[number], {f"v2.analytics.queues.{id_}.observations": id_ for id_ in ids}
            try:
                connection = await stack.enter_async_context(
                    _connect(channel.uri, may_be_open=self._client.base_url.scheme == "http")
                )
                await self._subscribe(channel, queues)
            except Exception:
                # It may be unknown by now; the next attempt makes another.
                self._channels.remove(channel)
                raise
            sockets.append(_Socket(connection, queues, request.clock()))
        expires = min(channel.expires for channel in self._channels[: len(parts)])
        return sockets, max(expires - _RENEW_BEFORE, now + timedelta(seconds=1))

    async def _create_channel(self) -> _Channel:
        response = await self._client.post(
            _CHANNELS, json={}, extensions={"lane": Lane.interactive, "idempotent": True}
        )
        raise_for_permission(response)
        body = read_object(response)
        return _Channel(
            read_text(body, "id"),
            response.extensions["oauth_client"],
            read_text(body, "connectUri"),
            read_instant(body, "expires"),
        )

    async def _subscribe(self, channel: _Channel, queues: Mapping[str, str]) -> None:
        path, body = f"{_CHANNELS}/{channel.id}/subscriptions", [{"id": topic} for topic in queues]
        # A channel belongs to the client that made it.
        extensions = {"lane": Lane.interactive, "idempotent": True, "oauth_client": channel.oauth_client}
        raise_for_permission(await self._client.put(path, json=body, extensions=extensions))

    async def _ask(
        self, request: LiveRequest, sockets: list[_Socket], inbox: list[tuple[_Socket, object]]
    ) -> QueueState:
        inbox.clear()
        state = QueueState(request, {})
        for socket in sockets:
            ids = list(socket.queues.values())
            socket.current_as_of = request.clock()
            for start in range(0, len(ids), MAX_PREDICATES):
                part = LiveRequest(request.report, ids[start : start + MAX_PREDICATES], request.clock)
                answer = await ask_for_observations(self._client, QUEUES_PATH, _FIRST, part)
                state.presences = {**state.presences, **read_presences(answer)}
                for result in read_mappings(answer, "results"):
                    group = read_mapping(result, "group")
                    queue = read_text(group, _FIRST)
                    state.replace(queue, read_optional_text(group, "mediaType"), read_mappings(result, "data"))
        return state

    @asynccontextmanager
    async def _receiving(
        self, socket: _Socket, inbox: list[tuple[_Socket, object]], arrived: asyncio.Event
    ) -> AsyncGenerator[None]:
        """Put what a socket sends into the inbox while the block lasts; at its end, that it was closed."""

        async def receive() -> None:
            try:
                async for message in socket.connection:
                    inbox.append((socket, message))
                    arrived.set()
            except WebSocketException as error:
                inbox.append((socket, error))
            else:
                inbox.append((socket, PushLost("the vendor closed the socket")))
            arrived.set()

        task = asyncio.create_task(receive())
        try:
            yield
        finally:
            await cancel_and_wait([task])

    def _raise_if_silent(self, sockets: Sequence[_Socket], now: datetime) -> None:
        """Raise where a ping waits for its answer for too long, of all that has arrived.

        Only that is the vendor's silence. Asking for the figures of many queues takes time too, and so does a slow reader
        of the rows; meanwhile answers wait to be read.
        """
        for socket in sockets:
            if socket.pinged_at is not None and (now - socket.pinged_at).total_seconds() > self._times.silent:
                raise PushLost(f"nothing was heard since {socket.current_as_of:%H:%M:%S} UTC")

    async def _ping(self, sockets: Sequence[_Socket], now: datetime) -> None:
        for socket in sockets:
            # A second one would leave open which of them is answered.
            if socket.pinged_at is None:
                socket.pinged_at = now
                try:
                    await socket.connection.send(_PING)
                except WebSocketException as error:
                    raise PushLost(f"the socket is closed ({type(error).__name__})") from error


def _drain(inbox: list[tuple[_Socket, object]]) -> list[tuple[_Socket, object]]:
    messages = inbox[:]
    inbox.clear()
    return messages


def _moments(sockets: Sequence[_Socket]) -> dict[str, datetime]:
    return {queue: socket.current_as_of for socket in sockets for queue in socket.queues.values()}


def _apply(socket: _Socket, message: object, state: QueueState, now: datetime) -> None:
    """Apply one message to what is known.

    Raises:
        PushLost: It is the end of the socket, or not what is documented.
    """
    if isinstance(message, PushLost):
        raise message
    if isinstance(message, WebSocketException):
        raise PushLost(f"the socket is closed ({type(message).__name__})") from message
    try:
        document = _read_message(message)
        topic = read_text(document, "topicName")
        if topic == _METADATA:
            if socket.pinged_at is not None and read_mapping(document, "eventBody").get("message") == "pong":
                # The vendor reports all changes from before the ping before it answers it.
                socket.current_as_of, socket.pinged_at, socket.has_answered = socket.pinged_at, None, True
        elif topic == _CLOSING:
            raise PushLost("the vendor announced that it closes the socket")
        elif topic in socket.queues:
            for medium, metrics in read_notification(document, socket.queues[topic]):
                state.replace(socket.queues[topic], medium, metrics)
            state.check(socket.queues[topic], now)
    except SchemaMismatch as error:
        raise PushLost(f"a message is not as documented: {error}") from error


def _read_message(message: object) -> Mapping[str, object]:
    if not isinstance(message, str):
        raise SchemaMismatch("it is binary")
    try:
        document: Any = json.loads(message)
    except (ValueError, RecursionError):
        raise SchemaMismatch("it is not JSON") from None
    if not isinstance(document, dict):
        raise SchemaMismatch("it is not an object")
    return cast("Mapping[str, object]", document)


@asynccontextmanager
async def _connect(uri: str, *, may_be_open: bool) -> AsyncGenerator[ClientConnection]:
    """Open a socket. Its address holds the channel's id and is not shown.

    Args:
        uri: The address.
        may_be_open: Whether it need not be encrypted, as the API itself is not.

    Raises:
        PushLost: It could not be opened, or would not be encrypted.
    """
    scheme = urlsplit(uri).scheme
    if scheme != "wss" and not (scheme == "ws" and may_be_open):
        raise PushLost("the channel's address is not encrypted: expected wss")
    try:
        # Pings of the protocol would be answered by a proxy too.
        connection = await connect(
            uri,
            # Not that of the environment, as for all requests.
            proxy=None,
            ping_interval=None,
            open_timeout=_OPEN_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            max_size=_MAX_MESSAGE_BYTES,
            max_queue=None,
        )
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI, WebSocketException) as error:
        raise PushLost(f"the socket could not be opened ({type(error).__name__})") from error
    try:
        yield connection
    finally:
        await connection.close()
