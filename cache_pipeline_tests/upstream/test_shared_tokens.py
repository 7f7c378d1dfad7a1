"""One token for all processes: one login, sealed in Redis, renewed by the first process, with bounded waiting."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cache_pipeline.errors import LoginRefused, UpstreamFaulted
from cache_pipeline.upstream.config import OAuthClient, RetryPolicy
from cache_pipeline.upstream.http import httpx
from cache_pipeline.upstream.oauth import SharedTokens, TokenSource
from cache_pipeline.upstream.oauth.sealing import Seal
from cache_pipeline.upstream.quota import ClientState, QuotaPolicy
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline.upstream.redis_keys import UpstreamKeys
from cache_pipeline_tests.upstream.vendor import Valkey, Vendor, ok, running

pytestmark = pytest.mark.serial

Redis = redis.asyncio.Redis
SECRET = "s3cr3t with/slash"
KEYS = UpstreamKeys("shared")


@pytest.fixture
async def wire() -> AsyncIterator[httpx.AsyncHTTPTransport]:
    async with httpx.AsyncHTTPTransport() as transport:
        yield transport


class Process:
    """One process's own token source, and a clock that tests can move forward."""

    def __init__(
        self,
        vendor: Vendor,
        wire: httpx.AsyncHTTPTransport,
        shared: Redis,
        *,
        secret: str = SECRET,
        client: str = "alpha",
    ) -> None:
        self.clock_offset = 0.0
        oauth_client = OAuthClient(client_id=client, client_secret=SecretStr(secret))
        url = f"{vendor.url}/login"
        self.source = TokenSource(
            oauth_client,
            url,
            wire.handle_async_request,
            retries=RetryPolicy(max_attempts=2, first_wait_seconds=0.01, max_wait_seconds=0.02),
            store=SharedTokens(shared, KEYS, oauth_client, url, timeout=0.5, clock=self.clock),
            clock=self.clock,
        )

    def clock(self) -> float:
        return time.monotonic() + self.clock_offset

    async def token(self) -> str:
        return await self.source.get_token()


async def test_many_processes_without_token_log_in_once(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.2)
        return JSONResponse({})

    async with running(Vendor(ok, login=slow)) as vendor:
        processes = [Process(vendor, wire, shared_redis) for _ in range(20)]
        assert len(set(await asyncio.gather(*(each.token() for each in processes)))) == 1
        assert vendor.logins == ["alpha"]


async def test_others_keep_the_token_while_one_process_renews(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    renewal_began, gate = asyncio.Event(), asyncio.Event()

    async def held_back(_: Request) -> Response:
        if len(vendor.logins) > 1:
            renewal_began.set()
            await gate.wait()
        return JSONResponse({})

    async with running(Vendor(ok, login=held_back, expires_in=100)) as vendor:
        renewing, other = Process(vendor, wire, shared_redis), Process(vendor, wire, shared_redis)
        old = await renewing.token()
        assert await other.token() == old
        await shared_redis.pexpire(KEYS.token("alpha"), 19_000)
        renewing.clock_offset = other.clock_offset = 81
        renewal = asyncio.create_task(renewing.token())
        await renewal_began.wait()
        async with asyncio.timeout(0.5):
            assert await other.token() == old
            assert await renewing.token() == old, "callers in the renewing process do not wait either"
        gate.set()
        new = await renewal
        assert new != old
        other.clock_offset += 2
        assert await other.token() == new
        assert len(vendor.logins) == 2


async def test_adopted_token_keeps_its_age(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok, expires_in=100)) as vendor:
        first = await Process(vendor, wire, shared_redis).token()
        await shared_redis.pexpire(KEYS.token("alpha"), 30_000)
        late = Process(vendor, wire, shared_redis)
        assert await late.token() == first
        late.clock_offset = 9
        assert late.source.fresh_token == first
        late.clock_offset = 11
        assert late.source.fresh_token is None, "20 of its 100 seconds are left"


