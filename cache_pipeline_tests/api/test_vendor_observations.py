"""Questions about the present at the vendor's own paths: its SDK gets the vendor's answers, of one request for everybody."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_live import Now
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_listings import call_by_sdk, simulator
from cache_pipeline_tests.api.test_vendor_paths import FLOWS, KEYS, credentials, matches
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

QUEUES, USERS = "/api/v2/analytics/queues/observations/query", "/api/v2/analytics/users/observations/query"
_METRICS = ["oWaiting", "oLongestWaiting", "oInteracting", "oOnQueueUsers", "oOffQueueUsers", "oUserPresences"]
QUIET = {"conversations_per_working_day": 0, "queues": 3, "agents": 4}


class Noon:
    """A clock that stands still at noon on a Tuesday, so that the present is the same for every question."""

    def now(self) -> float:
        return datetime(2026, 1, 6, 12, tzinfo=UTC).timestamp()


def _corpus(queues: Sequence[str], users: Sequence[str]) -> list[dict[str, Any]]:
    def queue_query(filter_: Mapping[str, Any], *metrics: str) -> dict[str, Any]:
        body = {"filter": filter_, "metrics": list(metrics) or _METRICS}
        return {"api": "AnalyticsApi", "method": "post_analytics_queues_observations_query", "arguments": [body]}

    def user_query(*chosen: str) -> dict[str, Any]:
        predicates = [matches("userId", user) for user in chosen]
        body = {"filter": {"type": "or", "predicates": predicates}, "metrics": ["oActiveQueues", "oMemberQueues"]}
        return {"api": "AnalyticsApi", "method": "post_analytics_users_observations_query", "arguments": [body]}

    some = [matches("queueId", queue) for queue in queues[:2]]
    of_some = {"type": "or", "predicates": some}
    voice = {"type": "and", "predicates": [matches("mediaType", "voice")]}
    return [
        queue_query(of_some),
        queue_query(of_some, "oWaiting"),
        queue_query(of_some, "oMemberUsers", "oActiveUsers", "oUserRoutingStatuses"),
        queue_query({"type": "or", "predicates": [some[1]]}, "oInteracting", "oLongestInteracting"),
        queue_query(voice),
        queue_query({"type": "and", "clauses": [of_some, voice]}),
        queue_query({"type": "and", "predicates": [some[0], matches("mediaType", "chat")]}),
        queue_query({"type": "and", "predicates": [{"dimension": "queueId", "operator": "exists"}]}),
        queue_query({"type": "and", "predicates": [{"dimension": "mediaType", "operator": "exists"}]}, "oWaiting"),
        queue_query({"type": "or", "predicates": [matches("queueId", "unknown")]}),
        user_query(*users[:3]),
        user_query("unknown"),
    ]


def _by_group(answer: dict[str, Any]) -> Any:
    """Return an answer whose groups and metrics are in one order: the vendor documents none."""

    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    results = [{**each, "data": sorted(each["data"], key=text)} for each in answer.get("results", [])]
    return {**answer, "results": sorted(results, key=text)}


async def _observed(api) -> int:
    calls = (await api.vendor.get("/simulator/counters")).json()["calls"]
    return sum(each["count"] for each in calls if "observations" in each["call"])


@pytest.mark.parametrize("declared", [False, True])
async def test_sdk_gets_the_vendors_answers_of_one_request_for_each_kind(open_api, tmp_path, declared):
    live = (
        [live_report(metrics=[*_METRICS, "oMemberUsers", "oActiveUsers", "oUserRoutingStatuses"])] if declared else []
    )
    vendor = {"conversations_per_working_day": 60_000, "queues": 4, "agents": 80}
    async with open_api(FLOWS, live=live, api=KEYS, vendor=vendor, clock=Noon()) as api:
        directory = (await api.vendor.get("/simulator/directory")).json()
        calls = _corpus(list(directory["queues"]), list(directory["users"]))
        (expected,) = await call_by_sdk(tmp_path, [simulator(api)], calls)
        before = await _observed(api)
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            first, second = await call_by_sdk(tmp_path, [ours, ours], calls)
        # The query of oLongestInteracting is not of the declared report.
        assert await _observed(api) - before == (3 if declared else 2)
    for call, answer, again, of_vendor in zip(calls, first, second, expected, strict=True):
        assert _by_group(answer) == _by_group(of_vendor), call
        assert again == answer
    assert sum(bool(answer.get("results")) for answer in expected) >= 9


async def test_rows_and_the_vendors_form_share_a_request(open_api):
    async with open_api(live=[live_report()], api=KEYS, vendor=QUIET, clock=Now()) as api:
        headers = await create_key(api)
        body = {"filter": {"type": "and", "predicates": [{"dimension": "queueId", "operator": "exists"}]}}
        assert (await api.http.get("/v1/reports/queue_now", headers=headers)).status_code == 200
        answers = await asyncio.gather(
            *(
                api.http.post(QUEUES, json=body | {"metrics": [metric]}, headers=headers)
                for metric in ("oMemberUsers", "oUserPresences", "oWaiting") * 5
            )
        )
        assert {answer.status_code for answer in answers} == {200}
        assert await _observed(api) == 1
    assert answers[0].headers["Cache-Status"].endswith("detail=hot")
    assert int(answers[0].headers["Age"]) < 30
    assert answers[0].headers["ININ-Correlation-Id"] == answers[0].headers["X-Request-ID"]
    assert "results" not in answers[2].json(), "nothing waits"


async def test_of_many_users_those_of_the_query_are_asked_for(open_api):
    async with open_api(live=[live_report()], api=KEYS, vendor=QUIET | {"agents": 130}, clock=Noon()) as api:
        users = list((await api.vendor.get("/simulator/directory")).json()["users"])
        predicates = [matches("userId", user) for user in [*users[:2], "unknown"]]
        body = {"filter": {"type": "or", "predicates": predicates}, "metrics": ["oMemberQueues"]}
        headers = await create_key(api)
        for _ in range(3):
            answer = await api.http.post(USERS, json=body, headers=headers)
            assert {each["group"]["userId"] for each in answer.json()["results"]} <= set(users[:2])
        assert await _observed(api) == 1
        # Without Redis a process asks no more often.
        await api.redis.flushdb()
        assert (await api.http.post(USERS, json=body, headers=headers)).content == answer.content
        assert await _observed(api) == 1
        assert (
            await api.http.post(
                USERS, json=body | {"filter": {"type": "or", "predicates": predicates[2:]}}, headers=headers
            )
        ).json() == {}
        assert await _observed(api) == 1


_FILTER = {"type": "or", "predicates": [matches("queueId", "q")]}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ([], "body"),
        ({"metrics": ["oWaiting"]}, "filter"),
        ({"filter": _FILTER}, "metrics"),
        ({"filter": _FILTER, "metrics": ["nOffered"]}, "metrics"),
        ({"filter": _FILTER, "metrics": ["oWaiting"], "detailMetrics": ["oWaiting"]}, "detailMetrics"),
        ({"filter": {"type": "or", "predicates": [matches("userId", "u")]}, "metrics": ["oWaiting"]}, "filter"),
        ({"filter": _FILTER, "metrics": ["oWaiting"], "interval": "now"}, "interval"),
    ],
)
async def test_question_that_cannot_be_answered_is_a_bad_request(open_api, body, word):
    async with open_api(live=[live_report()], api=KEYS, vendor=QUIET) as api:
        answer = await api.http.post(QUEUES, json=body, headers=await create_key(api))
        assert await _observed(api) == 0
    assert (answer.status_code, answer.json()["code"]) == (400, "bad.request")
    assert answer.json()["message"].startswith(word)


async def test_key_of_a_live_report_gets_nothing_else(open_api):
    settings = ApiSettings(auth="keys", ad_hoc_series=0)
    async with open_api(live=[live_report()], api=KEYS, vendor=QUIET) as api:
        headers = await create_key(api, reports=["queue_now"])
        for metric, status in (("oMemberUsers", 200), ("oInteracting", 404)):
            body = {"filter": _FILTER, "metrics": [metric]}
            assert (await api.http.post(QUEUES, json=body, headers=headers)).status_code == status
    async with open_api(live=[live_report()], api=settings, vendor=QUIET) as api:
        body = {"filter": _FILTER, "metrics": ["oInteracting"]}
        answer = await api.http.post(QUEUES, json=body, headers=await create_key(api))
        assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
