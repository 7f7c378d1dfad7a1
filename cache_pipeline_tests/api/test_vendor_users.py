"""Aggregates of users at the vendor's own paths: time by presence and by routing status."""

import json
from typing import Any

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_listings import call_by_sdk, simulator
from cache_pipeline_tests.api.test_vendor_paths import FLOWS, KEYS, ask_by_sdk, count_requests, credentials
from cache_pipeline_tests.query.declared import declared

QUERY = "/api/v2/analytics/users/aggregates/query"
_COMMON: dict[str, Any] = {
    "platform": "genesys",
    "query_type": "users",
    "delivery": "sync",
    "start": "2025-01-01",
    "time_zone": "UTC",
    "granularity": "PT1H",
    "expected_groups": None,
    "volume_metric": None,
}
STATES = declared(
    **_COMMON, name="user_states", group_by=["userId"], metrics=["tSystemPresence", "tAgentRoutingStatus"]
)
PRESENCES = declared(
    **_COMMON,
    name="user_presences",
    group_by=["userId", "organizationPresenceId", "systemPresence"],
    metrics=["tOrganizationPresence"],
)
_DAY, _DAYS = "2026-01-05T00:00:00.000Z/2026-01-06T00:00:00.000Z", "2026-01-03T00:00:00.000Z/2026-01-06T00:00:00.000Z"


def _bodies(users: list[str]) -> list[dict[str, Any]]:
    predicates = [
        {"type": "dimension", "dimension": "userId", "operator": "matches", "value": user} for user in users[:3]
    ]
    some = {"type": "or", "predicates": predicates}
    by_user = {"groupBy": ["userId"]}
    states = {"metrics": ["tSystemPresence", "tAgentRoutingStatus"]}
    presences = {"metrics": ["tOrganizationPresence"]}
    return [
        {"interval": _DAY, "granularity": "PT1H", **by_user, **states},
        {"interval": _DAYS, "granularity": "P1D", **by_user, "metrics": ["tAgentRoutingStatus"]},
        {"interval": _DAY, **by_user, **states, "filter": some},
        {"interval": _DAYS, "metrics": ["tSystemPresence"]},
        {"interval": _DAY, "granularity": "PT1H", **by_user, **presences},
        {"interval": _DAYS, "granularity": "P1D", **by_user, **presences, "filter": some},
        {"interval": _DAYS, **by_user, **presences},
        {"interval": _DAY, **presences},
    ]


def _in_order(answer: dict[str, Any]) -> Any:
    """Return the buckets of an answer by group, with metrics in one order: the vendor documents none."""

    def metrics(bucket: dict[str, Any]) -> dict[str, Any]:
        return {**bucket, "metrics": sorted(bucket["metrics"], key=lambda each: (each["metric"], each["qualifier"]))}

    return {json.dumps(each["group"]): [metrics(bucket) for bucket in each["data"]] for each in answer["results"]}


def _check_mappings(answer: dict[str, Any], of_vendor: dict[str, Any], body: dict[str, Any]) -> None:
    """Check that the presences of an answer are mapped as the vendor maps them."""
    if body["metrics"] != ["tOrganizationPresence"]:
        assert "system_to_organization_mappings" not in answer
        return
    qualifiers = {
        entry["qualifier"] for each in answer["results"] for bucket in each["data"] for entry in bucket["metrics"]
    }
    mappings = answer["system_to_organization_mappings"]
    assert qualifiers == {id_ for ids in mappings.values() for id_ in ids}
    assert mappings.items() <= of_vendor["system_to_organization_mappings"].items()


@pytest.mark.parametrize("reports", [(STATES, PRESENCES), (FLOWS,)])
async def test_sdk_gets_the_vendors_answers(open_api, tmp_path, reports):
    async with open_api(*reports, api=KEYS, vendor={"agents": 12, "conversations_per_working_day": 300}) as api:
        api.start_worker()
        bodies = _bodies(list((await api.vendor.get("/simulator/directory")).json()["users"]))
        calls = [
            {"api": "AnalyticsApi", "method": "post_analytics_users_aggregates_query", "arguments": [body]}
            for body in bodies
        ]
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            of_vendor, cold = await call_by_sdk(tmp_path, [simulator(api), ours], calls)
            before = await count_requests(api)
            (warm,) = await call_by_sdk(tmp_path, [ours], calls)
            assert await count_requests(api) == before
    for body, expected, first, second in zip(bodies, of_vendor, cold, warm, strict=True):
        assert _in_order(first) == _in_order(expected), body
        assert first == second
        _check_mappings(first, expected, body)
        assert expected["results"]


async def test_sdk_gets_the_same_answers_by_job(open_api, tmp_path):
    async with open_api(
        STATES, PRESENCES, api=KEYS, vendor={"agents": 12, "conversations_per_working_day": 300}
    ) as api:
        api.start_worker()
        bodies = _bodies(list((await api.vendor.get("/simulator/directory")).json()["users"]))
        queries = [{"family": "users", "body": body} for body in (bodies[0], bodies[4])]
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            of_vendor, answers = await ask_by_sdk(tmp_path, [simulator(api), ours], queries, by_job=True)
    assert [_in_order(answer) for answer in answers] == [_in_order(answer) for answer in of_vendor]
    assert len(answers[0]["results"]) == 12


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"metrics": ["tSystemPresence", "tOrganizationPresence"]}, "metrics"),
        ({"metrics": ["nOffered"]}, "metrics"),
        ({"groupBy": ["userId", "organizationPresenceId"]}, "groupBy"),
        ({"groupBy": ["queueId"]}, "groupBy"),
    ],
)
async def test_query_that_cannot_be_answered_is_a_bad_request(open_api, changes, word):
    body = {"interval": _DAY, "granularity": "PT1H", "groupBy": ["userId"], "metrics": ["tSystemPresence"], **changes}
    async with open_api(FLOWS, api=ApiSettings(auth="keys")) as api:
        answer = await api.http.post(QUERY, json=body, headers=await create_key(api))
        assert await count_requests(api) == 0
    assert (answer.status_code, answer.json()["code"]) == (400, "bad.request")
    assert answer.json()["message"].startswith(word)
