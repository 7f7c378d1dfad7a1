"""Detail jobs at the vendor's paths: equal questions share one job of the vendor's, and no key sees or ends the job of another."""

import asyncio
import hashlib
import json
from typing import Any
from uuid import uuid4

import pytest

from cache_pipeline.errors import QueryError
from cache_pipeline.query.person import Person
from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.redis.personal_data import RedisPersonalData
from cache_pipeline.storage.redis.shared_answers import SHARED_PREFIX, RedisSharedAnswers
from cache_pipeline.vendors.genesys.served_details import SERVED_DETAILS
from cache_pipeline_tests.api.conftest import VendorClock
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_pass_through import ERROR_FIELDS
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_listings import call_by_sdk, simulator
from cache_pipeline_tests.api.test_vendor_paths import FLOWS, credentials

CONVERSATIONS = "/api/v2/analytics/conversations/details/jobs"
USERS = "/api/v2/analytics/users/details/jobs"
DETAILS = ApiSettings(auth="keys", detail_jobs=True)
VENDOR = {"conversations_per_working_day": 300, "details_lag_seconds": 0, "job_seconds_base": 0.3}
MONDAY = "2026-01-05T08:00:00.000Z/2026-01-05T11:00:00.000Z"


async def submits(api) -> int:
    return (await api.vendor.get("/simulator/counters")).json()["summary"]["submits"]


async def submit(api, key: dict[str, str], body: Any, path: str = CONVERSATIONS) -> str:
    answer = await api.http.post(path, json=body, headers=key)
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"jobId"}
    return f"{path}/{answer.json()['jobId']}"


async def wait(http, job: str, **options: Any) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            status = (await http.get(job, **options)).json()
            if status["state"] not in ("QUEUED", "PENDING"):
                return status
            await asyncio.sleep(0.1)


async def read_all(http, job: str, **options: Any) -> list[dict[str, Any]]:
    rows, cursor = [], {}
    while True:
        answer = await http.get(f"{job}/results", params={"pageSize": 20, **cursor}, **options)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page.get("conversations", page.get("userDetails", []))
        if "cursor" not in page:
            return rows
        cursor = {"cursor": page["cursor"]}


async def ask_the_vendor(api, path: str, body: Any) -> list[dict[str, Any]]:
    login = await api.vendor.post(
        "/oauth/token", data={"grant_type": "client_credentials"}, auth=("demo-client", "demo-secret")
    )
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
    job = f"{path}/{(await api.vendor.post(path, json=body, headers=headers)).json()['jobId']}"
    assert (await wait(api.vendor, job, headers=headers))["state"] == "FULFILLED"
    return await read_all(api.vendor, job, headers=headers)


