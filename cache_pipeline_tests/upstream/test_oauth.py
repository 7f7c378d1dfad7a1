"""Tokens: renewed at 80 % of their lifetime, once for all waiting callers, and never shown."""

import asyncio
import traceback
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from cache_pipeline.errors import LoginRefused, UpstreamFaulted, UpstreamUnreachable
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import TokenSource
from cache_pipeline_tests.upstream.conftest import Clock
from cache_pipeline_tests.upstream.vendor import Vendor, free_port, ok, running

SECRET = "s3cr3t with/slash"
CLIENT = OAuthClient(client_id="alpha", client_secret=SecretStr(SECRET))


@pytest.fixture
async def wire() -> AsyncIterator[httpx.AsyncHTTPTransport]:
    async with httpx.AsyncHTTPTransport() as transport:
        yield transport


def create_source(vendor: Vendor, wire: httpx.AsyncHTTPTransport, clock: Clock) -> TokenSource:
    return TokenSource(
        CLIENT,
        f"{vendor.url}/login",
        wire.handle_async_request,
        retries=RetryPolicy(max_attempts=3),
        clock=clock,
        sleep=clock.sleep,
    )


async def test_token_is_renewed_at_80_percent_of_its_lifetime(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok, expires_in=1000)) as vendor:
        tokens = create_source(vendor, wire, clock)
        first = await tokens.get_token()
        clock.now += 799
        assert await tokens.get_token() == first
        clock.now += 2
        assert tokens.fresh_token is None
        assert await tokens.get_token() != first
        assert vendor.logins == ["alpha", "alpha"]


async def test_new_token_refused_to_several_requests_counts_once(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok)) as vendor:
        tokens = create_source(vendor, wire, clock)
        first = await tokens.get_token()
        for _ in range(3):
            tokens.record_useless_renewal(first)
        assert await tokens.invalidate(first)
        second = await tokens.get_token()
        tokens.record_useless_renewal(second)
        assert not await tokens.invalidate(second)
        assert await tokens.get_token() == second
        clock.now += 61
        assert await tokens.invalidate(second)


async def test_token_without_lifetime_lasts_five_minutes(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok, expires_in=None)) as vendor:
        tokens = create_source(vendor, wire, clock)
        await tokens.get_token()
        clock.now += 239
        assert tokens.fresh_token is not None
        clock.now += 2
        assert tokens.fresh_token is None


async def test_concurrent_callers_share_one_login(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok)) as vendor:
        tokens = create_source(vendor, wire, clock)
        tokens_before = await asyncio.gather(*(tokens.get_token() for _ in range(100)))
        assert len(set(tokens_before)) == 1
        for _ in range(100):
            await tokens.invalidate(tokens_before[0])
        tokens_after = await asyncio.gather(*(tokens.get_token() for _ in range(100)))
        assert len(set(tokens_after)) == 1
        await tokens.invalidate(tokens_before[0])
        assert await tokens.get_token() == tokens_after[0], "a token that was already replaced is not deleted again"
        assert len(vendor.logins) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refused_login_names_client_and_url_without_secret(
    wire: httpx.AsyncHTTPTransport, clock: Clock, status: int
):
    async def refuse(request: Request) -> Response:
        assert request.headers["authorization"].startswith("Basic ")
        assert request.url.query == ""
        assert await request.body() == b"grant_type=client_credentials"
        return JSONResponse({"error": "invalid_client", "description": f"wrong secret {SECRET}"}, status_code=status)

    async with running(Vendor(ok, login=refuse)) as vendor:
        with pytest.raises(LoginRefused) as caught:
            await create_source(vendor, wire, clock).get_token()
        message = str(caught.value)
        assert "OAuth client alpha" in message
        assert f"{vendor.url}/login" in message
        assert f"{status} invalid_client wrong secret ***" in message
        assert SECRET not in repr(caught.value)
        assert len(vendor.logins) == 1


async def test_answer_without_a_token_is_a_refused_login(wire: httpx.AsyncHTTPTransport, clock: Clock):
    class NotALogin(Vendor):
        async def _login(self, request: Request) -> Response:
            return PlainTextResponse("<html>welcome</html>")

    async with running(NotALogin(ok)) as vendor:
        with pytest.raises(LoginRefused, match=r"200 without an access_token; is this the login URL\?"):
            await create_source(vendor, wire, clock).get_token()


