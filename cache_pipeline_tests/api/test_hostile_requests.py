"""Hostile requests at the vendor's own paths: each is refused in the vendor's form, and reaches nothing."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis

from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.schema_calls import call_all
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_pass_through import ERROR_FIELDS, open_vendor
from cache_pipeline_tests.api.test_request_smuggling import exchange
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_paths import BODY, JOBS, KEYS, PATH, REPORTS, count_requests

__all__ = ["open_vendor"]

SERVED = (("POST", PATH), ("POST", JOBS), ("GET", "/api/v2/routing/queues"), ("POST", "/oauth/token"))

_TEXT: dict[str, Any] = {"type": "string"}
_PREDICATE = {
    "type": "object",
    "properties": {
        "type": {"enum": ["dimension", "property", "metric"]},
        "dimension": {"enum": ["queueId", "mediaType", "userId", "divisionId"]},
        "operator": {"enum": ["matches", "exists", "notExists"]},
        "value": _TEXT,
        "range": {"type": "object"},
    },
}
_CLAUSE = {
    "type": "object",
    "properties": {"type": {"enum": ["and", "or"]}, "predicates": {"type": "array", "items": _PREDICATE}},
}
_FILTER = {**_CLAUSE, "properties": {**_CLAUSE["properties"], "clauses": {"type": "array", "items": _CLAUSE}}}
_QUERY = {
    "type": "object",
    "required": ["interval", "metrics"],
    "additionalProperties": False,
    "properties": {
        "interval": {"enum": [BODY["interval"], "2026-01-05T08:00:00Z/2026-01-05T12:00:00Z"]},
        "granularity": {"enum": ["PT30M", "PT1H", "P1D"]},
        "timeZone": {"enum": ["UTC", "Europe/Berlin"]},
        "groupBy": {"type": "array", "uniqueItems": True, "items": {"enum": ["queueId", "mediaType", "userId"]}},
        "metrics": {"type": "array", "minItems": 1, "items": {"enum": ["nOffered", "tHandle"]}},
        "filter": _FILTER,
        "views": {"type": "array", "items": {"type": "object"}},
        "metadata": {},
    },
}
_DETAILS = {
    "type": "object",
    "required": ["interval"],
    "properties": {
        "interval": _QUERY["properties"]["interval"],
        "segmentFilters": {"type": "array", "items": _FILTER},
        "order": {"enum": ["asc", "desc"]},
        "limit": {"type": "integer"},
    },
}
_PRESENT = {
    "type": "object",
    "required": ["filter", "metrics"],
    "properties": {"filter": _FILTER, "metrics": {"type": "array", "items": {"enum": ["oWaiting", "oOnQueueUsers"]}}},
}
_LOGIN = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {"grant_type": _TEXT, "client_id": _TEXT, "client_secret": _TEXT},
}
_JOB = {"name": "jobId", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
_PAGES = [
    {"name": name, "in": "query", "schema": schema}
    for name, schema in {
        "pageSize": {"type": "integer"},
        "pageNumber": {"type": "integer"},
        "id": {"type": "array", "items": _TEXT},
        "sortOrder": {"enum": ["asc", "desc"]},
        "name": _TEXT,
        "state": {"enum": ["active", "inactive", "deleted", "any"]},
    }.items()
]


def _operation(body: Any = None, *parameters: Any, media: str = "application/json") -> dict[str, Any]:
    content = {"requestBody": {"required": True, "content": {media: {"schema": body}}}} if body else {}
    return {"parameters": list(parameters), "responses": {"default": {"description": ""}}, **content}


def _paths() -> dict[str, Any]:
    analytics, cursor = "/api/v2/analytics", {"name": "cursor", "in": "query", "schema": _TEXT}
    found: dict[str, Any] = {"/oauth/token": {"post": _operation(_LOGIN, media="application/x-www-form-urlencoded")}}
    found[PATH] = {"post": _operation(_QUERY)}
    found |= {f"{analytics}/{each}/observations/query": {"post": _operation(_PRESENT)} for each in ("queues", "users")}
    found |= {f"/api/v2/{each}": {"get": _operation(None, *_PAGES)} for each in ("routing/queues", "users")}
    for submit, status in ((JOBS, JOBS), (f"{analytics}/reportdata/query/async", f"{analytics}/reportdata/query")):
        found[submit] = {"post": _operation(_QUERY)}
        found[f"{status}/{{jobId}}"] = {each: _operation(None, _JOB) for each in ("get", "delete")}
        found[f"{status}/{{jobId}}/results"] = {"get": _operation(None, _JOB, cursor)}
    details = f"{analytics}/conversations/details/jobs"
    found[details] = {"post": _operation(_DETAILS)}
    found[f"{details}/{{jobId}}/results"] = {"get": _operation(None, _JOB, cursor, _PAGES[0])}
    return found


SCHEMA = {"openapi": "3.1.0", "info": {"title": "The vendor's paths", "version": "2"}, "paths": _paths()}


# The API runs in another thread, and what it draws there by chance is none of the strategies'.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.timeout(200)
async def test_generated_requests_are_answered_in_the_vendors_form(open_api):
    held = ApiSettings(auth="keys", vendor_hold_seconds=0, detail_jobs=True)
    async with open_api(*REPORTS, api=held) as api, served(api.app) as url:
        headers = await create_key(api, requests_per_minute=100_000)
        # What is listed is read from the vendor once.
        for path in ("routing/queues", "users"):
            assert (await api.http.get(f"/api/v2/{path}", headers=headers)).status_code == 200
        statuses: Counter[int] = Counter()

        def requests(vendor: httpx.Client) -> int:
            return vendor.get("/simulator/counters").json()["summary"]["requests"]

        def call(case: schemathesis.Case) -> None:
            before = requests(vendor)
            answer = case.call(base_url=url, headers=headers, timeout=20)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (case, answer.text)
            if answer.status_code >= 400:
                assert requests(vendor) == before, case
                _check_error(case.path, answer.status_code, answer.json())

        with httpx.Client(base_url=api.vendor.base_url) as vendor:
            await asyncio.to_thread(lambda: call_all(SCHEMA, call, max_examples=6))
    assert statuses.total() > 120
    assert {200, 202, 400, 404, 429} <= statuses.keys()


def _check_error(path: str, status: int, document: Any) -> None:
    if path == "/oauth/token":
        assert set(document) == {"error", "description", "error_description"}
    elif "/reportdata/" in path:
        assert set(document) == {"message", "code", "status", "contextId"}
    else:
        assert set(document) == ERROR_FIELDS
        assert document["status"] == status


_HIDDEN = {
    "NUL": '"\\u0000"',
    "NUL in a name": '{"\\u0000": 1}',
    "half of a pair": '["\\ud800"]',
    "no number": "NaN",
    "infinite": "1e999",
    "deep": "[" * 2_000 + "]" * 2_000,
    "many digits": "9" * 5_000,
}


async def test_what_no_store_takes_is_refused_wherever_it_stands(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        key = await create_key(api)
        for name, value in _HIDDEN.items():
            body = json.dumps(BODY)[:-1] + f', "metadata": {value}}}'
            for path in (PATH, JOBS):
                answer = await api.http.post(path, content=body, headers=key)
                assert (answer.status_code, set(answer.json())) == (400, ERROR_FIELDS), name
        assert await count_requests(api) == 0


def _spellings(path: str) -> list[str]:
    """Return paths that some servers take for the same as this one."""
    head, _, last = path.rpartition("/")
    return [
        *(f"{path}{end}" for end in ("/", "%0A", "%0D%0A", "%20", "%00", ";v=1", ".", "/.", "/..", "%2f", ".json")),
        *(f"{head}{between}{last}" for between in ("//", "/./", "/x/../", "%2f", "%2F", "%252f", "\\", "%5c", "/%2e/")),
        *(f"{head}/%{ord(last[0]):02x}{last[1:]}", f"{head}/{last.upper()}", f"{head}/%ff%fe", f"{head}/%c0%af"),
        *(f"/{path}", f"/%2f{path}", f"/v1/..{path}", path.replace("/api", "/API", 1), path.replace("/", "//", 1)),
    ]


#: Requests to proxies, and what is no path at all. A server that reads no path cannot tell whose form an error has.
_NO_PATHS = ("http://api.example{}", "https://api.example:443{}", "api.example:443", "*", "{}é", "")


async def test_other_spellings_of_served_paths_reach_nothing(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        key = (await create_key(api, requests_per_minute=100_000))["Authorization"]
        targets = [(method, spelling) for method, path in SERVED for spelling in _spellings(path)]
        targets += [(method, target.format(path)) for method, path in SERVED for target in _NO_PATHS]
        answers = await asyncio.gather(*(_send(url, method, target, key) for method, target in targets))
        for (method, target), answer in zip(targets, answers, strict=True):
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 4"), (method, target, answer)
            if target.lower().lstrip("/").startswith("api/") and target.isascii():
                assert set(json.loads(body)) == ERROR_FIELDS, target
        assert vendor.requests == []


async def _send(url: str, method: str, target: str, key: str, host: str = "api") -> bytes:
    body = json.dumps(BODY).encode() if method == "POST" else b""
    lines = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\nConnection: close\r\n"
    return await exchange(url, f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)


HOSTS = (
    "",
    "[",
    "[::1",
    "a b",
    "x/y?z#",
    "@other.example",
    "other.example:99999999",
    "é",
    "x\\y",
    "api.example, other",
)


async def test_answer_depends_on_no_host(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        key = (await create_key(api))["Authorization"]
        for host in HOSTS:
            answer = await _send(url, "GET", "/api/v2/analytics/nothing", key, host)
            assert answer.startswith(b"HTTP/1.1 404"), host
            document = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert (document["code"], "example" in document["message"]) == ("not.found", False)
        assert vendor.requests == []
        assert (await _send(url, "GET", "/api/v2/teapots/1", key, "other.example")).startswith(b"HTTP/1.1 200")
        ((_, _, headers, _),) = vendor.requests
        assert "other.example" not in headers.values()


_CREDENTIALS = ("Bearer é", "Bearer", "Basic ====", "Bearer " + "x" * 20_000, "Digest a=b", "\x01")


async def test_credentials_that_are_none_are_refused_in_the_vendors_form(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        requests = [(value, *pair) for value in _CREDENTIALS for pair in (*SERVED, ("GET", "/api/v2/teapots/1"))]
        answers = await asyncio.gather(*(_send(url, method, path, value) for value, method, path in requests))
        for request, answer in zip(requests, answers, strict=True):
            assert answer.startswith(b"HTTP/1.1 4"), request
            if b"Invalid HTTP request" not in answer:
                document = json.loads(answer.partition(b"\r\n\r\n")[2])
                assert document.keys() >= ({"error"} if "oauth" in request[2] else {"message", "code"})
        assert vendor.requests == []
