"""One token for all processes: one login, sealed in Redis, renewed by whoever comes first, and never waited for in vain."""

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
from cache_pipeline.upstream.quota import ClientState, Quota, QuotaPolicy
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
    """What one process has of its own: a token source, and a clock that can be pushed on."""

    def __init__(
        self,
        vendor: Vendor,
        wire: httpx.AsyncHTTPTransport,
        shared: Redis,
        *,
        secret: str = SECRET,
        client: str = "alpha",
    ) -> None:
        self.pushed = 0.0
        who = OAuthClient(client_id=client, client_secret=SecretStr(secret))
        url = f"{vendor.url}/login"
        self.source = TokenSource(
            who,
            url,
            wire.handle_async_request,
            retries=RetryPolicy(max_attempts=2, first_wait_seconds=0.01, max_wait_seconds=0.02),
            store=SharedTokens(shared, KEYS.platform, who, url, timeout=0.5, clock=self.clock),
            clock=self.clock,
        )

    def clock(self) -> float:
        return time.monotonic() + self.pushed

    async def token(self) -> str:
        return await self.source.token()


async def test_many_processes_with_no_token_log_in_once(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.2)
        return JSONResponse({})

    async with running(Vendor(ok, login=slow)) as vendor:
        processes = [Process(vendor, wire, shared_redis) for _ in range(20)]
        assert len(set(await asyncio.gather(*(each.token() for each in processes)))) == 1
        assert vendor.logins == ["alpha"]


async def test_one_process_renews_at_80_percent_and_the_others_go_on_with_the_living_token(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    asked, gate = asyncio.Event(), asyncio.Event()

    async def held(_: Request) -> Response:
        if len(vendor.logins) > 1:
            asked.set()
            await gate.wait()
        return JSONResponse({})

    async with running(Vendor(ok, login=held, expires_in=100)) as vendor:
        renewing, other = Process(vendor, wire, shared_redis), Process(vendor, wire, shared_redis)
        old = await renewing.token()
        assert await other.token() == old
        await shared_redis.pexpire(KEYS.token("alpha"), 19_000)
        renewing.pushed = other.pushed = 81
        renewal = asyncio.create_task(renewing.token())
        await asked.wait()
        async with asyncio.timeout(0.5):
            assert await other.token() == old
            assert await renewing.token() == old, "nor does anybody in the renewing process wait"
        gate.set()
        new = await renewal
        assert new != old
        other.pushed += 2
        assert await other.token() == new
        assert len(vendor.logins) == 2


async def test_a_token_taken_over_is_as_old_as_it_is(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok, expires_in=100)) as vendor:
        first = await Process(vendor, wire, shared_redis).token()
        await shared_redis.pexpire(KEYS.token("alpha"), 30_000)
        late = Process(vendor, wire, shared_redis)
        assert await late.token() == first
        late.pushed = 9
        assert late.source.fresh == first
        late.pushed = 11
        assert late.source.fresh is None, "20 of its 100 seconds are left"


