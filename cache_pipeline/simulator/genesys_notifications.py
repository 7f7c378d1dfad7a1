"""Notification channels: a WebSocket on which the simulator reports every change of a queue's observations.

The vendor documents the paths, `id`, `connectUri` and `expires` of a channel, which lives a day, 20 channels for a client, 1,000
topics and one socket for a channel, at most one notification a second for each topic, the answer to `{"message": "ping"}`, and that
nothing is sent again after a gap. The simulator's interpretations and choices:
- a notification has all figures of the group that has changed, with a count of 0 for those that are no more;
- a 21st channel replaces the oldest, and a second socket the first;
- an unknown or expired channel refuses the socket, and its subscriptions are 404;
- other topics than observations of queues are refused with a 400 that names them;
- changes are looked for `notification_seconds` apart, and a heartbeat is sent each 30 seconds.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from cache_pipeline.simulator.body import read_json
from cache_pipeline.simulator.errors import bad_request, missing_permission, not_found
from cache_pipeline.simulator.genesys_observations import QUEUE_METRICS, queue_results
from cache_pipeline.simulator.intervals import iso
from cache_pipeline.simulator.observations import observe
from cache_pipeline.simulator.organisation import MEDIA
from cache_pipeline.simulator.request_gate import Gate, client_id_of
from cache_pipeline.simulator.state import Simulator

Json = dict[str, Any]
#: A queue's id and a medium; None for the users.
Group = tuple[str, str | None]
_PATH, _SOCKET_PATH = "/api/v2/notifications", "/channels/{channel}"
_PERMISSION = "analytics:queueObservation:view"
_LIFE_SECONDS = 86_400.0
_MAX_CHANNELS, _MAX_TOPICS = 20, 1000
_HEARTBEAT_SECONDS = 30.0
_RUBBISH = "<html>bad gateway"
_GOING_AWAY = 1001


class Topic(BaseModel):
    """One topic of a subscription."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(min_length=1)]


class Topics(RootModel[list[Topic]]):
    """The body of a subscription."""


@dataclass
class Channel:
    """One channel of a client.

    Attributes:
        id: Its id.
        client_id: The client.
        expires: Its end, in seconds since the epoch.
        topics: The queue of each topic.
        sent: The last figures of each group that the client knows.
        socket: Its socket; None while there is none.
    """

    id: str
    client_id: str
    expires: float
    topics: dict[str, str] = field(default_factory=dict[str, str])
    sent: dict[Group, list[Json]] = field(default_factory=dict[Group, list[Json]])
    socket: WebSocket | None = None


