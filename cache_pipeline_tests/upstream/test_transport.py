"""The transport hides rate limits, tokens and failures from its callers, or raises one clear error."""

import asyncio
import contextlib
import logging
import pickle
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import redis.asyncio
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from cache_pipeline.errors import (
    AmbiguousSubmit,
    ClientUnknown,
    LoginRefused,
    UpstreamError,
    UpstreamFaulted,
    UpstreamRefused,
    UpstreamUnreachable,
)
from cache_pipeline.query.lane import Lane
from cache_pipeline.upstream.client import create_upstream_client
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy, Timeouts, UpstreamConfig
from cache_pipeline.upstream.dialect import Dialect
from cache_pipeline.upstream.error_bodies import raise_for_refusal
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.quota import QuotaPolicy
from cache_pipeline.upstream.quota.model import MAX_IN_FLIGHT_SECONDS, MAX_PAUSE_SECONDS
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.response_body import iterate_body, read_whole_body
from cache_pipeline.upstream.uncounted import send_uncounted
from cache_pipeline_tests.upstream.conftest import Clock
from cache_pipeline_tests.upstream.vendor import Vendor, free_port, ok, running

pytestmark = pytest.mark.serial

Redis = redis.asyncio.Redis
QUICK = RetryPolicy(max_attempts=3, first_wait_seconds=0.01, max_wait_seconds=0.02)
POLICY = QuotaPolicy(limit=60, window_seconds=60)


def config(
    vendor: Vendor, *client_ids: str, policy: QuotaPolicy = POLICY, retries: RetryPolicy = QUICK
) -> UpstreamConfig:
    return UpstreamConfig(
        account="test",
        base_url=vendor.url,
        login_url=f"{vendor.url}/login",
        clients=tuple(
            OAuthClient.model_validate({"client_id": each, "client_secret": f"secret-of-{each}"})
            for each in client_ids or ("alpha",)
        ),
        policy=policy,
        dialect=Dialect(request_id_fields=("contextId",)),
        timeouts=Timeouts(connect=1, read=0.3, write=1, pool=1),
        retries=retries,
    )


@contextlib.asynccontextmanager
async def connected(
    settings: UpstreamConfig, shared: Redis, max_in_flight_seconds: float = MAX_IN_FLIGHT_SECONDS
) -> AsyncIterator[tuple[httpx.AsyncClient, Quota]]:
    quota = Quota(
        shared,
        settings.account,
        settings.weights,
        settings.policy,
        max_in_flight_seconds=max_in_flight_seconds,
        keys=settings.keys,
    )
    async with create_upstream_client(settings, shared, quota=quota) as client:
        yield client, quota


def in_turn(*answers: Response):
    """Return a handler that gives one answer after the other, and the last one from then on."""
    pending = list(answers)

    async def answer(_: Request) -> Response:
        return pending.pop(0) if len(pending) > 1 else pending[0]

    return answer


def failure(status: int, **headers: str) -> Response:
    body = {"message": "the message", "code": "some.code", "status": status, "contextId": "corr-1"}
    return JSONResponse(
        body, status_code=status, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )


async def hang(_: Request) -> Response:
    await asyncio.sleep(0.6)
    return JSONResponse({})


