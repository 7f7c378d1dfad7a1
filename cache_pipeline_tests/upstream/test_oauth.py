"""Tokens: renewed at 80 % of their life, once for all who wait, and never shown."""

import asyncio
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


def source(vendor: Vendor, wire: httpx.AsyncHTTPTransport, clock: Clock) -> TokenSource:
    return TokenSource(
        CLIENT,
        f"{vendor.url}/login",
        wire.handle_async_request,
        retries=RetryPolicy(max_attempts=3),
        clock=clock,
        sleep=clock.sleep,
    )


async def test_a_token_is_renewed_when_older_than_80_percent_of_its_life(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok, expires_in=1000)) as vendor:
        tokens = source(vendor, wire, clock)
        first = await tokens.token()
        clock.now += 799
        assert await tokens.token() == first
        clock.now += 2
        assert tokens.fresh is None
        assert await tokens.token() != first
        assert vendor.logins == ["alpha", "alpha"]


async def test_a_login_that_names_no_lifetime_is_assumed_to_last_five_minutes(
    wire: httpx.AsyncHTTPTransport, clock: Clock
):
    async with running(Vendor(ok, expires_in=None)) as vendor:
        tokens = source(vendor, wire, clock)
        await tokens.token()
        clock.now += 239
        assert tokens.fresh is not None
        clock.now += 2
        assert tokens.fresh is None


async def test_a_hundred_who_need_a_token_share_one_login(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok)) as vendor:
        tokens = source(vendor, wire, clock)
        given = await asyncio.gather(*(tokens.token() for _ in range(100)))
        assert len(set(given)) == 1
        for _ in range(100):
            await tokens.invalidate(given[0])
        again = await asyncio.gather(*(tokens.token() for _ in range(100)))
        assert len(set(again)) == 1
        await tokens.invalidate(given[0])
        assert await tokens.token() == again[0], "a token that was replaced already is not dropped again"
        assert len(vendor.logins) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refused_login_names_client_and_url_and_never_the_secret(
    wire: httpx.AsyncHTTPTransport, clock: Clock, status: int
):
    async def refuse(request: Request) -> Response:
        assert request.headers["authorization"].startswith("Basic ")
        assert request.url.query == ""
        assert await request.body() == b"grant_type=client_credentials"
        return JSONResponse({"error": "invalid_client", "description": f"wrong secret {SECRET}"}, status_code=status)

    async with running(Vendor(ok, login=refuse)) as vendor:
        with pytest.raises(LoginRefused) as caught:
            await source(vendor, wire, clock).token()
        message = str(caught.value)
        assert "OAuth client alpha" in message
        assert f"{vendor.url}/login" in message
        assert f"{status} invalid_client wrong secret ***" in message
        assert SECRET not in repr(caught.value)
        assert len(vendor.logins) == 1


async def test_an_answer_that_is_no_token_is_a_refused_login(wire: httpx.AsyncHTTPTransport, clock: Clock):
    class NotALogin(Vendor):
        async def _login(self, request: Request) -> Response:
            return PlainTextResponse("<html>welcome</html>")

    async with running(NotALogin(ok)) as vendor:
        with pytest.raises(LoginRefused, match=r"200 without an access_token; is this the login URL\?"):
            await source(vendor, wire, clock).token()


async def test_a_login_that_faults_or_throttles_is_repeated_within_bounds(wire: httpx.AsyncHTTPTransport, clock: Clock):
    answers = iter([503, 429, 200])

    async def falter(_: Request) -> Response:
        return JSONResponse({}, status_code=next(answers), headers={"Retry-After": "7"})

    async with running(Vendor(ok, login=falter)) as vendor:
        await source(vendor, wire, clock).token()
        assert clock.slept == [7, 7]

        async def fail(_: Request) -> Response:
            return JSONResponse({"message": "down"}, status_code=500)

        vendor.login = fail
        with pytest.raises(UpstreamFaulted, match="POST /login failed on the vendor's side with 500 after 3 attempts"):
            await source(vendor, wire, clock).token()


async def test_a_login_that_cannot_be_reached_names_the_host(wire: httpx.AsyncHTTPTransport, clock: Clock):
    vendor = Vendor(ok, url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamUnreachable, match=r"cannot reach 127.0.0.1 after 3 attempts: login: .*; check"):
        await source(vendor, wire, clock).token()


async def test_a_renewal_that_fails_leaves_the_old_token_in_use_until_it_dies(
    wire: httpx.AsyncHTTPTransport, clock: Clock
):
    async def fail(_: Request) -> Response:
        return JSONResponse({}, status_code=500)

    async with running(Vendor(ok, expires_in=1000)) as vendor:
        tokens = source(vendor, wire, clock)
        first = await tokens.token()
        vendor.login = fail
        clock.now += 900
        assert await tokens.token() == first
        logins = len(vendor.logins)
        assert await tokens.token() == first
        assert len(vendor.logins) == logins, "the login is not asked again by every request"
        clock.now += 101
        with pytest.raises(UpstreamFaulted):
            await tokens.token()
        vendor.login = None
        assert await tokens.token() != first


async def test_neither_secret_nor_token_shows_in_any_repr(wire: httpx.AsyncHTTPTransport, clock: Clock):
    async with running(Vendor(ok)) as vendor:
        tokens = source(vendor, wire, clock)
        token = await tokens.token()
        shown = f"{tokens!r} {vars(tokens)!r} {CLIENT!r} {CLIENT}"
        assert SECRET not in shown
        assert token not in shown
