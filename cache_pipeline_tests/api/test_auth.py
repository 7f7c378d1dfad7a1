"""API keys: access without a key, the limits of a key, and revocation."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import psycopg

from cache_pipeline.api.auth import ApiKeyCache
from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.lane import Lane
from cache_pipeline.settings import ApiSettings
from cache_pipeline.storage.ports.api_keys import Principal
from cache_pipeline.storage.redis.counters import RedisRequestCounts
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.query.declared import declared

URL = f"/v1/reports/queue_hour?interval={DAY}"
KEYS = ApiSettings(auth="keys")
OTHER = declared(name="other_hour", time_zone="UTC", group_by=["queueId"], metrics=["offered"])


async def create_key(
    api, tenant="default", reports=None, lane=Lane.interactive, requests_per_minute=None, **limits: Any
):
    narrowed = frozenset(reports) if reports else None
    principal = Principal("", tenant, narrowed, lane, requests_per_minute, **limits)
    return {"Authorization": "Bearer " + await api.query_service.api_keys._store.create("test", principal)}


async def test_request_without_valid_key_is_refused(open_api):
    async with open_api(api=KEYS) as api:
        good = (await create_key(api))["Authorization"]
        key_id = good.split("_")[1]
        bad = [
            {},
            {"Authorization": "Bearer nonsense"},
            {"Authorization": "Basic " + good.split()[1]},
            {"Authorization": f"Bearer cp_{key_id}_wrong"},
            {"Authorization": "Bearer cp_000000000000_" + good.split("_", 2)[2]},
            {"X-API-Key": good + "x"},
            {"X-API-Key": "cp_é_x".encode()},
        ]
        for headers in bad:
            for url in (URL, "/v1/reports", "/v1/quota", "/v1/jobs/6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"):
                answer = await api.http.get(url, headers=headers)
                assert answer.status_code == 401, headers
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert answer.headers["Content-Type"] == "application/problem+json"
        assert sum((await api.query_service.jobs.counts()).values()) == 0
        assert (await api.http.get(URL, headers={"Authorization": good})).status_code == 202
        assert (await api.http.get(URL, headers={"X-API-Key": good.split()[1]})).status_code == 202
        assert (await api.http.get("/healthz")).status_code == 200


async def test_key_is_stored_only_as_hash(open_api, postgres_database):
    async with open_api(api=KEYS) as api:
        secret = (await create_key(api))["Authorization"].split("_", 2)[2]
    with psycopg.connect(postgres_database) as connection:
        rows = connection.execute("SELECT api_key::text FROM cache_pipeline_state.api_key").fetchall()
    assert len(rows) == 1
    assert secret not in rows[0][0]


async def test_job_of_another_tenant_is_not_found(open_api):
    async with open_api(api=KEYS) as api:
        ours, theirs = await create_key(api, tenant="ours"), await create_key(api, tenant="theirs")
        job = (await api.http.get(URL, headers=ours)).headers["Location"]
        assert (await api.http.get(job, headers=ours)).status_code == 200
        for method, url in (("GET", job), ("GET", f"{job}/events"), ("DELETE", job)):
            assert (await api.http.request(method, url, headers=theirs)).status_code == 404
        assert (await api.http.get(job, headers=ours)).json()["state"] == "queued"
        assert (await api.http.get(URL, headers=theirs)).headers["Location"] != job


async def test_key_can_query_only_its_reports(open_api):
    async with open_api(REPORT, OTHER, api=KEYS) as api:
        narrow, every = await create_key(api, reports=["other_hour"]), await create_key(api)
        assert (await api.http.get(URL, headers=narrow)).status_code == 403
        assert [each["name"] for each in (await api.http.get("/v1/reports", headers=narrow)).json()["reports"]] == [
            "other_hour"
        ]
        unknown = await api.http.get(f"/v1/reports/nothing?interval={DAY}", headers=narrow)
        assert "queue_hour" not in unknown.text
        job = (await api.http.get(URL, headers=every)).headers["Location"]
        assert (await api.http.get(job, headers=narrow)).status_code == 404


async def test_key_is_limited_to_its_requests_per_minute(open_api):
    async with open_api(api=KEYS) as api:
        headers = await create_key(api, requests_per_minute=3)
        answers = [await api.http.get("/v1/reports", headers=headers) for _ in range(5)]
        # If a minute ends between the requests, the count starts again, and one more request may pass.
        codes = [answer.status_code for answer in answers]
        assert codes in ([200, 200, 200, 429, 429], [200] * 4 + [429], [200] * 5)
        if codes[-1] == 429:
            assert 1 <= int(answers[-1].headers["Retry-After"]) <= 61
            assert answers[-1].headers["Content-Type"] == "application/problem+json"


async def test_requests_count_over_all_processes(open_api):
    async with open_api() as api:
        first = api.query_service.rate_limiter
        second = type(first)(RedisRequestCounts(api.redis), 10, now=lambda: 1_000_000.0)
        first = type(first)(RedisRequestCounts(api.redis), 10, now=lambda: 1_000_000.0)
        caller = Principal("key", "default", None, Lane.interactive)
        for _ in range(6):
            first.take(caller)
        await first.flush()
        second.take(caller)
        await second.flush()
        assert second.take(caller).remaining == 10 - 8


class SlowStore:
    """Knows no key, and counts how often it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[int] = []
        self.error = error

    async def find(self, keys: Sequence[str]) -> list[Principal | None]:
        self.asked.append(len(keys))
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return [None] * len(keys)


