"""Tests of the vendor's own news of changes: what is read, and every way in which the connection is lost."""

import asyncio
import logging
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cache_pipeline.errors import PushLost, SchemaMismatch, UpstreamRefused
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.vendors.genesys.notifications import (
    PushTimes,
    QueuePush,
    QueueState,
    _apply,
    _Socket,
    read_notification,
)
from cache_pipeline.vendors.spec import LiveRequest
from cache_pipeline_tests.upstream.vendor import free_port
from cache_pipeline_tests.vendors.genesys.test_observations import live_report
from cache_pipeline_tests.vendors.workbench import INSTANT, simulated_vendor

REPORT = live_report(metrics=["oWaiting", "oLongestWaiting", "oInteracting", "oMemberUsers", "oUserRoutingStatuses"])
TIMES = PushTimes(ping=0.05, silent=2)
QUIET = {"conversations_per_working_day": 0, "queues": 3, "agents": 4, "notification_seconds": 0.02}
CREATE = "POST /api/v2/notifications/channels"


def _now():
    return datetime.now(UTC)


@asynccontextmanager
async def opened(redis, clock=_now, times=TIMES, **changes):
    """Yield the vendor, a push, and its request."""
    settings = SimulatorSettings(**(INSTANT.model_dump() | QUIET | changes))
    async with simulated_vendor(redis, settings) as vendor:
        queues = (await vendor.admin.get("/simulator/directory")).json()["queues"]
        yield vendor, QueuePush(vendor.genesys._client, times), LiveRequest(REPORT, sorted(queues), clock)


async def _wait_for(rows_of, is_wanted, seconds=5.0):
    async with asyncio.timeout(seconds):
        async for rows in rows_of:
            if is_wanted(rows):
                return rows
    raise AssertionError("the push ended")


async def _channels(vendor):
    calls = (await vendor.admin.get("/simulator/counters")).json()["calls"]
    return sum(each["count"] for each in calls if each["call"] == CREATE)


def _sum(rows, column):
    return sum(row.values[column] for row in rows)


async def test_changes_are_told_without_asking(shared_redis):
    async with opened(shared_redis) as (vendor, push, request), aclosing(push.follow(request)) as changes:
        rows = await anext(changes)
        assert [row.values["queue_id"] for row in rows] == request.ids
        assert _sum(rows, "o_waiting") == 0
        queue = (await vendor.admin.post("/simulator/calls", json={"queue": 1, "wait_seconds": 0.5})).json()["queueId"]
        rows = await _wait_for(changes, lambda rows: _sum(rows, "o_waiting") == 1)
        waiting = next(row for row in rows if row.values["queue_id"] == queue)
        assert abs(waiting.values["o_longest_waiting"] - _now()) < timedelta(days=1)
        rows = await _wait_for(changes, lambda rows: _sum(rows, "o_interacting") == 1)
        assert _sum(rows, "o_waiting") == 0
        assert {row.values["o_longest_waiting"] for row in rows} == {None}
        later = await _wait_for(
            changes, lambda rows: all(row.observed_at > _now() - timedelta(seconds=1) for row in rows)
        )
        assert len({row.observed_at for row in later}) == 1
        asked = (await vendor.admin.get("/simulator/counters")).json()["calls"]
        assert sum(each["count"] for each in asked if "observations" in each["call"]) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"sockets": "cut"}, "closed"),
        ({"sockets": "silent"}, "nothing was heard"),
        ({"rubbish_messages": 1}, "not as documented: it is not JSON"),
        ({"expire_channels": 1}, "closed"),
    ],
)
async def test_lost_connection_ends_with_its_reason_and_is_opened_again(shared_redis, fault, reason):
    async with opened(shared_redis) as (vendor, push, request):
        async with aclosing(push.follow(request)) as changes:
            await anext(changes)
            await vendor.admin.post("/simulator/faults", json=fault)
            with pytest.raises(PushLost, match=reason):
                await _wait_for(changes, lambda _: False)
        await vendor.admin.delete("/simulator/faults")
        await vendor.admin.post("/simulator/calls", json={"queue": 1, "wait_seconds": 600})
        for _ in range(2):
            with suppress(PushLost):
                async with aclosing(push.follow(request)) as changes:
                    assert _sum(await anext(changes), "o_waiting") == 1
                break
        # An expired channel is replaced; any other is used again.
        assert await _channels(vendor) == (2 if "expire_channels" in fault else 1)


async def test_channel_is_named_in_no_log_or_error(shared_redis, caplog):
    """Who knows its id can open its socket, without a token."""
    caplog.set_level(logging.INFO, logger="cache_pipeline")
    async with opened(shared_redis) as (_, push, request):
        async with aclosing(push.follow(request)) as changes:
            await anext(changes)
        (channel,) = push._channels
        push._channels = [replace(channel, id=f"{channel.id}-gone")]
        with pytest.raises(
            UpstreamRefused, match=r"PUT /api/v2/notifications/channels/\*/subscriptions was refused"
        ) as lost:
            async with aclosing(push.follow(request)) as changes:
                await anext(changes)
    text = caplog.text + repr([vars(record) for record in caplog.records if record.name.startswith("cache_pipeline")])
    assert "/notifications/channels" in text
    assert channel.id not in text + str(lost.value)


