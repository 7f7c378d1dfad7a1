"""Requests that are passed on to the vendor: which, how, and what neither side sees of the other."""

import asyncio
import gzip
import json
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cache_pipeline.api.app import create_app
from cache_pipeline.api.http_protocol import BoundedHttpProtocol
from cache_pipeline.errors import SettingsError
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ApiSettings, Settings, VendorAccount
from cache_pipeline_tests.api.conftest import account
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.api.test_served import served
from cache_pipeline_tests.api.test_vendor_listings import call_by_sdk, simulator
from cache_pipeline_tests.api.test_vendor_paths import KEYS, REPORTS, count_requests, credentials
from cache_pipeline_tests.test_path_patterns import TRICKS

LIMITS = "/api/v2/organizations/limits/namespaces"
EVALUATIONS = "/api/v2/analytics/evaluations/aggregates/query"
PASSED = [
    f"GET {LIMITS}/*",
    f"POST {EVALUATIONS}",
    "GET /api/v2/teapots/**",
    "DELETE /api/v2/teapots/old",
    "POST /api/v2/teapots/brew",
]
GENESYS = {"genesys": {"pass_through": PASSED}}
ERROR_FIELDS = {"message", "code", "status", "contextId", "details", "errors"}


async def test_sdk_gets_from_us_what_only_the_vendor_has(open_api, tmp_path):
    calls = [
        {"api": "OrganizationApi", "method": "get_organizations_limits_namespace", "arguments": ["platform.api"]},
        {"api": "OrganizationApi", "method": "get_organizations_limits_namespace", "arguments": ["nothing"]},
        {"api": "OrganizationApi", "method": "get_organizations_me", "arguments": []},
    ]
    async with open_api(*REPORTS, api=KEYS, account_changes=GENESYS) as api, served(api.app) as url:
        (of_vendor,) = await call_by_sdk(tmp_path, [simulator(api)], calls)
        requests = await count_requests(api)
        (ours,) = await call_by_sdk(tmp_path, [{"url": url, **await credentials(api)}], calls)
        assert await count_requests(api) == requests + 2
    assert ours[0] == of_vendor[0]
    assert ours[0]["entities"]
    for answer in (ours[1], of_vendor[1]):
        assert (answer["status"], answer["body"]["code"]) == (404, "not.found")
    assert ours[1]["body"]["message"] == of_vendor[1]["body"]["message"]
    assert (ours[2]["status"], ours[2]["body"]["code"]) == (404, "not.found")


async def test_nothing_is_passed_on_by_default(open_api):
    async with open_api(*REPORTS, api=KEYS) as api:
        answer = await api.http.get(f"{LIMITS}/platform.api", headers=await create_key(api))
        assert (answer.status_code, set(answer.json())) == (404, ERROR_FIELDS)
        assert await count_requests(api) == 0


async def test_other_spellings_of_a_path_reach_nothing(open_vendor):
    async with open_vendor() as (api, vendor), served(api.app, http=BoundedHttpProtocol) as url:
        key = (await create_key(api))["Authorization"]
        for path in (trick.replace("users", "teapots") for trick in TRICKS if not set(trick) & set("?#")):
            for target in (path, f"{path}?x=1"):
                assert await send_raw(url, target.encode(), key) in (400, 404, 405, 414), target
        assert vendor.requests == []
        assert await send_raw(url, b"/api/v2/teapots/1", key) == 200


async def send_raw(url: str, target: bytes, authorization: str) -> int:
    """Send a GET with a target that no client library would send, and return the status."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = f"Host: {host}\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n".encode()
    writer.write(b"GET " + target + b" HTTP/1.1\r\n" + headers)
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line.startswith(b"HTTP/1.1") else 400


async def test_request_that_no_pattern_admits_reaches_nothing(open_vendor):
    async with open_vendor() as (api, vendor):
        headers = {**await create_key(api), "X-HTTP-Method-Override": "GET", "X-Original-URL": "/api/v2/teapots/x"}
        requests = [
            (method, "/api/v2/teapots/new") for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FETCH")
        ]
        requests += [
            ("PATCH", "/api/v2/teapots/old"),
            ("DELETE", "/api/v2/teapots/old/lid"),
            ("GET", "/api/v2/teapots"),
        ]
        for method, path in requests:
            assert (await api.http.request(method, path, headers=headers)).status_code in (404, 405), method
    assert vendor.requests == []


class Vendor:
    """A vendor that notes what it is sent, and answers as it is asked to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[Response] = []
        self.logins = 0

    def app(self) -> Starlette:
        async def log_in(_request: Request) -> Response:
            self.logins += 1
            return JSONResponse({"access_token": "vendors-token", "token_type": "bearer", "expires_in": 86_400})

        async def answer(request: Request) -> Response:
            target = request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode()
            self.requests.append((request.method, target, dict(request.headers), await request.body()))
            return self.answers.pop(0) if self.answers else JSONResponse({"pot": "black"})

        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return Starlette(
            routes=[Route("/oauth/token", log_in, methods=["POST"]), Route("/{p:path}", answer, methods=methods)]
        )


