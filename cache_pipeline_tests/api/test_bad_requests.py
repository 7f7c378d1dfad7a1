"""Tests of bad requests: each gets problem details with the right status, and queues no job."""

import json
from datetime import date

import pytest

from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline_tests.api.conftest import DAY, REPORT

JSON = {"Content-Type": "application/json"}
BASE = "/v1/reports/queue_hour"

BAD = [
    ("a reversed interval", "GET", f"{BASE}?interval=2026-01-06/2026-01-05", None, 422, "reversed"),
    ("an empty interval", "GET", f"{BASE}?interval=2026-01-05/2026-01-05", None, 422, "empty"),
    ("an open interval", "GET", f"{BASE}?interval=2026-01-05/..", None, 422, "both ends"),
    ("no interval", "GET", BASE, None, 422, "query.interval"),
    ("a malformed interval", "GET", f"{BASE}?interval=yesterday/today", None, 422, "ISO 8601"),
    ("an interval that cuts a bucket", "GET", f"{BASE}?interval=2026-01-05T00:10Z/2026-01-05T02:00Z", None, 422, "PT1H"),
    ("a huge interval", "GET", f"{BASE}?interval=1950-01-01/2026-01-01", None, 422, "buckets of PT1H"),
    ("a future interval", "GET", f"{BASE}?interval=2090-01-01/2090-01-02", None, 422, "not started"),
    ("an interval before the report", "GET", f"{BASE}?interval=2016-01-05/2016-01-06", None, 422, "2025-01-01T00:00:00Z"),
    ("a far year", "GET", f"{BASE}?interval=9999-01-01/9999-01-02", None, 422, "years"),
    ("a NUL", "GET", f"{BASE}?interval=2026-01-05%00/2026-01-06", None, 422, "ISO 8601"),
    ("an unknown parameter", "GET", f"{BASE}?interval={DAY}&groupby=", None, 422, "groupby"),
    ("a misspelt parameter", "GET", f"{BASE}?intervall={DAY}", None, 422, "intervall"),
    ("a parameter twice", "GET", f"{BASE}?interval={DAY}&metrics=offered&metrics=", None, 422, "twice"),
    ("an unknown report", "GET", f"/v1/reports/nothing?interval={DAY}", None, 404, "queue_hour"),
    ("a path traversal as report name", "GET", f"/v1/reports/..%2f..%2fetc?interval={DAY}", None, 404, ""),
    ("an unknown path", "GET", "/v2/reports", None, 404, "openapi"),
    ("a slash at the end", "GET", "/v1/reports/", None, 404, "leave out the slash"),
    ("a slash after a report", "GET", f"{BASE}/?interval={DAY}", None, 404, "leave out the slash"),
    ("a slash after a POST", "POST", "/v1/queries/", b"{}", 404, "leave out the slash"),
    ("a slash after a page", "GET", "/docs/", None, 404, "leave out the slash"),
    ("half a surrogate pair as field", "POST", "/v1/queries", b'{"\\ud800": 1}', 422, "is not a field"),
    ("half a surrogate pair as text", "POST", BASE, b'{"interval": "\\udc00"}', 422, "interval"),
    ("an unknown alignment", "GET", f"{BASE}?interval={DAY}&align=days", None, 422, "query.align"),
    ("another method", "PUT", BASE, b"{}", 405, ""),
    ("a body that is not JSON", "POST", BASE, b"{interval", 400, "not JSON"),
    ("a body that is not UTF-8", "POST", BASE, b"\xff\xfe{}", 400, "not JSON"),
    ("a body of the wrong type", "POST", BASE, b"[1]", 422, "body"),
    ("a number for an interval", "POST", BASE, b'{"interval": 7}', 422, "body.interval"),
    ("an unknown field", "POST", BASE, json.dumps({"interval": DAY, "limit": 3}).encode(), 422, "body.limit"),
    ("no body", "POST", BASE, None, 422, "body"),
    ("a body that is too large", "POST", BASE, b"[" + b"0," * 40_000 + b"0]", 413, "bytes"),
    ("an unknown format", "GET", f"{BASE}?interval={DAY}", "image/png", 406, "text/csv"),
    ("a malformed job id", "GET", "/v1/jobs/17", None, 422, "job_id"),
    ("an unknown job", "GET", "/v1/jobs/6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11", None, 404, "unknown job"),
    ("an unknown job's events", "GET", "/v1/jobs/6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11/events", None, 404, "unknown job"),
    ("an unknown job to cancel", "DELETE", "/v1/jobs/6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11", None, 404, "unknown job"),
]  # fmt: skip


async def test_bad_request_is_reported_and_not_queued(open_api):
    async with open_api() as api:
        for what, method, url, body, status, expected in BAD:
            headers = {"Accept": body} if isinstance(body, str) else JSON if body is not None else {}
            content = body if isinstance(body, bytes) else None
            answer = await api.http.request(method, url, content=content, headers=headers)
            assert answer.status_code == status, (what, answer.status_code, answer.text)
            assert answer.headers["Content-Type"] == "application/problem+json", what
            problem = answer.json()
            assert problem["status"] == status, what
            assert problem["type"].startswith("urn:cache-pipeline:problem:"), what
            assert expected in answer.text, (what, answer.text)
            assert "Traceback" not in answer.text, what
            assert "demo-secret" not in answer.text, what
        assert (await api.query_service.jobs.counts())[JobState.queued] == 0
        assert await api.submits() == 0


