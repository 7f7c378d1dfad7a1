"""The vendor's own paths: its SDK, unmodified, gets the same answers from us as from the vendor."""

import asyncio
import base64
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.postgres.async_pool import connect
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.query.declared import declared

PROGRAM = Path(__file__).with_name("sdk_corpus.py")
PATH = "/api/v2/analytics/conversations/aggregates/query"
KEYS = ApiSettings(auth="keys")
_COMMON = {
    "platform": "genesys",
    "delivery": "sync",
    "start": "2025-01-01",
    "time_zone": "UTC",
    "expected_groups": None,
}
BY_QUEUE = declared(
    **_COMMON,
    name="queue_half_hour",
    query_type="conversations",
    granularity="PT30M",
    group_by=["queueId", "mediaType"],
    metrics=["nOffered", "nConnected", "tHandle", "tAnswered", "tAbandon", "tWait", "oServiceLevel", "oServiceTarget"],
    volume_metric="nOffered",
)
BY_USER = declared(
    **_COMMON,
    name="user_hour",
    query_type="conversations",
    granularity="PT1H",
    group_by=["queueId", "mediaType", "userId"],
    metrics=["nConnected", "tHandle", "tTalk", "tAcw"],
    volume_metric="nConnected",
)
FLOWS = declared(
    **_COMMON,
    name="flow_hour",
    query_type="flows",
    granularity="PT1H",
    group_by=["flowId", "mediaType"],
    metrics=["nFlow", "tFlow"],
    volume_metric="nFlow",
)
REPORTS = (BY_QUEUE, BY_USER, FLOWS)
BODY = {
    "interval": "2026-01-05T00:00:00.000Z/2026-01-06T00:00:00.000Z",
    "granularity": "PT1H",
    "groupBy": ["queueId"],
    "metrics": ["nOffered", "tHandle"],
}
_INTERVALS = {
    "PT30M": ["2026-01-05T08:00:00.000Z/2026-01-05T12:00:00.000Z", "2026-01-04T00:00:00.000Z/2026-01-05T00:00:00.000Z"],
    "PT1H": [
        "2026-01-05T00:00:00.000Z/2026-01-06T00:00:00.000Z",
        "2026-01-05T09:00:00+01:00/2026-01-05T18:00:00+01:00",
    ],
    "P1D": ["2026-01-03T00:00:00.000Z/2026-01-06T00:00:00.000Z"],
    None: ["2026-01-05T00:00:00.000Z/2026-01-06T00:00:00.000Z", "2026-01-04T06:00:00.000Z/2026-01-05T18:00:00.000Z"],
}


def query_corpus(queues: list[str], count: int) -> list[dict[str, Any]]:
    """Return `count` different queries that the reports hold, always the same ones."""
    chance = random.Random(7)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        family, report = chance.choice([("conversations", BY_QUEUE), ("conversations", BY_USER), ("flows", FLOWS)])
        granularity = chance.choice([None, "P1D", "PT1H"] if report is not BY_QUEUE else list(_INTERVALS))
        metrics = chance.sample(report.metrics, chance.randint(1, len(report.metrics)))
        body: dict[str, Any] = {"interval": chance.choice(_INTERVALS[granularity]), "metrics": metrics}
        if granularity:
            body["granularity"] = granularity
        if groups := chance.sample(report.group_by, chance.randint(0, len(report.group_by))):
            body["groupBy"] = groups
        if chance.random() < 0.2 and granularity in ("PT30M", "PT1H"):
            body["timeZone"] = "Europe/Berlin"
        if family == "conversations" and chance.random() < 0.5:
            body["filter"] = _filter(chance, queues)
        found.setdefault(json.dumps([family, body], sort_keys=True), {"family": family, "body": body})
    return list(found.values())


def matches(dimension: str, value: str) -> dict[str, str]:
    """Return the vendor's predicate of one dimension."""
    return {"type": "dimension", "dimension": dimension, "operator": "matches", "value": value}