async def test_a_process_that_dies_while_it_logs_in_frees_the_others(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    async with running(Vendor(ok)) as vendor:
        await shared_redis.set(KEYS.login("alpha"), "a dead one", px=400)
        began = time.monotonic()
        await Process(vendor, wire, shared_redis).token()
        assert 0.3 < time.monotonic() - began < 2


async def test_one_that_is_cancelled_while_it_logs_in_frees_the_others_at_once(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    async def slow(_: Request) -> Response:
        await asyncio.sleep(0 if len(vendor.logins) > 1 else 5)
        return JSONResponse({})

    async with running(Vendor(ok, login=slow)) as vendor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await Process(vendor, wire, shared_redis).token()
        async with asyncio.timeout(1):
            await Process(vendor, wire, shared_redis).token()


async def test_a_dead_token_is_renewed_once_for_all(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
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
        assert await late.token() == new, "a newer token is left alone"


async def test_neither_token_nor_secret_lies_open_in_redis(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        token = await Process(vendor, wire, shared_redis).token()
        kept = await shared_redis.hgetall(KEYS.token("alpha"))
        assert token.encode() not in b"".join([*kept.keys(), *kept.values()])
        assert SECRET.encode() not in b"".join([*kept.keys(), *kept.values()])
        assert 3_590_000 < await shared_redis.pttl(KEYS.token("alpha")) <= 3_600_000


async def test_a_rotated_secret_ignores_what_the_old_one_left(wire: httpx.AsyncHTTPTransport, shared_redis: Redis):
    async with running(Vendor(ok)) as vendor:
        before = await Process(vendor, wire, shared_redis, secret="old").token()
        rotated = Process(vendor, wire, shared_redis, secret="new")
        assert await rotated.token() != before
        assert len(vendor.logins) == 2
        assert await Process(vendor, wire, shared_redis, secret="new").token() == await rotated.token()


async def test_what_was_sealed_for_one_client_opens_for_no_other_and_not_if_touched():
    seal = Seal(SecretStr(SECRET), ("platform", "alpha"))
    sealed = seal.seal("token", "1000")
    assert seal.open(sealed, "1000") == "token"
    assert seal.seal("token", "1000") != sealed
    assert seal.open(sealed, "9000") is None, "its life cannot be lengthened"
    assert Seal(SecretStr(SECRET), ("platform", "beta")).open(sealed, "1000") is None
    assert Seal(SecretStr("other"), ("platform", "alpha")).open(sealed, "1000") is None
    for broken in ("", "AAAA", "no base64!", sealed[:-8] + "AAAAAAA=", sealed[:20]):
        assert seal.open(broken, "1000") is None


async def test_a_refusal_is_known_to_all_and_spares_the_login_until_it_is_tried_again(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=401)

    async with running(Vendor(ok, login=refuse)) as vendor:
        with pytest.raises(LoginRefused, match="401 invalid_client;"):
            await Process(vendor, wire, shared_redis).token()
        told = Process(vendor, wire, shared_redis)
        with pytest.raises(
            LoginRefused, match=r"OAuth client alpha .* 401 invalid_client \(told to another process 0 s"
        ):
            await told.token()
        assert told.source.refusal is not None
        assert len(vendor.logins) == 1
        quota = Quota(shared_redis, KEYS.platform, {"alpha": 1}, QuotaPolicy(60, 60))
        (state,) = await quota.snapshot()
        assert (state.state, state.login_refused) == (ClientState.refused, True)

        vendor.login = None
        await Process(vendor, wire, shared_redis, secret="mended").token()
        (state,) = await quota.snapshot()
        assert (state.state, state.login_refused) == (ClientState.available, False)


async def test_a_login_that_fails_is_tried_again_by_one_process_at_a_time(
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
            process.pushed = 85
        assert {await each.token() for each in processes} == {old}
        assert len(vendor.logins) == 1 + 2, "one process made its two attempts"
        assert "OAuth client alpha keeps its token for now" in caplog.text


async def test_while_redis_is_away_each_process_logs_in_for_itself(
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
            second.pushed += 1.1
            third = Process(vendor, wire, client)
            await third.token()
            assert len(vendor.logins) == 4, "Redis came back empty"
            assert await second.token() == alone
            assert alone not in caplog.text
    finally:
        server.stop()


async def test_a_redis_that_hangs_delays_a_login_only_once(wire: httpx.AsyncHTTPTransport):
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


async def test_a_login_that_stays_down_is_told_to_everybody_within_the_lease(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    async def fail(_: Request) -> Response:
        return JSONResponse({}, status_code=500)

    async with running(Vendor(ok, login=fail)) as vendor:
        with pytest.raises(UpstreamFaulted):
            await Process(vendor, wire, shared_redis).token()
        waiting = Process(vendor, wire, shared_redis)
        waiter = asyncio.create_task(waiting.token())
        await asyncio.sleep(0.2)
        waiting.pushed = 11
        with pytest.raises(UpstreamFaulted):
            await waiter


async def test_the_age_of_the_shared_token_and_its_renewal_can_be_seen(
    wire: httpx.AsyncHTTPTransport, shared_redis: Redis
):
    quota = Quota(shared_redis, KEYS.platform, {"alpha": 1}, QuotaPolicy(60, 60))
    (state,) = await quota.snapshot()
    assert (state.token_age_s, state.token_life_s) == (None, None)
    async with running(Vendor(ok, expires_in=100)) as vendor:
        await Process(vendor, wire, shared_redis).token()
    await shared_redis.pexpire(KEYS.token("alpha"), 60_000)
    (state,) = await quota.snapshot()
    assert state.token_life_s == 100
    assert state.token_age_s == pytest.approx(40, abs=0.5)
    await shared_redis.set(KEYS.login("alpha"), "somebody", px=5000)
    assert (await quota.snapshot())[0].state is ClientState.refreshing


async def test_tokens_are_shared_through_a_node_of_a_redis_cluster(
    wire: httpx.AsyncHTTPTransport, cluster_redis: Redis
):
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
        quota = Quota(cluster_redis, KEYS.platform, {"alpha": 1, "beta": 1}, QuotaPolicy(60, 60))
        assert [each.login_refused for each in await quota.snapshot()] == [False, True]


async def test_an_answer_of_redis_decoded_to_text_serves_as_well(
    wire: httpx.AsyncHTTPTransport, redis_database: str, shared_redis: Redis
):
    async with running(Vendor(ok)) as vendor, Redis.from_url(redis_database, decode_responses=True) as decoding:
        assert await Process(vendor, wire, shared_redis).token() == await Process(vendor, wire, decoding).token()