async def test_redirect_keeps_host_and_scheme(open_api):
    async with open_api() as api:
        for path in ("/", "/v1/reports/", "/v1/jobs/", "/operations/"):
            answer = await api.http.get(path, headers={"Host": "elsewhere.example"})
            assert "elsewhere.example" not in answer.headers.get("Location", "")
            assert answer.headers.get("Location", "/").startswith("/")


async def test_interval_beyond_vendor_retention_is_refused(open_api):
    async with open_api(REPORT.model_copy(update={"start": date(1950, 1, 1)})) as api:
        answer = await api.http.get(f"{BASE}?interval=1960-01-01/1960-01-02")
        assert (answer.status_code, "RETENTION_DAYS" in answer.text) == (422, True)
        assert await api.submits() == 0


async def test_problem_title_is_type_in_words(open_api):
    async with open_api() as api:
        answer = (await api.http.get("/v1/reports/nothing?interval=2026-01-05/2026-01-06")).json()
        assert (answer["type"], answer["title"]) == ("urn:cache-pipeline:problem:unknown-report", "Unknown report")
        assert (await api.http.get("/")).headers["Location"] == "/operations"


@pytest.mark.parametrize(
    ("path", "allow"), [(BASE, "GET, HEAD, POST"), ("/v1/jobs/17", "DELETE, GET, HEAD"), ("/v1/queries", "POST")]
)
async def test_unsupported_method_lists_allowed_ones(open_api, path, allow):
    async with open_api() as api:
        answer = await api.http.put(path, json={})
        assert (answer.status_code, answer.headers["Allow"]) == (405, allow)


async def test_body_with_wrong_content_type_is_refused(open_api):
    async with open_api() as api:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "text/xml; charset=utf-8"):
            body = json.dumps({"interval": DAY}).encode()
            answer = await api.http.post(BASE, content=body, headers={"Content-Type": kind})
            assert (answer.status_code, answer.headers["Content-Type"]) == (415, "application/problem+json")
        assert (await api.query_service.jobs.counts())[JobState.queued] == 0


async def test_internal_error_reveals_no_details(open_api, monkeypatch, caplog):
    async with open_api() as api:

        async def broken(*_args, **_more):
            raise RuntimeError("the password is demo-secret")

        monkeypatch.setattr(type(api.query_service.jobs), "admit", broken)
        answer = await api.http.get(f"{BASE}?interval={DAY}")
        assert answer.status_code == 500
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "demo-secret" not in answer.text
        assert "RuntimeError" not in answer.text


@pytest.mark.parametrize("store", ["postgres_url", "redis_url"])
async def test_unavailable_store_is_reported_as_503(open_api, store, monkeypatch):
    async with open_api() as api:
        if store == "redis_url":
            from redis.exceptions import ConnectionError as RedisConnectionError

            monkeypatch.setattr(
                type(api.query_service.report_service.hot),
                "get_entry",
                _raising(RedisConnectionError("redis://:secret@host")),
            )
        else:
            from psycopg import OperationalError

            monkeypatch.setattr(
                type(api.query_service.jobs._pool), "getconn", _raising(OperationalError("postgresql://u:secret@h"))
            )
        answer = await api.http.get(f"{BASE}?interval={DAY}")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "secret" not in answer.text


def _raising(error):
    async def raises(*_args, **_more):
        raise error

    return raises


async def test_huge_body_is_not_read_to_end(open_api):
    sent = 0

    async def body():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1024

    async with open_api(api=ApiSettings(auth="off", max_body_bytes=4096)) as api:
        answer = await api.http.post(BASE, content=body(), headers=JSON)
        assert answer.status_code == 413
        assert sent < 10


async def test_names_in_a_filter_are_checked_before_it_is_simplified(open_api):
    alternatives = [{"predicates": [{"dimension": f"{name}{n}", "values": ["x"]} for name in "ab"]} for n in range(60)]
    filters = {"clauses": [{"type": "or", "clauses": alternatives}] * 8}
    async with open_api() as api:
        answer = await api.http.post("/v1/reports/queue_hour", json={"interval": DAY, "filters": filters})
        assert answer.status_code == 422
        assert "unknown name 'a0'" in answer.json()["errors"][0]["detail"]


async def test_lone_surrogates_in_a_filter_are_refused(open_api):
    async with open_api() as api:
        for dimension, value in (("queueId", "\ud800"), ("\udfff", "q-1")):
            filters = json.dumps({"predicates": [{"dimension": dimension, "values": [value]}]})
            answer = await api.http.get("/v1/reports/queue_hour", params={"interval": DAY, "filters": filters})
            assert answer.status_code == 422, dimension
            body = f'{{"interval": "{DAY}", "filters": {filters}}}'
            headers = {"Content-Type": "application/json"}
            posted = await api.http.post("/v1/reports/queue_hour", content=body, headers=headers)
            assert posted.status_code == 422, dimension
            payload = {"reportId": "queue-performance", "timeGrouping": "byHour", "interval": DAY, "filters": 0}
            guide = json.dumps(payload).replace('"filters": 0', f'"filters": {filters}')
            assert (await api.http.post("/v1/queries", content=guide, headers=headers)).status_code == 422
