"""Tests of notification channels: their limits, their refusals, and what is told on them."""

import json
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline_tests.simulator.vendor import CLIENT, SECRET, Vendor, open_vendor

CHANNELS = "/api/v2/notifications/channels"
QUIET = {"conversations_per_working_day": 0, "queues": 3, "agents": 4, "notification_seconds": 0.02}


def _topics(vendor: Vendor) -> list[dict[str, str]]:
    queues = vendor.http.get("/simulator/directory").json()["queues"]
    return [{"id": f"v2.analytics.queues.{queue}.observations"} for queue in queues]


def _subscribe(vendor: Vendor, channel: str, topics: Any) -> Any:
    return vendor.http.put(f"{CHANNELS}/{channel}/subscriptions", json=topics, headers=vendor.headers)


def _open(vendor: Vendor) -> dict[str, Any]:
    channel = vendor.post(CHANNELS, {}).json()
    assert _subscribe(vendor, channel["id"], _topics(vendor)).status_code == 200
    return channel


def _told(socket: ClientConnection) -> dict[str, Any]:
    """Return the next notification as group and figures."""
    body = json.loads(socket.recv(timeout=5))["eventBody"]
    (part,) = body["data"]
    return {**body["group"], **{each["metric"]: each["stats"] for each in part["metrics"]}}


def test_only_changes_are_told_and_their_end_as_well() -> None:
    with open_vendor(SimulatorSettings(**QUIET)) as vendor:
        channel = _open(vendor)
        with connect(channel["connectUri"]) as socket:
            offered = int(vendor.clock.seconds * 1000)
            queue = vendor.http.post("/simulator/calls", json={"wait_seconds": 30, "agent": None}).json()["queueId"]
            expected = {"oWaiting": {"count": 1}, "oLongestWaiting": {"calculatedMetricValue": offered}}
            assert _told(socket) == {"queueId": queue, "mediaType": "voice", **expected}
            vendor.clock.seconds += 31
            assert _told(socket) == {"queueId": queue, "mediaType": "voice", "oWaiting": {"count": 0}}
            with pytest.raises(TimeoutError):
                socket.recv(timeout=0.2)


def test_a_second_socket_and_an_expired_channel_close_the_first() -> None:
    with open_vendor(SimulatorSettings(**QUIET)) as vendor:
        uri = _open(vendor)["connectUri"]
        with connect(uri) as first, connect(uri) as second:
            with pytest.raises(ConnectionClosed):
                first.recv(timeout=5)
            vendor.clock.seconds += 86_400
            with pytest.raises(ConnectionClosed):
                second.recv(timeout=5)
        with pytest.raises(InvalidStatus):
            connect(uri)


def test_a_client_has_twenty_channels() -> None:
    with open_vendor(SimulatorSettings(**QUIET)) as vendor:
        channels = [vendor.post(CHANNELS, {}).json()["id"] for _ in range(21)]
        assert _subscribe(vendor, channels[0], _topics(vendor)).status_code == 404
        assert _subscribe(vendor, channels[1], _topics(vendor)).status_code == 200


def test_a_channel_has_a_thousand_topics() -> None:
    with open_vendor(SimulatorSettings(**{**QUIET, "queues": 1001})) as vendor:
        channel = vendor.post(CHANNELS, {}).json()["id"]
        answer = _subscribe(vendor, channel, _topics(vendor))
        assert answer.status_code == 400
        assert "1000 topics" in answer.json()["message"]
        assert _subscribe(vendor, channel, _topics(vendor)[1:]).status_code == 200


@pytest.mark.parametrize(
    "topics", [[{"id": "v2.users.x.presence"}], [{"id": "v2.analytics.queues.x.observations"}], {}, [{}]]
)
def test_other_topics_are_refused_by_name(topics: Any) -> None:
    with open_vendor(SimulatorSettings(**QUIET)) as vendor:
        answer = _subscribe(vendor, vendor.post(CHANNELS, {}).json()["id"], topics)
    assert answer.status_code == 400


def test_missing_permission_is_a_403_that_names_it() -> None:
    settings = {**QUIET, "clients": {CLIENT: SecretStr(SECRET)}, "client_permissions": {CLIENT: frozenset()}}
    with open_vendor(SimulatorSettings(**settings)) as vendor:
        answer = _subscribe(vendor, vendor.post(CHANNELS, {}).json()["id"], _topics(vendor))
    assert answer.status_code == 403
    assert "analytics:queueObservation:view" in answer.json()["message"]
