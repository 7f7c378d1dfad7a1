"""What a key is limited to holds for every way in: divisions as a filter, query types, and paths."""

from collections import Counter
from typing import Any

import pytest

from cache_pipeline.path_patterns import PathPattern
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_pass_through import ERROR_FIELDS, GENESYS, LIMITS
from cache_pipeline_tests.api.test_vendor_paths import BODY, BY_QUEUE, FLOWS, JOBS, KEYS, PATH, matches
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.vendors.genesys.test_observations import live_report

BY_DIVISION = declared(
    name="division_half_hour",
    platform="genesys",
    delivery="sync",
    query_type="conversations",
    granularity="PT30M",
    group_by=["queueId", "mediaType", "divisionId"],
    metrics=["nOffered", "tHandle"],
    volume_metric="nOffered",
    start="2025-01-01",
    time_zone="UTC",
    expected_groups=None,
)
DAY = "2026-01-05/2026-01-06"
VENDOR = {"conversations_per_working_day": 600}


def totals(answer: Any) -> Counter[str]:
    """Return the conversations offered by queue, of an answer in the vendor's form."""
    found = Counter[str]()
    document = answer.json()
    for result in document.get("results", ()):
        for bucket in result["data"]:
            for metric in bucket["metrics"]:
                if metric["metric"] == "nOffered":
                    found[result["group"].get("queueId", "")] += metric["stats"]["count"]
    return found


async def divisions_of(api) -> list[str]:
    return sorted((await api.vendor.get("/simulator/directory")).json()["divisions"])


async def post(api, path: str, body: Any, key: dict[str, str]) -> Any:
    answer = await api.http.post(path, json=body, headers=key)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("reports", [(BY_DIVISION, FLOWS), (BY_QUEUE, FLOWS)], ids=["declared", "ad hoc"])
async def test_key_sees_its_divisions_alone_at_the_vendors_paths(open_api, reports):
    async with open_api(*reports, api=KEYS, vendor=VENDOR) as api:
        api.start_worker()
        one, two = await divisions_of(api)
        every, first, second = [
            await create_key(api, divisions=each) for each in (None, frozenset({one}), frozenset({two}))
        ]
        for _ in range(2):
            # Cold, and from what was rendered for the other keys.
            whole, ours, theirs = [totals(await post(api, PATH, BODY, key)) for key in (every, first, second)]
            assert ours
            assert theirs
            assert not ours.keys() & theirs.keys(), "a queue is of one division"
            assert ours + theirs == whole
        queue = next(iter(theirs))
        escapes = [
            {"type": "or", "predicates": [matches("divisionId", two), matches("divisionId", one)]},
            {"type": "or", "predicates": [matches("divisionId", one), {"dimension": "queueId", "operator": "exists"}]},
            {"type": "and", "predicates": [{"dimension": "divisionId", "operator": "exists"}]},
            {
                "type": "or",
                "clauses": [
                    {"type": "and", "predicates": [matches("queueId", queue)]},
                    {"type": "and", "predicates": [matches("divisionId", one)]},
                ],
            },
        ]
        for escape in escapes:
            answer = await api.http.post(PATH, json={**BODY, "filter": escape}, headers=first)
            if answer.status_code == 200:
                assert totals(answer) == ours
            else:
                # Of alternatives in different dimensions an ad hoc series has none.
                assert (answer.status_code, set(answer.json())) == (400, ERROR_FIELDS)
        refused = await api.http.post(
            PATH, json={**BODY, "filter": {"type": "and", "predicates": [matches("divisionId", two)]}}, headers=first
        )
        assert (refused.status_code, set(refused.json())) == (400, ERROR_FIELDS)
        hidden = {**BODY, "filter": {"type": "and", "predicates": [matches("queueId", queue)]}}
        assert totals(await post(api, PATH, hidden, first)) == Counter()
        job = (await api.http.post(JOBS, json=BODY, headers=first)).json()["jobId"]
        results = await api.http.get(f"{JOBS}/{job}/results", headers=first)
        assert totals(results) == ours
        assert (await api.http.get(f"{JOBS}/{job}/results", headers=every)).status_code == 404


