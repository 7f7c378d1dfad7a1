"""Tests of live reports: what a vendor's answer about the present is read as, and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from cache_pipeline.errors import SchemaMismatch
from cache_pipeline.query.live_report import LiveReport
from cache_pipeline.vendors.genesys.live_kinds import LIVE_KINDS
from cache_pipeline.vendors.genesys.observations import MAX_PREDICATES
from cache_pipeline.vendors.genesys.permissions import PermissionMissing
from cache_pipeline.vendors.spec import LiveRequest
from cache_pipeline_tests.vendors.workbench import mock_client

NOW = datetime(2026, 1, 6, 12, tzinfo=UTC)
SINCE = NOW - timedelta(seconds=75)
IDLE, AWAY = "6f-idle", "6f-away"
MAPPINGS = {"AVAILABLE": [IDLE], "AWAY": [AWAY, "6f-lunch"], "ON_QUEUE": []}


def live_report(**changes: Any) -> LiveReport:
    fields = {
        "name": "queue_now",
        "description": "Now",
        "platform": "genesys",
        "query_type": "queueObservations",
        "group_by": ["queueId"],
        "metrics": ["oWaiting", "oLongestWaiting", "oMemberUsers", "oUserPresences"],
    }
    return LiveReport.model_validate({**fields, **changes})


def _metric(name: str, qualifier: str | None = None, **stats: Any) -> dict[str, Any]:
    return {"metric": name, **({"qualifier": qualifier} if qualifier else {}), "stats": stats}


def _result(medium: str | None, *data: dict[str, Any], queue: str = "q-1") -> dict[str, Any]:
    return {"group": {"queueId": queue, **({"mediaType": medium} if medium else {})}, "data": list(data)}


async def _read(body: dict[str, Any], report: LiveReport, ids: tuple[str, ...] = ("q-1", "q-2")) -> list[Any]:
    answer = {"systemToOrganizationMappings": MAPPINGS, **body}
    async with mock_client(lambda _: httpx.Response(200, json=answer)) as client:
        rows = (await LIVE_KINDS[report.query_type].read(client, LiveRequest(report, ids, lambda: NOW))).rows
    assert all(row.observed_at == NOW for row in rows)
    return [{name: value for name, value in row.values.items() if value} for row in rows]


async def test_media_are_added_up_and_agents_are_beside_them() -> None:
    results = [
        _result("voice", _metric("oWaiting", count=2), _metric("oLongestWaiting", calculatedMetricValue=30_000)),
        _result(
            "chat",
            _metric("oWaiting", count=1),
            _metric("oLongestWaiting", calculatedMetricValue=int(SINCE.timestamp() * 1000)),
        ),
        _result(
            None,
            _metric("oMemberUsers", count=9),
            _metric("oUserPresences", AWAY, count=3),
            _metric("oUserPresences", "6f-lunch", count=2),
            _metric("oUserPresences", "Available", count=1),
        ),
    ]
    rows = await _read({"results": results}, live_report())
    assert rows == [
        {
            "queue_id": "q-1",
            "o_waiting": 3,
            "o_longest_waiting": SINCE,
            "o_member_users": 9,
            "o_user_presences_away": 5,
            "o_user_presences_available": 1,
        },
        {"queue_id": "q-2"},
    ]


async def test_by_medium_conversations_and_agents_have_rows_of_their_own() -> None:
    report = live_report(group_by=["queueId", "mediaType"], metrics=["oWaiting", "oMemberUsers"])
    results = [_result("voice", _metric("oWaiting", count=2)), _result(None, _metric("oMemberUsers", count=9))]
    assert await _read({"results": results}, report) == [
        {"queue_id": "q-1", "o_member_users": 9},
        {"queue_id": "q-2"},
        {"queue_id": "q-1", "media_type": "voice", "o_waiting": 2},
    ]


@pytest.mark.parametrize("body", [{}, {"results": None}, {"results": []}, {"results": [{"group": {"queueId": "q-1"}}]}])
async def test_nothing_happens_where_the_vendor_says_nothing(body: dict[str, Any]) -> None:
    assert await _read(body, live_report()) == [{"queue_id": "q-1"}, {"queue_id": "q-2"}]


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (_result("voice", _metric("oInteracting", count=1)), "was not requested"),
        (_result("voice", _metric("oWaiting")), "count"),
        (_result("voice", _metric("oWaiting", count=1.5)), "whole number"),
        (_result("voice", _metric("oWaiting", count=-1)), "whole number"),
        (_result("voice", _metric("oWaiting", count="many")), "whole number"),
        (_result(None, _metric("oUserPresences", "6f-new", count=1)), "6f-new"),
        (_result("voice", _metric("oWaiting", count=1), queue="q-3"), "q-3"),
        ({"group": {"mediaType": "voice"}, "data": []}, "queueId"),
    ],
)
async def test_unexpected_answer_is_refused_as_a_whole(result: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaMismatch, match=problem):
        await _read({"results": [_result("voice", _metric("oWaiting", count=1)), result]}, live_report())


async def test_many_queues_take_several_queries() -> None:
    asked: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.read().count(b'"queueId"'))
        return httpx.Response(200, json={})

    ids = [f"q-{number}" for number in range(2 * MAX_PREDICATES + 1)]
    async with mock_client(answer) as client:
        rows = (await LIVE_KINDS["queueObservations"].read(client, LiveRequest(live_report(), ids, lambda: NOW))).rows
    assert asked == [MAX_PREDICATES, MAX_PREDICATES, 1]
    assert [row.values["queue_id"] for row in rows] == ids


async def test_missing_permission_is_named() -> None:
    body = {
        "status": 403,
        "code": "missing.permissions",
        "message": "missing the following permission(s): [analytics:queueObservation:view]",
    }
    async with mock_client(lambda _: httpx.Response(403, json=body)) as client:
        with pytest.raises(PermissionMissing, match="analytics:queueObservation:view"):
            await LIVE_KINDS["queueObservations"].read(client, LiveRequest(live_report(), ["q"], lambda: NOW))