async def test_equal_questions_share_one_job_with_the_vendors_rows(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._POLL_SECONDS", 1)
    matches = {"type": "dimension", "dimension": "mediaType", "operator": "matches", "value": "voice"}
    exists = {"dimension": "queueId", "operator": "exists"}
    body = {"interval": MONDAY, "segmentFilters": [{"type": "and", "predicates": [matches, exists]}]}
    same = {
        "interval": "2026-01-05T09:00:00+01:00/PT3H",
        "order": "asc",
        "orderBy": "conversationStart",
        "conversationFilters": None,
        "segmentFilters": [{"type": "and", "predicates": [exists, {**matches, "operator": None}], "clauses": []}],
    }
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        expected = await ask_the_vendor(api, CONVERSATIONS, body)
        keys = [await create_key(api) for _ in range(3)]
        before = await submits(api)
        jobs = await asyncio.gather(*(submit(api, key, each) for key in keys for each in (body, same)))
        assert await submits(api) == before + 1
        assert len(set(jobs)) == len(jobs)
        status = await wait(api.http, jobs[0], headers=keys[0])
        assert status["state"] == "FULFILLED"
        assert {"expirationDate", "submissionDate", "completionDate"} <= status.keys()
        requests = (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]
        pages = -(-len(expected) // 20)
        for number, job in enumerate(jobs):
            assert await read_all(api.http, job, headers=keys[number // 2]) == expected
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == requests + pages
        assert pages > 1
        assert "attributes" in json.dumps(expected)
        other = {**body, "order": "desc"}
        await submit(api, keys[0], other)
        assert await submits(api) == before + 2


async def test_users_details_and_availability_are_the_vendors(open_api, tmp_path):
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api, served(api.app) as url:
        body = {"interval": MONDAY}
        key = await create_key(api)
        job = await submit(api, key, body, USERS)
        await wait(api.http, job, headers=key)
        assert await read_all(api.http, job, headers=key) == await ask_the_vendor(api, USERS, body)
        login = await credentials(api)
        mine = await api.http.post(
            "/oauth/token",
            data={"grant_type": "client_credentials", "client_id": login["id"], "client_secret": login["secret"]},
        )
        headers = {"Authorization": f"Bearer {mine.json()['access_token']}"}
        own = (await submit(api, headers, body, USERS)).rpartition("/")[2]
        calls = [
            {"api": "AnalyticsApi", "method": "get_analytics_users_details_jobs_availability"},
            {"api": "AnalyticsApi", "method": "get_analytics_users_details_job_results", "arguments": [own]},
        ]
        (ours,) = await call_by_sdk(tmp_path, [{"url": url, **login}], calls)
        (theirs,) = await call_by_sdk(tmp_path, [simulator(api)], calls[:1])
        assert ours[0].keys() == theirs[0].keys() == {"data_availability_date"}
        assert ours[1]["user_details"]


async def test_job_is_of_its_key_alone(open_api):
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        body = {"interval": MONDAY}
        first, second = await create_key(api), await create_key(api)
        job, other = await submit(api, first, body), await submit(api, second, body)
        for method, path in (("GET", job), ("GET", f"{job}/results"), ("DELETE", job)):
            answer = await api.http.request(method, path, headers=second)
            assert (answer.status_code, set(answer.json())) == (404, ERROR_FIELDS)
        assert (await api.http.delete(job, headers=first)).status_code == 204
        assert (await api.http.get(job, headers=first)).status_code == 404
        # The deleted id was one of two of the same job.
        assert (await wait(api.http, other, headers=second))["state"] == "FULFILLED"
        assert await read_all(api.http, other, headers=second)


async def test_keys_that_are_limited_get_no_details(open_api):
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        body = {"interval": MONDAY}
        before = (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]
        limits: list[dict[str, Any]] = [
            {"reports": ["flow_hour"]},
            {"queries": frozenset({"flows"})},
            {"divisions": frozenset({"a"})},
            {"tenant": "theirs"},
        ]
        job = f"{CONVERSATIONS}/{uuid4()}"
        for changes in limits:
            key = await create_key(api, **changes)
            for method, path in (
                ("POST", CONVERSATIONS),
                ("GET", f"{CONVERSATIONS}/availability"),
                ("POST", USERS),
                ("GET", job),
                ("GET", f"{job}/results"),
                ("DELETE", job),
            ):
                answer = await api.http.request(method, path, json=body, headers=key)
                assert (answer.status_code, set(answer.json())) == (403, ERROR_FIELDS), changes
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == before
        may = await create_key(api, queries=frozenset({"conversations"}))
        await submit(api, may, body)
        assert (await api.http.post(USERS, json=body, headers=may)).status_code == 403


async def test_job_is_followed_to_its_end_though_no_caller_asks(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._POLL_SECONDS", 1)
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._FOLLOW_SECONDS", 0.1)
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        key = await create_key(api)
        job = await submit(api, key, {"interval": MONDAY})
        async with asyncio.timeout(10):
            await asyncio.gather(*api.query_service.coalescer._background.values())
        requests = (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]
        assert (await api.http.get(job, headers=key)).json()["state"] == "FULFILLED"
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == requests


async def test_job_that_does_not_end_is_not_followed_for_ever(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._FOLLOW_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._FOLLOWED_SECONDS", 1.0)
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR | {"job_seconds_base": 3600}) as api:
        key = await create_key(api)
        job = await submit(api, key, {"interval": MONDAY})
        async with asyncio.timeout(20):
            await asyncio.gather(*api.query_service.coalescer._background.values())
        assert (await api.http.get(job, headers=key)).json()["state"] in ("QUEUED", "PENDING")


async def test_job_needs_no_permission_for_the_availability(open_api):
    permissions = {"client_permissions": {"demo-client": ["analytics:agentConversationDetail:view"]}}
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR | permissions) as api:
        key = await create_key(api)
        job = await submit(api, key, {"interval": MONDAY})
        assert (await wait(api.http, job, headers=key))["state"] == "FULFILLED"
        refused = await api.http.get(f"{CONVERSATIONS}/availability", headers=key)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing.any.permissions")
        users = await api.http.post(USERS, json={"interval": MONDAY}, headers=key)
        assert "analytics:userDetail:view" in users.json()["message"]


async def test_failed_job_is_told_and_not_shared_again(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.routes.vendor_shared_jobs._POLL_SECONDS", 1)
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 1})
        key = await create_key(api)
        job = await submit(api, key, {"interval": MONDAY})
        status = await wait(api.http, job, headers=key)
        assert status["state"] == "FAILED"
        assert status["errorMessage"]
        results = await api.http.get(f"{job}/results", headers=key)
        assert (results.status_code, set(results.json()) >= ERROR_FIELDS) == (400, True)
        again = await submit(api, key, {"interval": MONDAY})
        assert (await wait(api.http, again, headers=key))["state"] == "FULFILLED"
        assert await submits(api) == 2


async def test_later_data_of_the_vendor_needs_a_new_job(open_api):
    class Clock:
        """The vendor's clock, which can be set forward."""

        def __init__(self, inner: Any) -> None:
            self.inner, self.ahead = inner, 0.0

        def now(self) -> float:
            return self.inner.now() + self.ahead

    clock = Clock(VendorClock())
    past, today = {"interval": MONDAY}, {"interval": "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z"}
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR, clock=clock) as api:
        key = await create_key(api)
        for body in (past, today):
            await submit(api, key, body)
        clock.ahead = 3600.0
        await api.query_service.shared_answers.store.remove(_availability_key(api))
        assert await submits(api) == 2
        for body in (past, today):
            await submit(api, key, body)
        assert await submits(api) == 3, "Monday is complete, today is not"


def _availability_key(api) -> str:
    parts = [api.settings.tenant, "genesys/main", f"availability {CONVERSATIONS}/availability"]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"interval": "yesterday"},
        {"interval": MONDAY, "paging": {"pageSize": 1}},
        {"interval": MONDAY, "order": "up"},
        {"interval": MONDAY, "limit": 0},
        {"interval": MONDAY, "limit": True},
        {"interval": MONDAY, "startOfDayIntervalMatching": "yes"},
        {"interval": MONDAY, "segmentFilters": {}},
        {"interval": MONDAY, "segmentFilters": [{"type": "and"}]},
        {"interval": MONDAY, "segmentFilters": [{"predicates": [{"dimension": "queueId"}]}]},
        {"interval": MONDAY, "segmentFilters": [{"type": "and", "predicates": [{"dimension": "a", "value": 1}]}]},
        {"interval": MONDAY, "segmentFilters": [{"type": "and", "predicates": [{"range": {"gte": []}}]}]},
        {"interval": MONDAY, "segmentFilters": [{"type": "and", "clauses": [{"type": "and", "clauses": []}]}]},
    ],
)
def test_question_without_the_vendors_form_is_refused(body):
    with pytest.raises(QueryError):
        SERVED_DETAILS[0].read(body)