async def test_what_does_not_name_divisions_is_closed_to_a_key_with_divisions(open_api):
    async with open_api(
        BY_DIVISION, BY_QUEUE, api=KEYS, vendor=VENDOR, live=[live_report()], account_changes=GENESYS
    ) as api:
        api.start_worker()
        one, _ = await divisions_of(api)
        every, ours = await create_key(api), await create_key(api, divisions=frozenset({one}))
        # The URL was parsed, and its answer is stored, for another key.
        for name in ("division_half_hour", "queue_half_hour"):
            url = f"/v1/reports/{name}?interval={DAY}"
            assert (await api.http.get(url, headers=every | {"Prefer": "wait=20"})).status_code == 200
            assert (await api.http.get(url, headers=ours)).status_code == 403
            assert (await api.http.post(url.partition("?")[0], json={"interval": DAY}, headers=ours)).status_code == 403
        for path in ("/v1/reports/queue_now", "/v1/live/queue_now/events"):
            assert (await api.http.get(path, headers=ours)).status_code == 403
        assert (await api.http.post("/v1/queries", json=BODY, headers=ours)).status_code in (400, 404, 422)
        listed = (await api.http.get("/v1/reports", headers=ours)).json()
        assert listed["reports"] == []
        assert (await api.http.get("/v1/live", headers=ours)).json()["boards"] == []
        location = (
            await api.http.get("/v1/reports/queue_half_hour?interval=2026-01-03/2026-01-04", headers=every)
        ).headers["Location"]
        assert (await api.http.get(location, headers=ours)).status_code == 404
        for path in ("/api/v2/routing/queues", "/api/v2/users", f"{LIMITS}/platform.api"):
            answer = await api.http.get(path, headers=ours)
            assert (answer.status_code, set(answer.json())) == (403, ERROR_FIELDS), path
            assert (await api.http.get(path, headers=every)).status_code == 200


async def test_key_with_divisions_lists_those_alone(open_api):
    async with open_api(BY_DIVISION, api=KEYS) as api:
        one, two = await divisions_of(api)
        ours, every = await create_key(api, divisions=frozenset({one, "elsewhere"})), await create_key(api)
        path = "/api/v2/authorization/divisions"
        for parameters, expected in (({}, [one]), ({"id": f"{one},{two}"}, [one]), ({"id": two}, [])):
            answer = await api.http.get(path, params=parameters, headers=ours)
            assert [each["id"] for each in answer.json()["entities"]] == expected
            assert answer.json()["total"] == len(expected)
        assert (await api.http.get(path, headers=every)).json()["total"] == 2


async def test_report_with_a_filter_of_its_own_shows_its_divisions_only_to_keys_for_all_of_them(open_api):
    fields = BY_QUEUE.model_dump(exclude={"name", "filters"}, exclude_unset=True)
    two = type(BY_QUEUE).model_validate(
        {
            **fields,
            "name": "two_divisions",
            "filters": {"predicates": [{"dimension": "divisionId", "values": ["a", "b"]}]},
        }
    )
    async with open_api(two, api=KEYS) as api:
        url = f"/v1/reports/two_divisions?interval={DAY}"
        assert (await api.http.get(url, headers=await create_key(api, divisions=frozenset("abc")))).status_code == 202
        for divisions in ("a", "bc", "c"):
            answer = await api.http.get(url, headers=await create_key(api, divisions=frozenset(divisions)))
            assert answer.status_code == 403, answer.text


async def test_key_asks_for_its_query_types_alone(open_api):
    async with open_api(BY_QUEUE, FLOWS, api=KEYS, account_changes=GENESYS) as api:
        api.start_worker()
        key = await create_key(api, queries=frozenset({"flows"}))
        flows = {**BODY, "groupBy": ["flowId"], "metrics": ["nFlow"]}
        await post(api, "/api/v2/analytics/flows/aggregates/query", flows, key)
        # Declared, ad hoc, and by job.
        for path, body in ((PATH, BODY), (PATH, {**BODY, "metrics": ["nTransferred"]}), (JOBS, BODY)):
            answer = await api.http.post(path, json=body, headers=key)
            assert (answer.status_code, set(answer.json())) == (403, ERROR_FIELDS)
        assert (await api.http.get(f"/v1/reports/queue_half_hour?interval={DAY}", headers=key)).status_code == 403
        assert (await api.http.get(f"{LIMITS}/platform.api", headers=key)).status_code == 403
        assert [each["name"] for each in (await api.http.get("/v1/reports", headers=key)).json()["reports"]] == [
            "flow_hour"
        ]


async def test_key_uses_its_paths_alone(open_api):
    async with open_api(BY_QUEUE, api=KEYS) as api:
        api.start_worker()
        key = await create_key(api, paths=(PathPattern.parse(f"POST {PATH}"),))
        await post(api, PATH, BODY, key)
        for method, path in (
            ("POST", JOBS),
            ("POST", PATH.replace("conversations", "flows")),
            ("GET", f"/v1/reports/queue_half_hour?interval={DAY}"),
            ("GET", "/v1/reports"),
            ("GET", "/v1/live"),
            ("GET", "/v1/quota"),
        ):
            assert (await api.http.request(method, path, json={}, headers=key)).status_code == 403, path
        escaped = await api.http.post(PATH.replace("query", "%71uery"), json=BODY, headers=key)
        assert escaped.status_code == 404