def _filter(chance: random.Random, queues: list[str]) -> dict[str, Any]:
    some = [matches("queueId", queue) for queue in chance.sample(queues, 2)]
    media = matches("mediaType", chance.choice(["voice", "chat", "email"]))
    return chance.choice(
        [
            {"type": "or", "predicates": some},
            {"type": "and", "predicates": [media]},
            {"type": "and", "clauses": [{"type": "or", "predicates": some}, {"type": "and", "predicates": [media]}]},
            {"type": "and", "predicates": [{"dimension": "queueId", "operator": "exists"}]},
        ]
    )


async def ask_by_sdk(
    home: Path, hosts: list[dict[str, str]], queries: list[dict[str, Any]], *, by_job: bool = False
) -> list[list[Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", str(PROGRAM)),
        env={**os.environ, "HOME": str(home)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(
        json.dumps({"hosts": hosts, "queries": queries, "by_job": by_job}).encode()
    )
    assert process.returncode == 0, errors.decode()
    return json.loads(output.decode().splitlines()[-1])


def buckets_by_group(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the buckets of an answer by group: the vendor documents no order of groups."""
    return {json.dumps(result["group"], sort_keys=True): result["data"] for result in answer["results"]}


async def credentials(api, **changes: Any) -> dict[str, str]:
    prefix, key_id, secret = (await create_key(api, **changes))["Authorization"].split()[1].split("_", 2)
    return {"id": f"{prefix}_{key_id}", "secret": secret}


def simulator(api) -> dict[str, str]:
    """Return how a program reaches the simulated vendor itself."""
    return {"url": str(api.vendor.base_url), "id": "demo-client", "secret": "demo-secret"}


async def test_sdk_gets_the_vendors_answers_from_us(open_api, tmp_path):
    async with open_api(*REPORTS, api=KEYS, vendor={"conversations_per_working_day": 1500}) as api:
        api.start_worker()
        queues = list((await api.vendor.get("/simulator/directory")).json()["queues"])
        queries = query_corpus(queues, 80)
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            of_vendor, cold, warm = await ask_by_sdk(tmp_path, [simulator(api), ours, ours], queries)
    assert [buckets_by_group(answer) for answer in cold] == [buckets_by_group(answer) for answer in of_vendor]
    assert [buckets_by_group(answer) for answer in warm] == [buckets_by_group(answer) for answer in of_vendor]
    assert sum(bool(answer["results"]) for answer in of_vendor) > 60


async def test_sdk_gets_the_same_answers_by_job(open_api, tmp_path):
    async with open_api(*REPORTS, api=KEYS, vendor={"conversations_per_working_day": 600}) as api:
        api.start_worker()
        queues = list((await api.vendor.get("/simulator/directory")).json()["queues"])
        queries = query_corpus(queues, 20)
        async with served(api.app) as url:
            ours = {"url": url, **await credentials(api)}
            of_vendor, cold, warm = await ask_by_sdk(tmp_path, [simulator(api), ours, ours], queries, by_job=True)
        left = await read_table(api, "SELECT count(*) AS count FROM cache_pipeline_state.submitted_query")
    assert [buckets_by_group(answer) for answer in cold] == [buckets_by_group(answer) for answer in of_vendor]
    assert [buckets_by_group(answer) for answer in warm] == [buckets_by_group(answer) for answer in of_vendor]
    assert max(len(answer["results"]) for answer in cold) > 6
    assert left == [{"count": 0}]


async def read_table(api, statement: str) -> list[dict[str, Any]]:
    async with connect(api.query_service.api_keys._store._pool) as connection:
        return await (await connection.execute(statement)).fetchall()


JOBS = "/api/v2/analytics/conversations/aggregates/jobs"


async def test_job_is_followed_from_submit_to_delete(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        headers = await create_key(api)
        submitted = await api.http.post(JOBS, json=BODY | {"pageSize": 2}, headers=headers)
        job = f"{JOBS}/{submitted.json()['jobId']}"
        assert (submitted.status_code, list(submitted.json())) == (202, ["jobId"])
        status = (await api.http.get(job, headers=headers)).json()
        assert status["state"] == "QUEUED"
        assert set(status) == {"state", "submissionDate", "expirationDate"}
        early = await api.http.get(f"{job}/results", headers=headers)
        assert (early.status_code, early.json()["code"]) == (400, "bad.request")
        api.start_worker()
        while status["state"] in ("QUEUED", "PENDING"):
            status = (await api.http.get(job, headers=headers)).json()
            await asyncio.sleep(0.02)
        assert status["state"] == "FULFILLED"
        assert status["submissionDate"] <= status["completionDate"] < status["expirationDate"]
        first = (await api.http.get(f"{job}/results", headers=headers)).json()
        second = (await api.http.get(f"{job}/results", params={"cursor": first["cursor"]}, headers=headers)).json()
        assert first["results"] != second["results"]
        wrong = await api.http.get(f"{job}/results", params={"cursor": "nonsense"}, headers=headers)
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad.request")
        assert (await api.http.delete(job, headers=headers)).status_code == 204
        gone = await api.http.get(job, headers=headers)
        assert (gone.status_code, gone.json()["code"]) == (404, "not.found")


async def test_pages_are_of_one_answer(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        api.start_worker()
        headers = await create_key(api)
        assert (await api.http.post(PATH, json=BODY, headers=headers)).status_code == 200
        submitted = await api.http.post(JOBS, json=BODY | {"pageSize": 2}, headers=headers)
        results = f"{JOBS}/{submitted.json()['jobId']}/results"
        page = (await api.http.get(results, headers=headers)).json()
        # What history holds changes while the pages are read.
        await read_table(api, "UPDATE history.queue_half_hour SET n_offered = 9999 RETURNING series")
        await api.redis.flushdb()
        while "cursor" in page:
            page = (await api.http.get(results, params={"cursor": page["cursor"]}, headers=headers)).json()
            assert "9999" not in json.dumps(page)


async def test_job_is_known_to_its_key_alone(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        job = f"{JOBS}/{(await api.http.post(JOBS, json=BODY, headers=ours)).json()['jobId']}"
        other_path = job.replace("conversations", "flows")
        requests = [("GET", job), ("GET", f"{job}/results"), ("DELETE", job)]
        for method, path, headers in [*((*request, theirs) for request in requests), ("GET", other_path, ours)]:
            answer = await api.http.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
        for name in ("no-uuid", "x" * 500, "%00"):
            assert (await api.http.get(f"{JOBS}/{name}", headers=ours)).status_code == 404
        assert (await api.http.get(job, headers=ours)).json()["state"] == "QUEUED"
        for size in (0, 1001, "2", True):
            assert (await api.http.post(JOBS, json=BODY | {"pageSize": size}, headers=ours)).status_code == 400


async def count_requests(api) -> int:
    return (await api.vendor.get("/simulator/counters")).json()["summary"]["requests"]


async def _log_in(api, login: dict[str, str]) -> dict[str, str]:
    basic = base64.b64encode(f"{login['id']}:{login['secret']}".encode()).decode()
    answer = await api.http.post(
        "/oauth/token", data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {basic}"}
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("bearer", 86_400)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def test_answer_says_how_complete_and_old_it_is(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        api.start_worker()
        headers = await _log_in(api, await credentials(api))
        cold = await api.http.post(PATH, json=BODY, headers=headers)
        warm = await api.http.post(PATH, json=BODY, headers=headers)
    assert cold.status_code == warm.status_code == 200
    assert cold.json() == warm.json()
    assert "fwd=miss; stored" in cold.headers["Cache-Status"]
    assert "hit" in warm.headers["Cache-Status"]
    for answer in (cold, warm):
        assert answer.headers["Complete-Through"].startswith("2026-01-0")
        assert int(answer.headers["Age"]) < 60
        assert answer.headers["ININ-Correlation-Id"] == answer.headers["X-Request-ID"]
        assert answer.headers["Content-Type"] == "application/json"


async def test_group_is_split_by_medium_and_empties_are_left_out(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        api.start_worker()
        answer = await api.http.post(PATH, json=BODY | {"groupBy": []}, headers=await create_key(api))
    results = answer.json()["results"]
    assert results
    for result in results:
        assert set(result["group"]) == {"mediaType"}
        assert [bucket["interval"] for bucket in result["data"]] == sorted(
            bucket["interval"] for bucket in result["data"]
        )
        for bucket in result["data"]:
            assert bucket["metrics"]
            assert all(entry["stats"]["count"] for entry in bucket["metrics"])


async def test_query_that_takes_longer_is_refused_as_under_load(open_api):
    settings = ApiSettings(auth="keys", vendor_hold_seconds=0)
    async with open_api(*REPORTS, api=settings) as api:
        answer = await api.http.post(PATH, json=BODY, headers=await create_key(api))
    assert answer.status_code == 429
    assert answer.json()["code"] == "too.many.requests.retry.after"
    assert answer.json()["message"] == (
        f"Rate limit exceeded the maximum. Retry the request in [{answer.headers['Retry-After']}] seconds"
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", PATH, b"{", 400, "bad.request"),
        ("POST", PATH, b"[" * 60_000, 400, "bad.request"),
        ("POST", PATH, b"[]", 400, "bad.request"),
        ("POST", PATH, b"x" * 70_000, 413, "request.entity.too.large"),
        ("POST", PATH, json.dumps(BODY | {"metrics": []}).encode(), 400, "bad.request"),
        ("POST", PATH, json.dumps(BODY | {"views": [{}]}).encode(), 400, "bad.request"),
        ("POST", PATH, json.dumps(BODY | {"interval": "yesterday"}).encode(), 400, "bad.request"),
        ("GET", PATH, b"", 405, "method.not.allowed"),
        ("POST", "/api/v2/analytics/nonsense/aggregates/query", b"{}", 404, "not.found"),
        ("DELETE", "/api/v2/routing/queues/q1", b"", 404, "not.found"),
        ("POST", "/api/v2/analytics/conversations/aggregates/../../../v1/queries", b"{}", 404, "not.found"),
        ("POST", "/api/v2/analytics/conversations%2Faggregates/query%00", b"{}", 404, "not.found"),
    ],
)
async def test_refusal_is_the_vendors_error_body(open_api, method, path, body, status, code):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.request(method, path, content=body, headers=await create_key(api))
        assert await count_requests(api) == 0
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json() | {"message": ""} == {
        "message": "",
        "code": code,
        "status": status,
        "contextId": answer.headers["ININ-Correlation-Id"],
        "details": [],
        "errors": [],
    }


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", "/api/v2/analytics/conversations/details/jobs", "participants"),
        ("GET", "/api/v2/analytics/conversations/details/jobs/availability", "participants"),
        ("POST", "/api/v2/analytics/users/details/jobs", "lasted from before"),
        ("POST", "/api/v2/analytics/surveys/aggregates/query", "time of their events"),
    ],
)
async def test_refusal_says_why_stored_rows_cannot_answer(open_api, method, path, word):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.request(method, path, json=BODY, headers=await create_key(api))
        assert await count_requests(api) == 0
    assert (answer.status_code, answer.json()["code"]) == (404, "not.found")
    assert word in answer.json()["message"]
    assert "/v1/reports/" in answer.json()["message"]


_TEXTS = st.text(max_size=20) | st.sampled_from(["PT1H", "queueId", "nOffered", "and", "matches", BODY["interval"]])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)
_BODIES = (
    st.builds(
        lambda changes: {**BODY, **changes},
        st.dictionaries(
            st.sampled_from([*BODY, "filter", "timeZone", "views", "limit", "pageSize"]), _VALUES, min_size=1
        ),
    )
    | _VALUES
)


async def test_arbitrary_body_is_answered_in_the_vendors_form(open_api):
    settings = ApiSettings(auth="keys", vendor_hold_seconds=0)
    async with open_api(*REPORTS, api=settings) as api:
        headers = await create_key(api, requests_per_minute=100_000)
        loop = asyncio.get_running_loop()

        @hypothesis.settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(_BODIES, st.sampled_from([PATH, JOBS]))
        def send(body: Any, path: str) -> None:
            request = api.http.post(path, content=json.dumps(body), headers=headers)
            answer = asyncio.run_coroutine_threadsafe(request, loop).result(30)
            assert answer.status_code in (202, 400, 404, 429), answer.text
            if answer.status_code != 202:
                assert set(answer.json()) == {"message", "code", "status", "contextId", "details", "errors"}

        await asyncio.to_thread(send)
        assert await count_requests(api) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer cpt_x\tX-Injected: 1"},
        {"X-Request-ID": "a\tX-Injected: 1"},
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
    ],
)
async def test_injected_headers_are_not_repeated(open_api, headers):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.post(PATH, json=BODY, headers=headers)
    assert answer.status_code == 401
    assert "x-injected" not in answer.headers
    assert "X-Injected" not in json.dumps(dict(answer.headers)) + answer.text


async def test_request_without_key_is_refused_in_the_vendors_form(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.post(PATH, json=BODY, headers={"Authorization": "Bearer cpt_" + "x" * 43})
    assert (answer.status_code, answer.json()["code"]) == (401, "bad.credentials")


async def test_token_permits_what_its_key_permits_until_that_is_revoked(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        api.start_worker()
        login = await credentials(api, reports=["flow_hour"])
        headers = await _log_in(api, login)
        refused = await api.http.post(PATH, json=BODY, headers=headers)
        assert refused.status_code == 404
        flows = {**BODY, "groupBy": ["flowId"], "metrics": ["nFlow"]}
        path = "/api/v2/analytics/flows/aggregates/query"
        assert (await api.http.post(path, json=flows, headers=headers)).status_code == 200
        assert (await api.http.get("/v1/reports", headers=headers)).json()["reports"][0]["name"] == "flow_hour"
        keys = api.query_service.api_keys
        await keys._store.revoke(login["id"].partition("_")[2])
        keys._valid.clear()
        assert (await api.http.post(path, json=flows, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "unsupported_grant_type"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "client_id": "cp_0", "client_secret": "é"}, 401, "invalid_client"),
        ({"grant_type": ["client_credentials", "password"]}, 400, "invalid_request"),
    ],
)
async def test_login_is_refused_as_oauth_says(open_api, form, status, error):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.post("/oauth/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["description"] == answer.json()["error_description"]


async def test_credentials_may_be_sent_in_the_form(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        login = await credentials(api)
        form = {
            "grant_type": "client_credentials",
            "client_id": login["id"],
            "client_secret": login["secret"],
        }
        assert (await api.http.post("/oauth/token", data=form)).status_code == 200


async def test_paths_are_left_out_where_the_setting_says_so(open_api):
    async with open_api(*REPORTS, api=ApiSettings(auth="keys", vendor_paths=False)) as api:
        for path in (PATH, "/oauth/token"):
            answer = await api.http.post(path, json=BODY, headers=await create_key(api))
            assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


async def test_tenants_see_their_own_rows_alone(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        api.start_worker()
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        assert (
            (await api.http.post(PATH, json=BODY, headers=ours))
            .headers["Cache-Status"]
            .startswith("cache-pipeline; fwd=miss")
        )
        await api.stop_workers()
        requests = await count_requests(api)
        api.start_worker()
        answer = await api.http.post(PATH, json=BODY, headers=theirs)
        assert answer.headers["Cache-Status"].startswith("cache-pipeline; fwd=miss")
        assert await count_requests(api) == 2 * requests > 0
