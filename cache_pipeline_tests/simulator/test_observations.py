"""Tests of observations: they agree with the details of the same calls, and are strict about what they are asked."""

from typing import Any

import pytest
from pydantic import SecretStr

from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.simulator.genesys_observations import QUEUE_METRICS, USER_METRICS
from cache_pipeline_tests.simulator.vendor import CLIENT, SECRET, Vendor, open_vendor

QUEUES, USERS = (f"/api/v2/analytics/{name}/observations/query" for name in ("queues", "users"))


def _filter(dimension: str, *values: str) -> dict[str, Any]:
    return {"type": "or", "predicates": [{"dimension": dimension, "value": value} for value in values]}


def _queues(vendor: Vendor) -> list[str]:
    return list(vendor.http.get("/simulator/directory").json()["queues"])


def _observe(vendor: Vendor, metrics: Any = None, **changes: Any) -> dict[str, Any]:
    body = {"filter": _filter("queueId", *_queues(vendor)), "metrics": sorted(metrics or QUEUE_METRICS), **changes}
    answer = vendor.post(QUEUES, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _counts(results: list[dict[str, Any]], metric: str) -> dict[tuple[str, str | None], int]:
    return {
        (result["group"]["queueId"], result["group"].get("mediaType")): each["stats"]["count"]
        for result in results
        for each in result["data"]
        if each["metric"] == metric
    }


def test_placed_call_waits_and_is_then_answered() -> None:
    with open_vendor(SimulatorSettings(conversations_per_working_day=0, queues=2, agents=3)) as vendor:
        queue = _queues(vendor)[0]
        offered_ms = int(vendor.clock.seconds * 1000)
        assert vendor.http.post("/simulator/calls", json={"wait_seconds": 30, "talk_seconds": 60}).json() == {
            "queueId": queue
        }
        conversations = {"oWaiting", "oInteracting", "oLongestWaiting", "oLongestInteracting"}

        def seen(after: float) -> list[dict[str, Any]]:
            vendor.clock.seconds = offered_ms / 1000 + after
            return _observe(vendor, conversations).get("results", [])

        longest = {"metric": "oLongestWaiting", "stats": {"calculatedMetricValue": offered_ms}}
        waiting = [{"metric": "oWaiting", "stats": {"count": 1}}, longest]
        assert seen(29.9) == [{"group": {"queueId": queue, "mediaType": "voice"}, "data": waiting}]
        assert _counts(seen(30), "oInteracting") == {(queue, "voice"): 1}
        assert seen(90) == []
        assert vendor.http.post("/simulator/calls", json={"queue": 2}).status_code == 400


def test_counts_agree_with_the_details_of_the_same_calls() -> None:
    settings = SimulatorSettings(details_lag_seconds=0, watermark_lag_seconds=0, thread_share=0)
    with open_vendor(settings) as vendor:
        results = _observe(vendor)["results"]
        waiting = sum(_counts(results, "oWaiting").values())
        interacting = sum(_counts(results, "oInteracting").values())
        now = "2024-06-12T10:00:30.000Z"
        offered = sum(row["offered"] for row in vendor.truth(f"2024-06-11T00:00:00Z/{now}"))
        resolved = sum(row["resolved"] for row in vendor.truth(f"2024-06-11T00:00:00Z/{now}", fact="resolved"))
        earlier = _observe_at(vendor, -3600 * 34.0083333)
    assert waiting == offered - resolved + earlier > 0
    assert interacting > 0


def _observe_at(vendor: Vendor, seconds: float) -> int:
    vendor.clock.seconds += seconds
    vendor.login()
    return sum(_counts(_observe(vendor, {"oWaiting"}).get("results", []), "oWaiting").values())


def test_members_are_counted_once_in_each_state(shared_vendor: Vendor) -> None:
    answer = _observe(shared_vendor)
    presences = {id_ for ids in answer["systemToOrganizationMappings"].values() for id_ in ids}
    groups = [each for each in answer["results"] if "mediaType" not in each["group"]]
    assert len(groups) == len(_queues(shared_vendor))
    for group in groups:
        by_metric: dict[str, dict[str | None, int]] = {}
        for each in group["data"]:
            by_metric.setdefault(each["metric"], {})[each.get("qualifier")] = each["stats"]["count"]
        members = by_metric["oMemberUsers"][None]
        assert sum(by_metric["oUserPresences"].values()) == sum(by_metric["oUserRoutingStatuses"].values()) == members
        on_queue, off_queue = by_metric.get("oOnQueueUsers", {}), by_metric.get("oOffQueueUsers", {})
        assert sum(on_queue.values()) + sum(off_queue.values()) == members
        assert set(by_metric["oUserPresences"]) <= presences


def test_users_have_the_number_of_their_queues(shared_vendor: Vendor) -> None:
    users = list(shared_vendor.http.get("/simulator/directory").json()["users"])
    body = {"filter": _filter("userId", *users[:2]), "metrics": sorted(USER_METRICS)}
    results = shared_vendor.post(USERS, body).json()["results"]
    assert [each["group"] for each in results] == [{"userId": user} for user in users[:2]]
    assert all(each["data"][0]["stats"]["count"] > 0 for each in results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["oSleeping"]}, "oSleeping"),
        ({"metrics": []}, "metrics"),
        ({"detailMetrics": ["oWaiting"]}, "detailMetrics"),
        ({"interval": "2024-06-10/2024-06-11"}, "interval"),
        ({"filter": _filter("wrapUpCode", "x")}, "wrapUpCode"),
        ({"filter": _filter("queueId", *map(str, range(101)))}, "100 predicates"),
    ],
)
def test_wrong_query_is_a_400(shared_vendor: Vendor, change: dict[str, Any], message: str) -> None:
    answer = shared_vendor.post(QUEUES, {"filter": _filter("queueId", "x"), "metrics": ["oWaiting"], **change})
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_unknown_queue_has_no_results(shared_vendor: Vendor) -> None:
    assert "results" not in _observe(shared_vendor, filter=_filter("queueId", "nowhere"))


def test_missing_permission_is_a_403_that_names_it() -> None:
    settings = SimulatorSettings(clients={CLIENT: SecretStr(SECRET)}, client_permissions={CLIENT: frozenset()})
    with open_vendor(settings) as vendor:
        answers = [
            vendor.post(path, {"filter": _filter("queueId", "x"), "metrics": ["oWaiting"]}) for path in (QUEUES, USERS)
        ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert "analytics:queueObservation:view" in answers[0].json()["message"]