class Notifications:
    """The channels of all clients."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._channels: dict[str, Channel] = {}

    def routes(self, gate: Gate) -> list[BaseRoute]:
        """Return the checked routes, and that of the sockets."""
        subscriptions = f"{_PATH}/channels/{{channel}}/subscriptions"
        return [
            gate.route("GET", f"{_PATH}/availabletopics", "notification", self._topics),
            gate.route("POST", f"{_PATH}/channels", "notification", self._create),
            gate.route("GET", subscriptions, "notification", self._read),
            gate.route("PUT", subscriptions, "notification", self._replace),
            gate.route("POST", subscriptions, "notification", self._add),
            gate.route("DELETE", subscriptions, "notification", self._clear),
            WebSocketRoute(_SOCKET_PATH, self._serve),
        ]

    async def _topics(self, _: Request) -> Response:
        topic = {
            "id": "v2.analytics.queues.{id}.observations",
            "requiresPermissions": [_PERMISSION],
            "transports": ["All"],
        }
        return JSONResponse({"entities": [topic]})

    async def _create(self, request: Request) -> Response:
        now, client_id = self._simulator.clock.now(), client_id_of(request)
        channel = Channel(str(uuid4()), client_id, now + _LIFE_SECONDS)
        self._channels[channel.id] = channel
        own = [each for each in self._channels.values() if each.client_id == client_id]
        for oldest in own[: max(0, len(own) - _MAX_CHANNELS)]:
            await self._end(oldest)
        host = request.headers.get("host", "")
        return JSONResponse(
            {
                "id": channel.id,
                "connectUri": f"ws://{host}/channels/{channel.id}",
                "expires": iso(int(channel.expires * 1000)),
            }
        )

    async def _read(self, request: Request) -> Response:
        return _entities(self._find(request))

    async def _replace(self, request: Request) -> Response:
        channel, topics = self._find(request), await self._read_topics(request)
        channel.topics, channel.sent = topics, {}
        return await self._subscribed(channel)

    async def _add(self, request: Request) -> Response:
        channel, topics = self._find(request), await self._read_topics(request)
        channel.topics |= topics
        return await self._subscribed(channel)

    async def _clear(self, request: Request) -> Response:
        self._find(request).topics = {}
        return Response(status_code=204)

    async def _subscribed(self, channel: Channel) -> Response:
        if len(channel.topics) > _MAX_TOPICS:
            channel.topics = {}
            raise bad_request(f"a channel has at most {_MAX_TOPICS} topics")
        # What was before the subscription is not told.
        channel.sent = await self._figures(channel)
        return _entities(channel)

    def _find(self, request: Request) -> Channel:
        channel = self._channels.get(request.path_params["channel"])
        if channel is None or channel.client_id != client_id_of(request):
            raise not_found("The notification channel was not found.")
        return channel

    async def _read_topics(self, request: Request) -> dict[str, str]:
        body = await read_json(request, Topics, self._simulator.settings.max_body_bytes)
        granted = self._simulator.settings.client_permissions.get(client_id_of(request))
        if granted is not None and _PERMISSION not in granted:
            raise missing_permission((_PERMISSION,))
        queues = set(self._simulator.organisation.values["queueId"])
        found: dict[str, str] = {}
        for topic in body.root:
            queue = topic.id.removeprefix("v2.analytics.queues.").removesuffix(".observations")
            if topic.id != f"v2.analytics.queues.{queue}.observations" or queue not in queues:
                raise bad_request(f"topic {topic.id} is unknown, or not implemented by this simulator")
            found[topic.id] = queue
        return found

    async def _figures(self, channel: Channel) -> dict[Group, list[Json]]:
        simulator = self._simulator
        if not channel.topics:
            return {}
        queues = simulator.organisation.values["queueId"]
        wanted = set(channel.topics.values())
        selected = [(code, medium) for code, id_ in enumerate(queues) if id_ in wanted for medium in range(len(MEDIA))]
        now_ms = int(simulator.clock.now() * 1000)
        observed = await simulator.run(lambda: observe(simulator, now_ms))
        return {
            (result["group"]["queueId"], result["group"].get("mediaType")): result["data"]
            for result in queue_results(simulator, observed, selected, QUEUE_METRICS)
        }

    async def _end(self, channel: Channel) -> None:
        self._channels.pop(channel.id, None)
        if channel.socket is not None and channel.socket.application_state is WebSocketState.CONNECTED:
            await channel.socket.close(_GOING_AWAY)

    async def _serve(self, socket: WebSocket) -> None:
        channel = self._channels.get(socket.path_params["channel"])
        if channel is None or self._simulator.faults.current.sockets == "cut":
            await socket.close()
            return
        await socket.accept()
        earlier, channel.socket = channel.socket, socket
        if earlier is not None and earlier.application_state is WebSocketState.CONNECTED:
            await earlier.close(_GOING_AWAY)
        channel.sent = await self._figures(channel)
        telling = asyncio.create_task(self._tell(channel, socket))
        try:
            while True:
                message = await socket.receive_text()
                if _is_ping(message):
                    await self._send(socket, _metadata("pong"))
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            telling.cancel()
            if channel.socket is socket:
                channel.socket = None

    async def _tell(self, channel: Channel, socket: WebSocket) -> None:
        """Send what has changed, time and again, and a heartbeat in between."""
        step, since_heartbeat = self._simulator.settings.notification_seconds, 0.0
        while True:
            await asyncio.sleep(step)
            faults = self._simulator.faults
            if self._simulator.clock.now() >= channel.expires or faults.take("expire_channels"):
                await self._end(channel)
                return
            if faults.current.sockets == "cut":
                await socket.close(_GOING_AWAY)
                return
            if faults.take("rubbish_messages"):
                await socket.send_text(_RUBBISH)
            since_heartbeat += step
            if since_heartbeat >= _HEARTBEAT_SECONDS:
                since_heartbeat = 0.0
                await self._send(socket, _metadata("WebSocket Heartbeat"))
            figures = await self._figures(channel)
            for message in _changes(channel.sent, figures, iso(int(self._simulator.clock.now() * 1000))):
                await self._send(socket, message)
            channel.sent = figures

    async def _send(self, socket: WebSocket, message: Json) -> None:
        if self._simulator.faults.current.sockets != "silent":
            await socket.send_text(json.dumps(message))


def _is_ping(message: str) -> bool:
    try:
        return json.loads(message) == {"message": "ping"}
    except ValueError:
        return False


def _metadata(text: str) -> Json:
    return {"topicName": "channel.metadata", "eventBody": {"message": text}}


def _entities(channel: Channel) -> Response:
    return JSONResponse({"entities": [{"id": topic, "state": "Permitted"} for topic in channel.topics]})


def _changes(before: Mapping[Group, list[Json]], after: Mapping[Group, list[Json]], now: str) -> Iterator[Json]:
    """Yield a notification of each group that has changed."""
    for group in dict.fromkeys([*before, *after]):
        known, figures = before.get(group, []), after.get(group, [])
        if known == figures:
            continue
        named = {(each["metric"], each.get("qualifier")) for each in figures}
        gone = [
            {**each, "stats": {"count": 0}}
            for each in known
            if "count" in each["stats"] and (each["metric"], each.get("qualifier")) not in named
        ]
        queue, medium = group
        yield {
            "topicName": f"v2.analytics.queues.{queue}.observations",
            "version": "2",
            "eventBody": {
                "group": {"queueId": queue, **({"mediaType": medium} if medium else {})},
                "data": [{"interval": f"{now}/{now}", "metrics": [*figures, *gone]}],
            },
            "metadata": {"CorrelationId": str(uuid4())},
        }