async def test_lease_of_dead_process_expires(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        await shared_redis.set(KEYS.login("alpha"), "a dead process", px=400)
        began = time.monotonic()
        await Process(vendor, wire, shared_redis).token()
        assert 0.3 < time.monotonic() - began < 2


async def test_cancelled_login_releases_the_lease_at_once(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def slow(_: Request) -> Response:
        await asyncio.sleep(0 if len(vendor.logins) > 1 else 5)
        return JSONResponse({})

    async with running(Vendor(ok, login=slow)) as vendor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await Process(vendor, wire, shared_redis).token()
        async with asyncio.timeout(1):
            await Process(vendor, wire, shared_redis).token()


async def test_invalid_token_is_renewed_once_for_all(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        processes = [Process(vendor, wire, shared_redis) for _ in range(8)]
        old = {await each.token() for each in processes}.pop()

        async def meet_401(process: Process) -> str:
            await process.source.invalidate(old)
            return await process.token()

        assert len(set(await asyncio.gather(*(meet_401(each) for each in processes)))) == 1
        assert len(vendor.logins) == 2
        late = Process(vendor, wire, shared_redis)
        new = await late.token()
        await late.source.invalidate(old)
        assert await late.token() == new, "a newer token stays"


async def test_redis_holds_neither_token_nor_secret_in_clear(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        token = await Process(vendor, wire, shared_redis).token()
        stored = await shared_redis.hgetall(KEYS.token("alpha"))
        assert token.encode() not in b"".join([*stored.keys(), *stored.values()])
        assert SECRET.encode() not in b"".join([*stored.keys(), *stored.values()])
        assert 3_590_000 < await shared_redis.pttl(KEYS.token("alpha")) <= 3_600_000


async def test_rotated_secret_ignores_the_old_token(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        before = await Process(vendor, wire, shared_redis, secret="old").token()
        rotated = Process(vendor, wire, shared_redis, secret="new")
        assert await rotated.token() != before
        assert len(vendor.logins) == 2
        assert await Process(vendor, wire, shared_redis, secret="new").token() == await rotated.token()


async def test_sealed_text_opens_only_unmodified_for_its_client():
    seal = Seal(SecretStr(SECRET), ("platform", "alpha"))
    sealed = seal.seal("token", "1000")
    assert seal.open(sealed, "1000") == "token"
    assert seal.seal("token", "1000") != sealed
    assert seal.open(sealed, "9000") is None, "its lifetime cannot be extended"
    assert Seal(SecretStr(SECRET), ("platform", "beta")).open(sealed, "1000") is None
    assert Seal(SecretStr("other"), ("platform", "alpha")).open(sealed, "1000") is None
    for broken in ("", "AAAA", "not base64!", sealed[:-8] + "AAAAAAA=", sealed[:20]):
        assert seal.open(broken, "1000") is None


async def test_refusal_is_shared_until_the_login_succeeds(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=401)

    async with running(Vendor(ok, login=refuse)) as vendor:
        with pytest.raises(LoginRefused, match="401 invalid_client;"):
            await Process(vendor, wire, shared_redis).token()
        other = Process(vendor, wire, shared_redis)
        with pytest.raises(
            LoginRefused, match=r"OAuth client alpha .* 401 invalid_client \(reported to another process 0 s"
        ):
            await other.token()
        assert other.source.refusal is not None
        assert len(vendor.logins) == 1
        quota = Quota(shared_redis, "shared", {"alpha": 1}, QuotaPolicy(60, 60))
        (state,) = await quota.snapshot()
        assert (state.state, state.login_refused) == (ClientState.refused, True)

        vendor.login = None
        await Process(vendor, wire, shared_redis, secret="corrected").token()
        (state,) = await quota.snapshot()
        assert (state.state, state.login_refused) == (ClientState.available, False)


async def test_refusal_of_one_process_leaves_others_their_token(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=401)

    async with running(Vendor(ok, expires_in=1000)) as vendor:
        one, other = (Process(vendor, wire, shared_redis) for _ in range(2))
        first = await one.token()
        assert await other.token() == first
        vendor.login = refuse
        one.clock_offset = other.clock_offset = 900
        # As if 900 seconds had passed at the server too.
        await shared_redis.pexpire(KEYS.token("alpha"), 100_000)
        assert await one.token() == first
        assert await other.token() == first
        assert (one.source.refusal, other.source.refusal) == (None, None)
        assert await Process(vendor, wire, shared_redis).token() == first
        (state,) = await Quota(shared_redis, "shared", {"alpha": 1}, QuotaPolicy(60, 60)).snapshot()
        assert state.login_refused
        assert state.state is not ClientState.refused


async def test_failed_login_is_retried_by_one_process(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis, caplog: pytest.LogCaptureFixture
):
    async def fail(_: Request) -> Response:
        return JSONResponse({}, status_code=500)

    async with running(Vendor(ok, expires_in=100)) as vendor:
        processes = [Process(vendor, wire, shared_redis) for _ in range(5)]
        old = {await each.token() for each in processes}.pop()
        vendor.login = fail
        await shared_redis.pexpire(KEYS.token("alpha"), 15_000)
        for process in processes:
            process.clock_offset = 85
        assert {await each.token() for each in processes} == {old}
        assert len(vendor.logins) == 1 + 1, "one process made its one attempt"
        assert "OAuth client alpha keeps its token for now" in caplog.text


async def test_each_process_logs_in_itself_without_redis(
    wire: httpx.AsyncHTTPTransport, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    server = Valkey()
    server.start()
    try:
        async with running(Vendor(ok)) as vendor, Redis.from_url(server.url) as client:
            first, second = Process(vendor, wire, client), Process(vendor, wire, client)
            shared = await first.token()
            server.stop()
            assert await second.token() != shared
            await second.source.invalidate(await second.token())
            alone = await second.token()
            assert len(vendor.logins) == 3

            server.start()
            second.clock_offset += 1.1
            third = Process(vendor, wire, client)
            await third.token()
            assert len(vendor.logins) == 4, "Redis came back empty"
            assert await second.token() == alone
            assert alone not in caplog.text
    finally:
        server.stop()


async def test_hanging_redis_delays_a_login_only_once(wire: httpx.AsyncHTTPTransport):
    server = Valkey()
    server.start()
    try:
        async with running(Vendor(ok)) as vendor, Redis.from_url(server.url) as client:
            process = Process(vendor, wire, client)
            with server.frozen():
                began = time.monotonic()
                await process.token()
                assert 0.5 <= time.monotonic() - began < 0.9
    finally:
        server.stop()


async def test_unavailable_login_fails_waiters_within_the_lease(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def fail(_: Request) -> Response:
        return JSONResponse({}, status_code=500)

    async with running(Vendor(ok, login=fail)) as vendor:
        with pytest.raises(UpstreamFaulted):
            await Process(vendor, wire, shared_redis).token()
        waiting = Process(vendor, wire, shared_redis)
        waiter = asyncio.create_task(waiting.token())
        await asyncio.sleep(0.2)
        waiting.clock_offset = 11
        with pytest.raises(UpstreamFaulted):
            await waiter


async def test_snapshot_shows_token_age_and_renewal(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    quota = Quota(shared_redis, "shared", {"alpha": 1}, QuotaPolicy(60, 60))
    (state,) = await quota.snapshot()
    assert (state.token_age_s, state.token_life_s) == (None, None)
    async with running(Vendor(ok, expires_in=100)) as vendor:
        await Process(vendor, wire, shared_redis).token()
    await shared_redis.pexpire(KEYS.token("alpha"), 60_000)
    (state,) = await quota.snapshot()
    assert state.token_life_s == 100
    assert state.token_age_s == pytest.approx(40, abs=0.5)
    await shared_redis.set(KEYS.login("alpha"), "another process", px=5000)
    assert (await quota.snapshot())[0].state is ClientState.refreshing


async def test_tokens_are_shared_through_redis_cluster(wire: httpx.AsyncHTTPTransport, cluster_redis: Redis):
    async def refuse(_: Request) -> Response:
        return JSONResponse({}, status_code=401)

    async with running(Vendor(ok)) as vendor:
        first, second = (Process(vendor, wire, cluster_redis) for _ in range(2))
        token = await first.token()
        assert await second.token() == token
        await second.source.invalidate(token)
        assert await second.token() != token
        vendor.login = refuse
        with pytest.raises(LoginRefused):
            await Process(vendor, wire, cluster_redis, client="beta").token()
        with pytest.raises(LoginRefused, match="another process"):
            await Process(vendor, wire, cluster_redis, client="beta").token()
        quota = Quota(cluster_redis, "shared", {"alpha": 1, "beta": 1}, QuotaPolicy(60, 60))
        assert [each.login_refused for each in await quota.snapshot()] == [False, True]


async def test_decoding_redis_client_shares_the_token(
    wire: httpx.AsyncHTTPTransport, redis_database: str, shared_redis: Redis
):
    async with running(Vendor(ok)) as vendor, Redis.from_url(redis_database, decode_responses=True) as decoding:
        assert await Process(vendor, wire, shared_redis).token() == await Process(vendor, wire, decoding).token()