@pytest.mark.parametrize("token", ["abc\n", " xyzzy", "xyzzy ", "tökèn", "a\x00b", ""])
async def test_token_that_no_header_can_hold_is_a_refused_login_and_not_shown(
    wire: httpx.AsyncHTTPTransport, clock: Clock, token: str
):
    class Careless(Vendor):
        async def _login(self, request: Request) -> Response:
            return JSONResponse({"access_token": token, "expires_in": 600})

    async with running(Careless(ok)) as vendor:
        with pytest.raises(LoginRefused, match="200 without an access_token") as caught:
            await create_source(vendor, wire, clock).get_token()
        assert not token or token not in "".join(traceback.format_exception(caught.value))


async def test_secret_that_a_failing_login_echoes_is_in_no_traceback(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async def fail(_: Request) -> Response:
        return JSONResponse({"message": f"no client with secret {SECRET}"}, status_code=500)

    async with running(Vendor(ok, login=fail)) as vendor:
        with pytest.raises(UpstreamFaulted, match=r"no client with secret \*\*\*") as caught:
            await create_source(vendor, wire, clock).get_token()
        assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_failing_or_throttled_login_has_bounded_retries(wire: httpx.AsyncHTTPTransport, clock: Clock):
    answers = iter([503, 429, 200])

    async def falter(_: Request) -> Response:
        return JSONResponse({}, status_code=next(answers), headers={"Retry-After": "7"})

    async with running(Vendor(ok, login=falter)) as vendor:
        await create_source(vendor, wire, clock).get_token()
        assert clock.slept == [7, 7]

        async def fail(_: Request) -> Response:
            return JSONResponse({"message": "down"}, status_code=500)

        vendor.login = fail
        with pytest.raises(UpstreamFaulted, match="POST /login failed at the vendor with 500 after 3 attempts"):
            await create_source(vendor, wire, clock).get_token()


async def test_unreachable_login_names_the_host(wire: httpx.AsyncHTTPTransport, clock: Clock):
    vendor = Vendor(ok, url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamUnreachable, match=r"cannot reach 127.0.0.1 after 3 attempts: login: .*; check"):
        await create_source(vendor, wire, clock).get_token()


async def test_failed_renewal_keeps_the_token_until_it_expires(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async def fail(_: Request) -> Response:
        return JSONResponse({}, status_code=500)

    async with running(Vendor(ok, expires_in=1000)) as vendor:
        tokens = create_source(vendor, wire, clock)
        first = await tokens.get_token()
        vendor.login = fail
        clock.now += 900
        assert await tokens.get_token() == first
        logins = len(vendor.logins)
        assert await tokens.get_token() == first
        assert len(vendor.logins) == logins, "not every request tries the login again"
        clock.now += 101
        with pytest.raises(UpstreamFaulted):
            await tokens.get_token()
        vendor.login = None
        assert await tokens.get_token() != first


async def test_request_with_a_valid_token_does_not_wait_for_a_failing_login(
    wire: httpx.AsyncHTTPTransport, clock: Clock
):
    async def throttle(_: Request) -> Response:
        return JSONResponse({}, status_code=429, headers={"Retry-After": "60"})

    async with running(Vendor(ok, expires_in=1000)) as vendor:
        tokens = create_source(vendor, wire, clock)
        first = await tokens.get_token()
        vendor.login = throttle
        clock.now += 850
        assert await tokens.get_token() == first
        assert clock.slept == []
        clock.now += 59
        assert await tokens.get_token() == first
        assert len(vendor.logins) == 2, "the login is left alone for as long as it says"
        clock.now += 2
        assert await tokens.get_token() == first
        assert len(vendor.logins) == 3


async def test_refused_renewal_keeps_the_token_until_it_expires(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": "temporarily_blocked"}, status_code=403)

    async with running(Vendor(ok, expires_in=10_000)) as vendor:
        tokens = create_source(vendor, wire, clock)
        first = await tokens.get_token()
        vendor.login = refuse
        clock.now += 9000
        assert await tokens.get_token() == first
        assert tokens.refusal is None
        assert tokens.fresh_token == first
        logins = len(vendor.logins)
        clock.now += 301
        assert await tokens.get_token() == first
        assert len(vendor.logins) == logins + 1, "the login is tried again"
        clock.now += 1000
        with pytest.raises(LoginRefused):
            await tokens.get_token()
        assert tokens.refusal is not None


async def test_no_repr_shows_a_secret_or_token(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok)) as vendor:
        tokens = create_source(vendor, wire, clock)
        token = await tokens.get_token()
        shown = f"{tokens!r} {vars(tokens)!r} {CLIENT!r} {CLIENT}"
        assert SECRET not in shown
        assert token not in shown
