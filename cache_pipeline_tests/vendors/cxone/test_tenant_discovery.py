"""Tests of tenant discovery: once, before the first request, and never to an address that must not see a token."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis.asyncio

from cache_pipeline.bootstrap.accounts import connect_vendor
from cache_pipeline.errors import DiscoveryFailed, LoginRefused, UpstreamError, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import running_simulator
from cache_pipeline.simulator.cxone_login import TENANT_ID
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import Issuer, OAuthClient, RetryPolicy, UpstreamConfig
from cache_pipeline.upstream.discovery import VendorAddresses
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.vendors.cxone.adapter import CxoneAdapter, access_key_login
from cache_pipeline.vendors.cxone.tenant_discovery import discover_cxone
from cache_pipeline_tests.simulator.vendor import SettableClock
from cache_pipeline_tests.vendors.cxone.test_cxone import SETTINGS, extract
from cache_pipeline_tests.vendors.workbench import SECRETS, fetch_rows

CONFIGURATION, KEY = "/.well-known/cxone-configuration", "/authentication/v1/token/access-key"
JOBS = "/data-extraction/v1/jobs"


def _config(url: str, tenant_id: str | None = TENANT_ID, **changes: Any) -> UpstreamConfig:
    base: dict[str, Any] = {
        "account": "cxone",
        "base_url": url,
        "login_url": f"{url}{KEY}",
        "issuer": Issuer(url=url, tenant_id=tenant_id),
        "clients": (OAuthClient(client_id="alpha", client_secret=SECRETS["alpha"]),),
        "policy": QuotaPolicy(limit=1, window_seconds=0.05, reserve=0),
        "retries": RetryPolicy(max_attempts=2, first_wait_seconds=0.01),
    }
    return UpstreamConfig(**(base | changes))


@dataclass(frozen=True)
class Tenant:
    client: httpx.AsyncClient
    admin: httpx.AsyncClient
    sent: list[httpx.Request]

    def calls(self) -> Counter[tuple[str, str]]:
        return Counter(
            (request.url.host, request.url.path.rpartition("/jobs/")[0] or request.url.path) for request in self.sent
        )


@asynccontextmanager
async def _tenant(redis_client: redis.asyncio.Redis, tenant_id: str | None = TENANT_ID) -> AsyncGenerator[Tenant]:
    """Open the simulator under the host names that it reports, all of which resolve to this machine."""
    clock = SettableClock()
    sent: list[httpx.Request] = []

    class LoopbackTransport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request)
            assert request.headers["Host"] == request.url.netloc.decode()
            clock.seconds += 1 if request.url.path.startswith(JOBS) else 0
            target = request.url.copy_with(host="127.0.0.1") if request.url.host.endswith(".localhost") else request.url
            moved = httpx.Request(request.method, target, headers=request.headers, stream=request.stream)
            return await super().handle_async_request(moved)

    with running_simulator(SETTINGS, clock=clock) as url:
        opening = create_upstream_client(
            _config(url, tenant_id),
            redis_client,
            login_request=access_key_login,
            discover=discover_cxone,
            transport=LoopbackTransport(),
        )
        async with opening as client, httpx.AsyncClient(base_url=url) as admin:
            yield Tenant(client, admin, sent)


@pytest.mark.parametrize("tenant_id", [TENANT_ID, None], ids=["by setting", "by the token's claim"])
async def test_extract_comes_from_the_issuers_api_address(
    shared_redis: redis.asyncio.Redis, tenant_id: str | None
) -> None:
    async with _tenant(shared_redis, tenant_id) as tenant:
        rows = await fetch_rows(CxoneAdapter(tenant.client), extract())
    assert rows.num_rows > 300
    calls = tenant.calls()
    # Without the setting, discovery logs in once to learn the tenant of the key.
    assert calls.pop(("127.0.0.1", KEY)) == (1 if tenant_id else 2)
    assert calls.pop(("127.0.0.1", CONFIGURATION)) == 1
    assert {host for host, path in calls if path.startswith("/data-extraction/")} == {"api-na1.localhost"}
    signed = [request for request in tenant.sent if "authorization" in request.headers]
    assert {(request.url.host, request.url.path.startswith(JOBS)) for request in signed} == {
        ("api-na1.localhost", True)
    }


async def test_concurrent_first_requests_discover_once(shared_redis: redis.asyncio.Redis) -> None:
    async with _tenant(shared_redis) as tenant:
        await asyncio.gather(*(CxoneAdapter(tenant.client).probe(Lane.interactive) for _ in range(4)))
    assert tenant.calls()["127.0.0.1", CONFIGURATION] == 1
    assert tenant.calls()["api-na1.localhost", JOBS] == 4


async def test_concurrent_first_requests_share_one_failed_discovery(
    shared_redis: redis.asyncio.Redis,
) -> None:
    sent: list[httpx.Request] = []
    started, may_continue = asyncio.Event(), asyncio.Event()

    async def unreachable(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        started.set()
        await may_continue.wait()
        raise httpx.ConnectError("refused", request=request)

    opening = create_upstream_client(
        _config(ISSUER),
        shared_redis,
        login_request=access_key_login,
        discover=discover_cxone,
        transport=httpx.MockTransport(unreachable),
    )
    async with opening as client:
        first = asyncio.create_task(CxoneAdapter(client).probe(Lane.interactive))
        others = [asyncio.create_task(CxoneAdapter(client).probe(Lane.interactive)) for _ in range(20)]
        await started.wait()
        first.cancel()
        may_continue.set()
        outcomes = await asyncio.gather(*others, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {UpstreamUnreachable}
    assert len(sent) == 2, "one discovery made two attempts and continued without the caller that started it"


async def test_closing_the_client_ends_the_discovery(shared_redis: redis.asyncio.Redis) -> None:
    started, is_ended = asyncio.Event(), False

    async def hang(_: httpx.Request) -> httpx.Response:
        nonlocal is_ended
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_ended = True
        raise AssertionError

    opening = create_upstream_client(
        _config(ISSUER), shared_redis, discover=discover_cxone, transport=httpx.MockTransport(hang)
    )
    async with opening as client:
        asking = asyncio.create_task(client.get("/jobs"))
        await started.wait()
        asking.cancel()
        await asyncio.wait({asking})
    assert is_ended


async def test_failed_discovery_is_retried_by_the_next_request(
    shared_redis: redis.asyncio.Redis,
) -> None:
    answers = [httpx.Response(404, json={"error": "not yet"}), httpx.Response(200, json=NAMED)]

    def vendor(request: httpx.Request) -> httpx.Response:
        if request.url.path == CONFIGURATION:
            return answers.pop(0)
        if request.url.path == KEY:
            return httpx.Response(200, json={"access_token": "token", "expires_in": 600})
        assert request.url.host == "api-eu1.vendor.example"
        return httpx.Response(200, json={"jobs": []})

    opening = create_upstream_client(
        _config(ISSUER),
        shared_redis,
        login_request=access_key_login,
        discover=discover_cxone,
        transport=httpx.MockTransport(vendor),
    )
    async with opening as client:
        with pytest.raises(DiscoveryFailed):
            await CxoneAdapter(client).probe(Lane.interactive)
        assert await CxoneAdapter(client).probe(Lane.interactive) == 0
    assert not answers


ISSUER = "https://issuer.example"
NAMED = {"area": "eu1", "domain": "vendor.example"}


async def _discover(answer: Callable[[httpx.Request], httpx.Response], **changes: Any) -> VendorAddresses:
    async def send(request: httpx.Request) -> httpx.Response:
        return answer(request)

    return await discover_cxone(_config(changes.pop("url", ISSUER), **changes), send)


def _respond(body: object, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=body)


async def test_login_address_follows_from_the_area() -> None:
    nice = "https://cxone.niceincontact.com"
    configuration = {"area": "au1", "domain": "niceincontact.com", "more": 1}
    assert await _discover(_respond(configuration), url=nice, login_url=None) == VendorAddresses(
        "https://api-au1.niceincontact.com", "https://au1.nice-incontact.com/authentication/v1/token/access-key"
    )
    assert await _discover(_respond(configuration), url=nice) == VendorAddresses(
        "https://api-au1.niceincontact.com", f"{nice}{KEY}"
    )


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"error": "unknown tenantId"}, 404, "was refused with 404"),
        ([], 200, "an object was expected"),
        ({"area": "eu1"}, 200, "domain is missing"),
        ({"area": "eu1/x", "domain": "vendor.example"}, 200, "do not form a valid address"),
        ({"area": "eu1", "domain": "vendor.example/elsewhere?"}, 200, "do not form a valid address"),
        ({"area": "eu1", "domain": "user@vendor.example"}, 200, "do not form a valid address"),
        ({"area": "eu1", "domain": "vendor.example\n"}, 200, "do not form a valid address"),
    ],
)
async def test_invalid_configuration_is_one_clear_error(body: object, status: int, problem: str) -> None:
    with pytest.raises(DiscoveryFailed, match=problem) as failed:
        await _discover(_respond(body, status))
    assert "check issuer and tenant_id, or set base_url" in str(failed.value)
    assert isinstance(failed.value, UpstreamError)


async def test_issuer_cannot_downgrade_tls_for_another_machine() -> None:
    with pytest.raises(DiscoveryFailed, match=r"api-eu1\.vendor\.example would be reached without TLS"):
        await _discover(_respond(NAMED), url="http://127.0.0.1:8090")
    open_issuer = Issuer(url="http://simulator:8090", tenant_id="t", allow_insecure_http=True)
    addresses = await _discover(_respond(NAMED), url="http://simulator:8090", issuer=open_issuer)
    assert addresses.base_url == "http://api-eu1.vendor.example"


def _token(claims: object) -> str:
    return f"head.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.signature"


@pytest.mark.parametrize("token", ["opaque", "a.%%%.c", _token([]), _token({}), _token({"tenantId": 5})])
async def test_token_without_tenant_asks_for_the_setting(token: str) -> None:
    with pytest.raises(DiscoveryFailed, match="set tenant_id"):
        await _discover(_respond({"access_token": token}), tenant_id=None)


async def test_tenant_comes_from_the_tokens_claim() -> None:
    def vendor(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"access_token": _token({"tenantId": "tenant of the key"})})
        assert request.url.params["tenantId"] == "tenant of the key"
        return httpx.Response(200, json=NAMED)

    assert (await _discover(vendor, tenant_id=None)).base_url == "https://api-eu1.vendor.example"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_respond({"error": "invalid_client"}, 401), LoginRefused),
        (_respond({"message": "down"}, 503), UpstreamFaulted),
    ],
)
async def test_failed_login_raises(
    answer: Callable[[httpx.Request], httpx.Response], error: type[UpstreamError]
) -> None:
    with pytest.raises(error):
        await _discover(answer, tenant_id=None)


async def test_unreachable_issuer_is_retried_then_reported() -> None:
    sent: list[httpx.Request] = []

    def unreachable(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(UpstreamUnreachable, match=r"issuer\.example after 2 attempts: discovery: refused"):
        await _discover(unreachable)
    assert len(sent) == 2
    with pytest.raises(UpstreamFaulted, match="503 after 2 attempts: down"):
        await _discover(_respond({"message": "down"}, 503))


def _settings(**account: Any) -> Settings:
    key = ClientCredentials(client_id="alpha", client_secret=SECRETS["alpha"], weight=1)
    return Settings(accounts={"cxone": {"main": VendorAccount.model_validate({"clients": (key,)} | account)}})


def test_configured_address_skips_discovery() -> None:
    configured = connect_vendor(
        _settings(base_url="https://api-na1.niceincontact.com", issuer=ISSUER, login_url=f"{ISSUER}{KEY}"), "cxone/main"
    ).config
    assert (configured.issuer, configured.base_url) == (None, "https://api-na1.niceincontact.com/")
    discovered = connect_vendor(_settings(issuer=f"{ISSUER}/path", login_url=f"{ISSUER}{KEY}"), "cxone/main").config
    assert discovered.issuer == Issuer(url=f"{ISSUER}/path")
    assert discovered.base_url == f"{ISSUER}/"