@pytest.fixture
def open_vendor(open_api):
    """Return a function that opens an API in front of a vendor that notes what it is sent."""

    @asynccontextmanager
    async def open_with(**changes: Any):
        vendor = Vendor()
        async with (
            served(vendor.app()) as url,
            open_api(
                *REPORTS,
                vendor_url=url,
                account_changes=GENESYS,
                **{"api": ApiSettings(auth="keys", vendor_hold_seconds=5), **changes},
            ) as api,
        ):
            yield api, vendor

    return open_with


async def test_neither_side_sees_the_others_credentials_and_cookies(open_vendor):
    async with open_vendor() as (api, vendor):
        key = await create_key(api)
        vendor.answers = [
            JSONResponse(
                {"pot": "white"},
                headers={
                    "Set-Cookie": "session=vendors-cookie",
                    "Authorization": "Bearer vendors-token",
                    "WWW-Authenticate": "Bearer",
                    "Location": "https://storage.example/signed?key=vendors-token",
                    "Keep-Alive": "timeout=5",
                    "Server": "teapot",
                    "inin-ratelimit-count": "3",
                    "ETag": '"1"',
                },
            )
        ]
        sent = {
            **key,
            "X-API-Key": key["Authorization"].split()[1],
            "Cookie": "session=callers-cookie",
            "Proxy-Authorization": "Basic callers-secret",
            "X-Forwarded-For": "192.0.2.1",
            "Forwarded": "for=192.0.2.1",
            "Connection": "keep-alive, X-Hop",
            "X-Hop": "1",
            "TE": "trailers",
            "Upgrade": "h2c",
            "Accept-Language": "de",
            "If-None-Match": '"0"',
        }
        answer = await api.http.get("/api/v2/teapots/x?b=1&a=%2F..%2F&a=2", headers=sent)
        again = await api.http.get("/api/v2/teapots/x", headers=key)
    assert (answer.status_code, answer.json(), again.status_code) == (200, {"pot": "white"}, 200)
    (method, target, headers, body), (_, _, later, _) = vendor.requests
    assert (method, target, body) == ("GET", "/api/v2/teapots/x?b=1&a=%2F..%2F&a=2", b"")
    assert headers["authorization"] == later["authorization"] == "Bearer vendors-token"
    assert (headers["accept-language"], headers["if-none-match"]) == ("de", '"0"')
    assert "cookie" not in headers | later
    known = {"accept", "accept-encoding", "accept-language", "authorization", "connection", "host", "if-none-match"}
    assert set(headers) <= known | {"user-agent"}
    assert "cp_" not in json.dumps(headers)
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["cache-control"] == "no-store"
    hidden = {"set-cookie", "authorization", "www-authenticate", "location", "keep-alive", "inin-ratelimit-count"}
    assert not hidden & set(answer.headers)
    assert "vendors-token" not in answer.text + json.dumps(dict(answer.headers))
    assert answer.headers["ININ-Correlation-Id"] == answer.headers["X-Request-ID"]


async def test_body_goes_up_and_comes_down_unchanged(open_vendor):
    query, answer = json.dumps({"interval": "ä"}).encode(), gzip.compress(b'{"results": [1]}')
    compressed = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with open_vendor() as (api, vendor):
        vendor.answers = [Response(answer, headers=compressed), Response(status_code=204)]
        key = await create_key(api)
        got = await api.http.post(EVALUATIONS, content=query, headers=key | {"Content-Type": "application/json"})
        deleted = await api.http.delete("/api/v2/teapots/old", headers=key)
    assert (got.status_code, got.json(), got.headers["content-encoding"]) == (200, {"results": [1]}, "gzip")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert [(method, body) for method, _, _, body in vendor.requests] == [("POST", query), ("DELETE", b"")]


async def test_large_answer_is_streamed_and_too_large_one_ends(open_vendor):
    first_part_read = asyncio.Event()

    async def two_parts():
        yield b"x" * 70_000
        async with asyncio.timeout(5):
            await first_part_read.wait()
        yield b"y" * 70_000

    async def endless():
        while True:
            yield b"z" * 70_000
            # So that it is cancelled when nothing reads it any more.
            await asyncio.sleep(0)

    settings = ApiSettings(auth="keys", max_answer_bytes=1_000_000)
    async with open_vendor(api=settings) as (api, vendor), served(api.app) as url:
        vendor.answers = [
            StreamingResponse(two_parts()),
            StreamingResponse(endless()),
            Response(b"x" * 2_000_000),
        ]
        key = await create_key(api)
        async with httpx.AsyncClient(base_url=url, headers=key) as http:
            async with http.stream("GET", "/api/v2/teapots/x") as answer:
                size = 0
                async for part in answer.aiter_raw():
                    size += len(part)
                    first_part_read.set()
            assert size == 140_000
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get("/api/v2/teapots/x")
            refused = await http.get("/api/v2/teapots/x")
    assert (refused.status_code, set(refused.json())) == (502, ERROR_FIELDS)