async def test_answer_names_its_client_and_shows_no_token(shared_redis: Redis):
    async with running(Vendor(ok)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        response = await client.post("/jobs", json={"a": 1})
        assert response.json() == {"ok": True}
        assert response.extensions["oauth_client"] == "alpha"
        assert vendor.authorizations == ["Bearer token-alpha-1"]
        assert "authorization" not in response.request.headers
        (state,) = await quota.snapshot()
        assert (state.used, state.in_flight) == (1, 0)


async def test_poll_can_be_pinned_to_the_submitting_client(shared_redis: Redis):
    async with (
        running(Vendor(ok)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        for _ in range(4):
            await client.get("/jobs/1", extensions={"oauth_client": "beta", "lane": Lane.scheduled})
        assert set(vendor.by_client()) == {"beta"}
        with pytest.raises(
            ClientUnknown, match=r"OAuth client gone is not configured for test \(configured: alpha, beta\)"
        ):
            await client.get("/jobs/1", extensions={"oauth_client": "gone"})


async def test_poll_of_a_job_is_not_starved_by_submits(shared_redis: Redis):
    policy = QuotaPolicy(limit=20, window_seconds=60, reserve=0, default_pause_seconds=1)
    async with running(Vendor(ok)) as vendor, connected(config(vendor, policy=policy), shared_redis) as (client, _):
        await shared_redis.set(config(vendor).keys.generation, "known")
        for _ in range(18):
            await client.post("/jobs", json={}, extensions={"lane": Lane.scheduled})
        async with asyncio.timeout(20):
            await client.get("/jobs/1", extensions={"lane": Lane.backfill, "oauth_client": "alpha"})


async def test_lane_may_be_text_and_must_be_valid(shared_redis: Redis):
    policy = replace(POLICY, limit=4, reserve=2)
    settings = config(Vendor(ok, url="http://127.0.0.1:1"), policy=policy)
    async with running(Vendor(ok)) as vendor:
        settings = config(vendor, policy=policy)
        async with connected(settings, shared_redis) as (client, _):
            await client.get("/a", extensions={"lane": "backfill"})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get("/a", extensions={"lane": "backfill"})
            await client.get("/a")
            with pytest.raises(ValueError, match="'urgent' is not a valid Lane"):
                await client.get("/a", extensions={"lane": "urgent"})


async def test_429_is_retried_after_exactly_retry_after(shared_redis: Redis):
    answer = in_turn(failure(429, Retry_After="1"), JSONResponse({"done": True}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        response = await client.post("/jobs", json={})
        assert response.json() == {"done": True}
        first, second = vendor.by_client()["alpha"]
        assert 1.0 <= second - first <= 1.2
        (state,) = await quota.snapshot()
        assert (state.used, state.rejected_total) == (2, 1)


@pytest.mark.parametrize("retry_after", ["0", "-3", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_429_with_immediate_retry_after_is_retried_later(shared_redis: Redis, retry_after: str):
    answer = in_turn(failure(429, Retry_After=retry_after), JSONResponse({"done": True}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.post("/jobs", json={})
        first, second = vendor.by_client()["alpha"]
        assert second - first >= 1.0


async def test_429_with_huge_retry_after_fails_at_the_timeout(shared_redis: Redis):
    answer = in_turn(failure(429, Retry_After="99999999999999"))
    async with running(Vendor(answer)) as vendor:
        settings = config(vendor, retries=replace(QUICK, rate_limit_timeout_seconds=0.2))
        async with connected(settings, shared_redis) as (client, quota):
            with pytest.raises(UpstreamRefused, match="rate limit still holds"):
                await client.post("/jobs", json={})
            assert (await quota.snapshot())[0].throttled_for_s <= MAX_PAUSE_SECONDS


async def test_429_is_retried_at_once_with_another_client(shared_redis: Redis):
    answer = in_turn(failure(429, Retry_After="30"), JSONResponse({}))
    async with (
        running(Vendor(answer)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        async with asyncio.timeout(1):
            assert (await client.get("/a")).status_code == 200
        assert len(vendor.by_client()) == 2


async def test_retry_after_may_be_a_date(shared_redis: Redis):
    until = datetime.now(UTC) + timedelta(seconds=20)
    answer = in_turn(failure(429, Retry_After=format_datetime(until, usegmt=True)), JSONResponse({}))
    async with (
        running(Vendor(answer)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, quota),
    ):
        await client.get("/a")
        pause = max(each.throttled_for_s for each in await quota.snapshot())
        assert 18 <= pause <= 20


async def test_low_remaining_pauses_the_client_before_any_429(shared_redis: Redis):
    answer = in_turn(JSONResponse({}, headers={"X-RateLimit-Remaining": "2", "Retry-After": "0.4"}), JSONResponse({}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.get("/a")
        await client.get("/a")
        first, second = vendor.by_client()["alpha"]
        assert 0.4 <= second - first <= 0.6


async def test_persistent_429_fails_at_the_timeout(shared_redis: Redis):
    retries = replace(QUICK, rate_limit_timeout_seconds=0.3)
    async with (
        running(Vendor(in_turn(failure(429, Retry_After="60")))) as vendor,
        connected(config(vendor, retries=retries), shared_redis) as (client, _),
    ):
        with pytest.raises(UpstreamRefused, match=r"rate limit still holds after 0.3 s") as caught:
            await client.get("/a")
        assert caught.value.status == 429
        assert len(vendor.calls) == 1


async def test_unexpected_401_renews_and_retries_once(shared_redis: Redis):
    async with running(Vendor(ok)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.get("/a")
        vendor.live.clear()
        assert (await client.post("/jobs", json={})).status_code == 200
        assert (len(vendor.logins), vendor.unauthorized, len(vendor.calls)) == (2, 1, 3)
        vendor.live.clear()
        responses = await asyncio.gather(*(client.post("/jobs", json={}) for _ in range(10)))
        assert {response.status_code for response in responses} == {200}
        assert len(vendor.logins) == 3, "all requests with the invalid token share one renewal"


async def test_429_after_a_renewed_token_is_retried_with_another_client(shared_redis: Redis):
    answer = in_turn(JSONResponse({}), JSONResponse({}), failure(429, Retry_After="30"), JSONResponse({"ok": 1}))
    async with (
        running(Vendor(answer)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        for _ in range(2):
            await client.get("/a")
        vendor.live.clear()
        async with asyncio.timeout(2):
            assert (await client.get("/a")).json() == {"ok": 1}


async def test_persistent_401_is_returned_after_one_renewal(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(401)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        response = await client.get("/a")
        assert response.status_code == 401
        assert (len(vendor.logins), len(vendor.calls)) == (2, 2)


async def test_client_whose_tokens_are_refused_leaves_its_requests_to_the_others(shared_redis: Redis):
    async def answer(request: Request) -> Response:
        return JSONResponse({}, status_code=401 if "alpha" in request.headers["authorization"] else 200)

    async with (
        running(Vendor(answer)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        for method in ("GET", "POST"):
            for _ in range(4):
                response = await client.request(method, "/a")
                assert (response.status_code, response.extensions["oauth_client"]) == (200, "beta")
        assert (await client.get("/a", extensions={"oauth_client": "alpha"})).status_code == 401


async def test_401_of_all_clients_is_returned_after_two_of_them(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(401)))) as vendor,
        connected(config(vendor, "alpha", "beta", "gamma"), shared_redis) as (client, _),
    ):
        assert (await client.get("/a")).status_code == 401
        assert len(vendor.calls) == 4


async def test_client_whose_new_tokens_are_refused_logs_in_once_a_minute(shared_redis: Redis, clock: Clock):
    answer = in_turn(failure(401))
    async with (
        running(Vendor(answer)) as vendor,
        create_upstream_client(config(vendor), shared_redis, clock=clock) as client,
    ):
        for _ in range(5):
            assert (await client.get("/a")).status_code == 401
        assert (len(vendor.logins), len(vendor.calls)) == (3, 2 + 2 + 3)
        for minute in (1, 2):
            clock.now += 61
            for _ in range(2):
                assert (await client.get("/a")).status_code == 401
            assert len(vendor.logins) == 3 + minute


async def test_token_revoked_twice_is_renewed_by_next_request(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(401), failure(401), failure(401), JSONResponse({})))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        statuses = [(await client.get("/a")).status_code for _ in range(3)]
        assert (statuses, len(vendor.logins)) == ([401, 200, 200], 3)


async def test_query_longer_than_its_token_gets_no_401(shared_redis: Redis):
    async with (
        running(Vendor(ok, expires_in=0.5)) as vendor,
        connected(config(vendor, policy=replace(POLICY, limit=300)), shared_redis) as (client, _),
    ):
        until, statuses = time.monotonic() + 1.1, set[int]()
        while time.monotonic() < until:
            statuses.add((await client.get("/jobs/1")).status_code)
            await asyncio.sleep(0.02)
        assert statuses == {200}
        assert 3 <= len(vendor.logins) <= 4
        assert vendor.unauthorized == 0


async def test_client_with_refused_login_is_logged_and_skipped(shared_redis: Redis, caplog: pytest.LogCaptureFixture):
    async def only_beta(_: Request) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=200 if vendor.logins[-1] == "beta" else 401)

    async with (
        running(Vendor(ok, login=only_beta)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, quota),
    ):
        for _ in range(6):
            assert (await client.get("/a")).extensions["oauth_client"] == "beta"
        assert vendor.logins.count("alpha") == 1
        errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1
        assert "login refused for OAuth client alpha" in errors[0]
        assert {each.client_id: each.used for each in await quota.snapshot()} == {"alpha": 0, "beta": 6}
        with pytest.raises(LoginRefused, match="OAuth client alpha"):
            await client.get("/a", extensions={"oauth_client": "alpha"})


async def test_client_revoked_during_a_run_is_skipped(shared_redis: Redis):
    async with (
        running(Vendor(ok)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        await asyncio.gather(*(client.get("/a") for _ in range(4)))

        async def not_alpha(_: Request) -> Response:
            return JSONResponse({}, status_code=401 if vendor.logins[-1] == "alpha" else 200)

        vendor.login = not_alpha
        vendor.live = {token: until for token, until in vendor.live.items() if "beta" in token}
        used = {(await client.get("/a")).extensions["oauth_client"] for _ in range(4)}
        assert used == {"beta"}


async def test_refusal_of_every_login_names_all_clients(shared_redis: Redis):
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=401)

    async with (
        running(Vendor(ok, login=refuse)) as vendor,
        connected(config(vendor, "alpha", "beta"), shared_redis) as (client, _),
    ):
        with pytest.raises(LoginRefused, match=r"every OAuth client \(alpha, beta\) at .*/login: 401 invalid_client"):
            await client.get("/a")
        assert vendor.calls == []


async def test_refused_client_is_tried_again_later(shared_redis: Redis, clock: Clock):
    allowed = False

    async def when_allowed(_: Request) -> Response:
        return JSONResponse({}, status_code=200 if allowed else 401)

    async with running(Vendor(ok, login=when_allowed)) as vendor:
        settings = config(vendor)
        async with create_upstream_client(settings, shared_redis, clock=clock) as client:
            with pytest.raises(LoginRefused):
                await client.get("/a")
            allowed = True
            with pytest.raises(LoginRefused):
                await client.get("/a")
            clock.now += settings.retries.refused_login_wait_seconds + 1
            await shared_redis.delete(config(vendor).keys.refused("alpha"))
            assert (await client.get("/a")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_failed_idempotent_request_is_retried(shared_redis: Redis, method: str):
    answer = in_turn(failure(500), failure(502), JSONResponse({"ok": 1}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        assert (await client.request(method, "/a")).status_code == 200
        assert len(vendor.calls) == 3
        assert (await quota.snapshot())[0].used == 3, "every retry had a grant"


@pytest.mark.parametrize("status", [408, 425])
async def test_request_that_was_not_received_is_sent_again(shared_redis: Redis, status: int):
    answer = in_turn(failure(status), JSONResponse({"ok": 1}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        assert (await client.post("/jobs", json={})).json() == {"ok": 1}
        assert len(vendor.calls) == 2
    async with (
        running(Vendor(in_turn(failure(status)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        with pytest.raises(UpstreamFaulted, match=f"failed at the vendor with {status} after 3 attempts"):
            await client.post("/jobs", json={})


async def test_body_that_cannot_be_decompressed_is_retried_or_ambiguous(shared_redis: Redis):
    broken = Response(b"not compressed", headers={"Content-Encoding": "gzip"})
    async with (
        running(Vendor(in_turn(broken, JSONResponse({"ok": 1})))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        assert (await client.get("/a")).json() == {"ok": 1}
    async with running(Vendor(in_turn(broken))) as vendor, connected(config(vendor), shared_redis) as (client, _):
        with pytest.raises(UpstreamUnreachable, match="cannot be decompressed"):
            await client.get("/a")
        with pytest.raises(AmbiguousSubmit, match="cannot be decompressed"):
            await client.post("/jobs", json={})
        with pytest.raises(UpstreamUnreachable, match="cannot be decompressed"):
            async with client.stream("GET", "/a", extensions={"streamed": True}) as response:
                assert [chunk async for chunk in iterate_body(response)] == []


def test_patience_outlasts_the_longest_believed_pause():
    assert RetryPolicy().rate_limit_timeout_seconds > MAX_PAUSE_SECONDS


@pytest.mark.parametrize(("retry_after", "waits"), [("700", [700.0]), ("100000", [900.0])])
async def test_retry_after_of_a_failure_is_waited_out_as_far_as_believed(
    shared_redis: Redis, retry_after: str, waits: list[float]
):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    answer = in_turn(failure(503, Retry_After=retry_after), JSONResponse({"ok": 1}))
    async with running(Vendor(answer)) as vendor:
        settings = config(vendor, retries=RetryPolicy())
        async with create_upstream_client(settings, shared_redis, sleep=sleep) as client:
            assert (await client.get("/a")).json() == {"ok": 1}
        assert slept == waits


async def test_persistent_failure_raises_after_bounded_attempts(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(500)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        with pytest.raises(UpstreamFaulted) as caught:
            await client.get("/a?token=hidden")
        expected = "GET /a failed at the vendor with 500 after 3 attempts: the message (correlation id corr-1)"
        assert str(caught.value) == expected
        assert len(vendor.calls) == 3


async def test_post_marked_idempotent_is_retried(shared_redis: Redis):
    answer = in_turn(failure(504), JSONResponse({}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.post("/query", json={}, extensions={"idempotent": True})
        assert len(vendor.calls) == 2


async def test_submit_that_times_out_is_ambiguous(shared_redis: Redis):
    async with running(Vendor(hang)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        with pytest.raises(AmbiguousSubmit, match="POST /jobs was sent once and may have been accepted: ReadTimeout"):
            await client.post("/jobs", json={})
        assert len(vendor.calls) == 1
        (state,) = await quota.snapshot()
        assert (state.used, state.in_flight) == (1, 0)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_submit_with_gateway_error_is_ambiguous(shared_redis: Redis, status: int):
    async with (
        running(Vendor(in_turn(failure(status)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        with pytest.raises(AmbiguousSubmit, match=f"{status} the message"):
            await client.post("/jobs", json={})
        assert len(vendor.calls) == 1


async def test_submit_with_500_is_not_retried(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(500)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        with pytest.raises(UpstreamFaulted, match="after 1 attempt"):
            await client.post("/jobs", json={})
        assert len(vendor.calls) == 1


async def test_submit_with_503_and_retry_after_is_retried(shared_redis: Redis):
    answer = in_turn(failure(503, Retry_After="0.4"), JSONResponse({}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.post("/jobs", json={})
        first, second = vendor.by_client()["alpha"]
        assert 0.4 <= second - first <= 0.7


async def test_unsent_submit_is_retried_and_uses_no_slot(shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        unreachable = Vendor(ok, url=f"http://127.0.0.1:{free_port()}")
        settings = config(unreachable).model_copy(update={"login_url": f"{vendor.url}/login"})
        async with connected(settings, shared_redis) as (client, quota):
            with pytest.raises(UpstreamUnreachable, match=r"cannot reach 127.0.0.1 after 3 attempts: .*check that"):
                await client.post("/jobs", json={})
            assert (await quota.snapshot())[0].used == 0


async def test_submit_with_connection_reset_is_ambiguous(shared_redis: Redis):
    received: list[bytes] = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server, running(Vendor(ok)) as vendor:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = config(Vendor(ok, url=url)).model_copy(update={"login_url": f"{vendor.url}/login"})
        async with connected(settings, shared_redis) as (client, _):
            with pytest.raises(AmbiguousSubmit):
                await client.post("/jobs", json={})
            assert len(received) == 1
            with pytest.raises(UpstreamUnreachable):
                await client.get("/jobs")
            assert len(received) == 1 + QUICK.max_attempts


@contextlib.asynccontextmanager
async def breaking_off(broken: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a vendor whose first `broken` answers end in the middle of their body."""
    received: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        complete = b'{"rows": 12}'
        body = complete[:5] if len(received) <= broken else complete
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


async def test_broken_answer_is_retried_only_if_safe(shared_redis: Redis):
    async with breaking_off(broken=1) as (url, received), running(Vendor(ok)) as vendor:
        settings = config(Vendor(ok, url=url)).model_copy(update={"login_url": f"{vendor.url}/login"})
        async with connected(settings, shared_redis) as (client, _):
            assert (await client.get("/results")).json() == {"rows": 12}
            assert len(received) == 2
    async with breaking_off(broken=9) as (url, received), running(Vendor(ok)) as vendor:
        settings = config(Vendor(ok, url=url)).model_copy(update={"login_url": f"{vendor.url}/login"})
        async with connected(settings, shared_redis) as (client, _):
            with pytest.raises(AmbiguousSubmit):
                await client.post("/jobs", json={})
            assert len(received) == 1
            with pytest.raises(UpstreamUnreachable, match="the answer broke off"):
                async with client.stream("GET", "/results", extensions={"streamed": True}) as response:
                    await response.aread()
            assert len(received) == 2


async def test_streamed_answer_is_left_unread(shared_redis: Redis):
    async def endless(_: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            while True:
                yield b"a,b,c\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(lines())

    async with running(Vendor(endless)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        async with (
            asyncio.timeout(2),
            client.stream("GET", "/result.csv", extensions={"streamed": True}) as response,
        ):
            async for line in response.aiter_lines():
                assert line == "a,b,c"
                break
        assert (await quota.snapshot())[0].in_flight == 0


async def test_cancelled_request_stays_counted_and_not_in_flight(shared_redis: Redis):
    async with running(Vendor(hang)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await client.get("/a")
        (state,) = await quota.snapshot()
        assert (state.used, state.in_flight) == (1, 0)


async def wait_for_calls(vendor: Vendor, calls: int) -> None:
    async with asyncio.timeout(10):
        while len(vendor.calls) < calls:  # noqa: ASYNC110 - the vendor sends no event
            await asyncio.sleep(0.01)


def slowly(answer: Response):
    async def answered(_: Request) -> Response:
        await asyncio.sleep(0.2)
        return answer

    return answered


async def test_submit_in_flight_completes_although_caller_is_cancelled(shared_redis: Redis):
    async with (
        running(Vendor(slowly(JSONResponse({"id": 1})))) as vendor,
        connected(config(vendor), shared_redis) as (client, quota),
    ):
        submitting = asyncio.create_task(client.post("/jobs", json={}))
        await wait_for_calls(vendor, 1)
        submitting.cancel()
        assert (await submitting).json() == {"id": 1}
        (state,) = await quota.snapshot()
        assert (state.used, state.in_flight, len(vendor.calls)) == (1, 0, 1)


async def test_cancelled_submit_that_times_out_is_ambiguous(shared_redis: Redis):
    async with running(Vendor(hang)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        submitting = asyncio.create_task(client.post("/jobs", json={}))
        await wait_for_calls(vendor, 1)
        submitting.cancel()
        with pytest.raises(AmbiguousSubmit, match="ReadTimeout"):
            await submitting


@pytest.mark.parametrize("answer", [failure(429, Retry_After="1"), failure(401), failure(503, Retry_After="1")])
async def test_cancelled_submit_that_was_refused_is_not_retried(shared_redis: Redis, answer: Response):
    async with running(Vendor(slowly(answer))) as vendor, connected(config(vendor), shared_redis) as (client, _):
        submitting = asyncio.create_task(client.post("/jobs", json={}))
        await wait_for_calls(vendor, 1)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert len(vendor.calls) == 1


async def test_submit_cancelled_twice_is_aborted(shared_redis: Redis):
    async with running(Vendor(hang)) as vendor, connected(config(vendor), shared_redis) as (client, quota):
        submitting = asyncio.create_task(client.post("/jobs", json={}))
        await wait_for_calls(vendor, 1)
        submitting.cancel()
        await asyncio.sleep(0.02)
        began = time.monotonic()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert time.monotonic() - began < 0.2
        assert (await quota.snapshot())[0].in_flight == 0


async def test_answer_must_come_within_the_time_in_flight(shared_redis: Redis):
    async with (
        running(Vendor(hang)) as vendor,
        connected(config(vendor), shared_redis, max_in_flight_seconds=0.1) as (client, _),
    ):
        with pytest.raises(AmbiguousSubmit, match=r"no answer within 0.1 s"):
            await client.post("/jobs", json={})


async def _drip() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.01)


async def test_body_that_never_ends_is_a_broken_answer():
    response = httpx.Response(200, content=_drip())
    with pytest.raises(httpx.ReadTimeout, match=r"did not end within 0.1 s"):
        await read_whole_body(response, streamed=False, host="vendor.example", timeout_seconds=0.1)
    assert response.is_closed


async def test_uncounted_request_is_answered_in_time_or_fails():
    sent: list[httpx.Request] = []

    async def send(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=_drip())

    with pytest.raises(UpstreamUnreachable, match=r"after 3 attempts: login: no whole answer within 0.1 s"):
        await send_uncounted(
            send, httpx.Request("POST", "https://login.example/token"), QUICK, purpose="login", timeout_seconds=0.1
        )
    assert len(sent) == 3


async def test_result_at_another_origin_uses_no_token_or_quota(shared_redis: Redis, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)

    class Storage(Vendor):
        async def _call(self, request: Request) -> Response:
            self.authorizations.append(request.headers.get("authorization"))
            return JSONResponse({"rows": 3})

    async with (
        running(Vendor(ok)) as vendor,
        running(Storage(ok)) as storage,
        connected(config(vendor), shared_redis) as (client, quota),
    ):
        response = await client.get(f"{storage.url}/result.csv?signature=hidden")
        assert response.json() == {"rows": 3}
        assert storage.authorizations == [None]
        assert (await quota.snapshot())[0].used == 0
        assert "/result.csv" in caplog.text
        assert "hidden" not in caplog.text


async def test_refusal_is_one_line_with_all_ids(shared_redis: Redis):
    async with (
        running(Vendor(in_turn(failure(400)))) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        response = await client.post("/jobs?key=hidden", json={})
        with pytest.raises(UpstreamRefused) as caught:
            raise_for_refusal(response)
        assert str(caught.value) == "POST /jobs was refused with 400: the message [some.code] (correlation id corr-1)"
        assert len(vendor.calls) == 1


async def test_redirect_is_a_refusal(shared_redis: Redis):
    answer = in_turn(Response(status_code=302, headers={"Location": "http://example.invalid/"}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        with pytest.raises(UpstreamRefused, match="GET /a was refused with 302"):
            raise_for_refusal(await client.get("/a"))


async def test_no_secret_or_token_is_logged_at_debug(shared_redis: Redis, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    answer = in_turn(failure(500), failure(401), failure(429, Retry_After="0"), JSONResponse({}))
    async with running(Vendor(answer)) as vendor, connected(config(vendor), shared_redis) as (client, _):
        await client.get("/a")
        text = caplog.text + repr([vars(record) for record in caplog.records])
        assert "HTTP Request" in text
        for token in [*vendor.live, "secret-of-alpha", "c2VjcmV0", "YWxwaGE6"]:
            assert token not in text


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnreachable(host="h", reason="two\nlines", attempts=2),
        LoginRefused(client_ids=["a"], login_url="https://l", reason="no"),
        UpstreamRefused(status=400, method="GET", path="/a", code="c", message="m\nn", correlation_id="i"),
        UpstreamFaulted(status=500, method="GET", path="/a", attempts=3, message=None, correlation_id=None),
        AmbiguousSubmit(method="POST", path="/a", reason="r"),
        ClientUnknown(client_id="a", account="p", known=["b"]),
    ],
)
def test_errors_are_one_line_and_can_be_pickled(error: UpstreamError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert "\n" not in str(error)


async def test_client_sends_its_user_agent(shared_redis: Redis):
    seen: list[str] = []

    async def remember(request: Request) -> Response:
        seen.append(request.headers["user-agent"])
        return JSONResponse({})

    async with (
        running(Vendor(remember, login=remember)) as vendor,
        connected(config(vendor), shared_redis) as (client, _),
    ):
        await client.get("/a")
        assert client.timeout == httpx.Timeout(connect=1, read=0.3, write=1, pool=1)
        assert len(seen) == 2
        assert all(agent.startswith("cache-pipeline/0") for agent in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_url": "api.mypurecloud.com"}, "must be a complete URL"),
        ({"login_url": "https://id:hunter2@login.example.com"}, "put secrets into clients"),
        ({"clients": []}, "at least 1 item"),
        ({"clients": [{"client_id": "a", "client_secret": "x"}] * 2}, "OAuth client a more than once"),
        ({"max_connections": 21}, "less than or equal to 20"),
        ({"account": "a{b}"}, "String should match pattern"),
    ],
)
def test_invalid_settings_name_the_field_without_the_secret(change: dict[str, object], message: str):
    valid: dict[str, object] = {
        "account": "test",
        "base_url": "https://api.example.com",
        "login_url": "https://login.example.com/oauth/token",
        "clients": [{"client_id": "a", "client_secret": "hunter2"}],
        "policy": {"limit": 60, "window_seconds": 60},
    }
    assert UpstreamConfig.model_validate(valid).weights == {"a": 1}
    with pytest.raises(ValidationError, match=message) as caught:
        UpstreamConfig.model_validate(valid | change)
    assert next(iter(change)) in str(caught.value)
    assert "hunter2" not in str(caught.value)