async def test_refused_socket_is_lost(shared_redis):
    async with opened(shared_redis) as (vendor, push, request):
        await vendor.admin.post("/simulator/faults", json={"sockets": "cut"})
        with pytest.raises(PushLost, match="could not be opened"):
            async with aclosing(push.follow(request)) as changes:
                await anext(changes)


async def test_proxy_of_the_environment_is_not_used(shared_redis, monkeypatch):
    async with opened(shared_redis) as (_, push, request):
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("no_proxy", raising=False)
        async with aclosing(push.follow(request)) as changes:
            assert len(await anext(changes)) == 3


async def test_more_queues_than_a_channel_takes_have_several(shared_redis):
    async with opened(shared_redis, queues=1001) as (vendor, push, request), aclosing(push.follow(request)) as changes:
        assert len(await anext(changes)) == 1001
        assert await _channels(vendor) == 2
        queue = (await vendor.admin.post("/simulator/calls", json={"queue": 1000, "wait_seconds": 600})).json()[
            "queueId"
        ]
        rows = await _wait_for(changes, lambda rows: _sum(rows, "o_waiting") == 1, 20)
        assert [row.values["queue_id"] for row in rows if row.values["o_waiting"]] == [queue]


async def test_slow_reader_is_not_mistaken_for_a_silent_vendor(shared_redis):
    times = PushTimes(ping=0.05, silent=1)
    async with opened(shared_redis, times=times) as (_, push, request), aclosing(push.follow(request)) as changes:
        for _ in range(2):
            await anext(changes)
            await asyncio.sleep(1.5)
        await anext(changes)


async def test_channel_is_replaced_before_it_expires(shared_redis):
    ahead = [timedelta(0)]
    async with opened(shared_redis, lambda: _now() + ahead[0]) as (vendor, push, request):
        async with aclosing(push.follow(request)) as changes:
            await anext(changes)
        ahead[0] = timedelta(hours=23, minutes=50)
        async with aclosing(push.follow(request)) as changes:
            await anext(changes)
        assert await _channels(vendor) == 2


async def test_connection_ends_by_itself_after_some_minutes(shared_redis):
    ahead = [timedelta(0)]
    clock = lambda: _now() + ahead[0]  # noqa: E731
    async with opened(shared_redis, clock) as (_, push, request), aclosing(push.follow(request)) as changes:
        await anext(changes)
        ahead[0] = timedelta(minutes=11)
        with suppress(PushLost):
            async with asyncio.timeout(5):
                async for _rows in changes:
                    pass


def test_both_forms_of_a_notification_are_read():
    metrics = [{"metric": "oWaiting", "stats": {"count": 2}}]
    nested = {"group": {"queueId": "q", "mediaType": "voice"}, "data": [{"interval": "x/x", "metrics": metrics}]}
    flat = {"results": [{"mediaType": "voice", "data": [{"metric": "oWaiting", "count": 2}]}]}
    for body in (nested, flat):
        assert list(read_notification({"eventBody": body}, "q")) == [("voice", metrics)]


@pytest.mark.parametrize(
    "body",
    [{}, {"group": {"queueId": "other"}, "data": []}, {"group": "q"}, {"results": [{"data": [{}]}]}, {"results": {}}],
)
def test_other_forms_are_refused(body):
    with pytest.raises(SchemaMismatch):
        list(read_notification({"eventBody": body}, "q"))


@pytest.mark.parametrize(
    "value", ["1e999", "NaN", "-Infinity", "1e18", "253402300800000", "1" + 400 * "0", "-1", "true"]
)
@pytest.mark.parametrize("form", ["nested", "flat"])
@pytest.mark.parametrize("metric", ["oWaiting", "oLongestWaiting"])
def test_number_that_is_none_ends_the_connection(value, form, metric):
    name = "calculatedMetricValue" if metric == "oLongestWaiting" else "count"
    if (metric, value) in {("oWaiting", "1e18"), ("oWaiting", "253402300800000")}:
        value = "1e19"
    known = f'"metric": "{metric}"'
    body = (
        f'{{"group": {{"queueId": "q"}}, "data": [{{"metrics": [{{{known}, "stats": {{"{name}": {value}}}}}]}}]}}'
        if form == "nested"
        else f'{{"results": [{{"data": [{{{known}, "{name}": {value}}}]}}]}}'
    )
    topic = "v2.analytics.queues.q.observations"
    socket = _Socket(None, {topic: "q"}, _now())
    state = QueueState(LiveRequest(REPORT, ["q"], _now), {})
    with pytest.raises(PushLost, match="not as documented"):
        _apply(socket, f'{{"topicName": "{topic}", "eventBody": {body}}}', state, _now())