async def test_refusals_of_the_vendor_are_passed_on_and_malformed_requests_reach_nothing(open_api):
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        key = await create_key(api)
        for body in (b"{", b"[]", b"{}", json.dumps({"interval": MONDAY, "x": 1}).encode()):
            answer = await api.http.post(CONVERSATIONS, content=body, headers=key)
            assert (answer.status_code, set(answer.json())) == (400, ERROR_FIELDS)
        assert (await api.http.get(f"{CONVERSATIONS}/../users", headers=key)).status_code == 404
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == 0
        job = await submit(api, key, {"interval": MONDAY})
        await wait(api.http, job, headers=key)
        before = (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]
        for query in (
            "pageSize=0",
            "pageSize=1001",
            "pageSize=%C2%B2",
            "cursor=a&cursor=b",
            "x=1",
            "cursor=" + "a" * 3000,
        ):
            answer = await api.http.get(f"{job}/results?{query}", headers=key)
            assert (answer.status_code, set(answer.json())) == (400, ERROR_FIELDS), query
        assert (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"] == before
        unknown = {
            "interval": MONDAY,
            "segmentFilters": [{"type": "and", "predicates": [{"dimension": "nothing", "value": "1"}]}],
        }
        refused = await api.http.post(CONVERSATIONS, json=unknown, headers=key)
        assert refused.status_code == 400
        assert "nothing" in refused.json()["message"]


async def test_forgetting_a_person_deletes_every_kept_page(open_api):
    async with open_api(FLOWS, api=DETAILS, vendor=VENDOR) as api:
        key = await create_key(api)
        job = await submit(api, key, {"interval": MONDAY})
        await wait(api.http, job, headers=key)
        assert await read_all(api.http, job, headers=key)
        kept = [each async for each in api.redis.scan_iter(f"{SHARED_PREFIX}*")]
        assert len(kept) > 3
        ages = [await api.redis.ttl(each) for each in kept if not each.endswith(b"sizes")]
        assert all(0 < age <= 6 * 3600 for age in ages)
        erasures = [each async for each in RedisPersonalData(api.redis).forget(Person("nobody-4711"))]
        assert [each async for each in api.redis.scan_iter(f"{SHARED_PREFIX}*")] == []
        assert sum(each.removed for each in erasures) >= len(kept)


async def test_kept_answers_are_bounded_in_all(open_api):
    async with open_api(FLOWS) as api:
        store = RedisSharedAnswers(api.redis, max_bytes=50)
        for number in range(10):
            await store.put(str(number), b"x" * 10, 60)
        kept = [await store.get(str(number)) for number in range(10)]
        assert 1 <= len([each for each in kept if each is not None]) <= 4
        assert kept[0] == b"x" * 10