async def test_unknown_keys_are_looked_up_together():
    """A flood of them must not take all connections to the store."""
    store = SlowStore()
    cache = ApiKeyCache(cast(Any, store))
    keys = [f"cp_{number:012x}_{'a' * 43}" for number in range(200)]
    assert set(await asyncio.gather(*map(cache.find, keys))) == {None}
    assert sum(store.asked) == 200
    assert len(store.asked) <= 3


async def test_every_caller_learns_that_keys_cannot_be_looked_up():
    cache = ApiKeyCache(cast(Any, SlowStore(HistoryUnavailable("down"))))
    keys = [f"cp_{number:012x}_{'a' * 43}" for number in range(20)]
    cancelled = asyncio.create_task(cache.find(keys[0]))
    others = [asyncio.create_task(cache.find(key)) for key in keys]
    await asyncio.sleep(0)
    cancelled.cancel()
    found = await asyncio.gather(*others, return_exceptions=True)
    assert all(isinstance(each, HistoryUnavailable) for each in found)


async def test_revoked_key_is_refused_within_seconds(open_api):
    async with open_api(api=KEYS) as api:
        now = 0.0
        cache = ApiKeyCache(api.query_service.api_keys._store, lambda: now)
        key = (await create_key(api))["Authorization"].split()[1]
        principal = await cache.find(key)
        assert principal is not None
        assert await api.query_service.api_keys._store.revoke(principal.id)
        now = 6.0
        assert await cache.find(key) is None
        assert not await api.query_service.api_keys._store.revoke(principal.id)


async def test_refused_keys_fill_no_memory(open_api):
    async with open_api(api=KEYS) as api:
        good, cache = await create_key(api), api.query_service.api_keys
        assert (await api.http.get("/v1/reports", headers=good)).status_code == 200
        for number in range(20):
            for length, status in ((20_000, 401), (250_000, 431)):
                bogus = {"Authorization": f"Bearer cp_{number:012x}_{'x' * length}"}
                assert (await api.http.get("/v1/reports", headers=bogus)).status_code == status
        assert len(cache._refused) == 0
        for number in range(300):
            assert await cache.find(f"cp_{number:012x}_{'x' * 43}") is None
        assert len(cache._refused) == 256
        assert len(cache._valid) == 1
        assert all(len(each) == 32 for each in [*cache._refused, *cache._valid])


async def test_long_urls_are_not_remembered(open_api):
    async with open_api() as api:
        values = ",".join(f'"q{number}"' for number in range(500))
        filters = f'{{"predicates":[{{"dimension":"queueId","values":[{values}]}}]}}'
        assert (
            await api.http.get("/v1/reports/queue_hour", params={"interval": DAY, "filters": filters})
        ).status_code == 202
        assert (await api.http.get(URL)).status_code == 202
        assert [len(url[3]) < 1000 for url in api.query_service.parse_cache._entries] == [True]