async def test_only_what_is_safe_to_repeat_is_sent_again(open_vendor):
    async with open_vendor() as (api, vendor):
        key = await create_key(api)
        vendor.answers = [Response(status_code=502), JSONResponse({})]
        assert (await api.http.get("/api/v2/teapots/x", headers=key)).status_code == 200
        vendor.answers = [Response(status_code=503), JSONResponse({})]
        assert (await api.http.post(EVALUATIONS, json={}, headers=key)).status_code == 200
        assert len(vendor.requests) == 4
        vendor.answers = [Response(status_code=502), JSONResponse({})]
        assert (await api.http.post("/api/v2/teapots/brew", json={}, headers=key)).status_code == 502
        assert len(vendor.requests) == 5


async def test_refusals_are_in_the_vendors_form(open_vendor):
    problem = Response(b'{"pot": 1}', 400, {"Content-Type": "application/problem+json"})
    login = JSONResponse({"message": "vendors-client is unknown"}, 401)
    async with open_vendor() as (api, vendor):
        key = await create_key(api)
        vendor.answers = [problem, login, login]
        answers = [await api.http.get("/api/v2/teapots/x", headers=key) for _ in range(2)]
        assert (await api.http.get("/api/v2/teapots/x")).status_code == 401
        long = await api.http.get("/api/v2/teapots/x?" + "x" * 9000, headers=key)
        for changes in ({"tenant": "other"}, {"reports": ["flow_hour"]}):
            refused = await api.http.get("/api/v2/teapots/x", headers=await create_key(api, **changes))
            assert (refused.status_code, set(refused.json())) == (403, ERROR_FIELDS)
    assert (answers[0].status_code, answers[0].json()) == (400, {"pot": 1})
    assert (answers[1].status_code, set(answers[1].json())) == (502, ERROR_FIELDS)
    assert "vendors-client" not in answers[1].text
    assert long.status_code == 414
    assert len(vendor.requests) == 3


async def test_passed_request_waits_for_the_quota_and_is_logged(open_vendor, caplog):
    audited = ApiSettings(auth="keys", audit_log=True, vendor_hold_seconds=0.3)
    async with open_vendor(api=audited) as (api, vendor):
        key = await create_key(api, lane=Lane.backfill)
        assert (await api.http.get("/api/v2/teapots/x?secret=1", headers=key)).status_code == 200
        _, quota = api.query_service.quotas["genesys/main"]
        assert [client.used for client in await quota.snapshot()] == [1]
        vendor.answers = [JSONResponse({}, 429, {"Retry-After": "30"}), JSONResponse({})]
        held = await api.http.get("/api/v2/teapots/x", headers=key)
        assert (held.status_code, held.json()["code"]) == (429, "too.many.requests.retry.after")
        assert int(held.headers["Retry-After"]) > 0
    entries = [record.__dict__ for record in caplog.records if record.name == "cache_pipeline.audit"]
    assert [(each["path"], each["status"], each["passed_to"]) for each in entries] == [
        ("/api/v2/teapots/x", 200, "genesys/main"),
        ("/api/v2/teapots/x", 429, "genesys/main"),
    ]
    assert "secret=1" not in caplog.text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("DELETE /api/v2/users/*", "name each path of DELETE in full"),
        ("POST /api/v2/**", "name each path of POST in full"),
        ("PUT /api/v2/*/query", "name each path of PUT in full"),
        ("GET /api/v2/../users", "has no plain path"),
    ],
)
def test_pattern_that_could_change_unnamed_paths_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        account("http://127.0.0.1:1", pass_through=[pattern])


@pytest.mark.parametrize(
    ("accounts", "message"),
    [
        ({"genesys": {"main": ["GET /v1/status"]}}, "begin it with /api/v2/"),
        ({"cxone": {"main": ["GET /api/v2/x"]}}, "paths of cxone are not answered here"),
        ({"genesys": {"one": ["GET /api/v2/x"], "two": ["GET /api/v2/y"]}}, "ONE__PASS_THROUGH and .* are both set"),
    ],
)
def test_contradictory_lists_are_refused(accounts, message):
    def with_list(patterns: list[str]) -> VendorAccount:
        return account("http://127.0.0.1:1", pass_through=patterns)

    by_vendor = {vendor: {name: with_list(each) for name, each in lists.items()} for vendor, lists in accounts.items()}
    with pytest.raises(SettingsError, match=message):
        create_app(Settings(accounts=by_vendor))
