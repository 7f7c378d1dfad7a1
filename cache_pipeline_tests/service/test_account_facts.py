"""The limits and the retention that a vendor reports about an account: read once a day, and kept to."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from cache_pipeline.account_upkeep import refresh_account_facts
from cache_pipeline.bootstrap.accounts import connect_vendor, open_quotas
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.redis_connection import open_redis
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream.fact_store import FactStore
from cache_pipeline_tests.query.declared import declared

REPORT = declared(platform="genesys", query_type="conversations", metrics=["nOffered"], volume_metric=None)


@pytest.fixture
def vendor(request: pytest.FixtureRequest) -> Iterator[str]:
    settings: dict[str, Any] = getattr(request, "param", {})
    with running_simulator(SimulatorSettings(**settings)) as url:
        yield url


@pytest.fixture
def settings(vendor: str, postgres_database: str, redis_database: str) -> Settings:
    return settings_of(vendor, postgres_database, redis_database)


def settings_of(url: str, postgres: str, redis: str, **changes: Any) -> Settings:
    account = VendorAccount.model_validate(
        {
            "base_url": url,
            "login_url": f"{url}/oauth/token",
            "clients": (ClientCredentials(client_id="demo-client", client_secret=SecretStr("demo-secret")),),
            **changes,
        }
    )
    return Settings(
        postgres_url=SecretStr(postgres), redis_url=SecretStr(redis), accounts={"genesys": {"main": account}}
    )


def asked(url: str) -> int:
    calls = httpx.get(f"{url}/simulator/counters").json()["calls"]
    return sum(each["count"] for each in calls if "limits" in each["call"] or "dataretention" in each["call"])


TOLD = {"genesys_rate_limit": 120, "genesys_concurrent_jobs": 3, "genesys_submits_per_second": 2, "retention_days": 400}


@pytest.mark.parametrize("vendor", [TOLD], indirect=True)
async def test_reported_limits_and_retention_are_kept_to(settings: Settings, vendor: str) -> None:
    facts = (await refresh_account_facts(settings))["genesys/main"]
    assert facts.retention_days == 400
    assert await refresh_account_facts(settings) == {}, "once a day"
    assert asked(vendor) == 3
    async with open_quotas(settings) as quotas:
        limits = await quotas["genesys/main"][1].shared_limits()
    assert {(each.name, each.counts, each.limit) for each in limits} == {
        ("client.credentials.token.rate.per.minute", "demo-client", 120),
        ("details.jobs.concurrent.access.max", "jobs", 3),
        ("details.jobs.rate.per.second", "details jobs", 2),
    }
    async with open_service(settings) as service:
        limit = service.retention_limit(REPORT)
        assert limit is not None
        assert limit.since == pytest.approx(service.clock() - timedelta(days=400), abs=timedelta(minutes=1))


@pytest.mark.parametrize("vendor", [TOLD], indirect=True)
async def test_declared_retention_precedes_the_reported_one(
    vendor: str, postgres_database: str, redis_database: str
) -> None:
    settings = settings_of(vendor, postgres_database, redis_database, retention_days=90)
    await refresh_account_facts(settings)
    async with open_service(settings) as service:
        assert service.retention == {"genesys/main": timedelta(days=90)}


@pytest.mark.parametrize(
    "vendor",
    [{}, TOLD | {"client_permissions": {"demo-client": frozenset({"analytics:userDetail:view"})}}],
    ids=["not found", "forbidden"],
    indirect=True,
)
async def test_what_the_vendor_does_not_tell_is_left_out(settings: Settings) -> None:
    facts = (await refresh_account_facts(settings))["genesys/main"]
    assert facts.retention_days is None
    assert facts.limits
    async with open_service(settings) as service:
        assert service.retention == {}


@pytest.mark.parametrize("body", [{"entities": "many"}, "maintenance", [], {"status": 500, "code": "internal"}])
async def test_unreadable_answer_leaves_what_is_known(
    settings: Settings, vendor: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, body: object
) -> None:
    caplog.set_level(logging.INFO)
    await refresh_account_facts(settings)
    async with open_redis(settings.required_redis_url()) as redis:
        store = FactStore(redis, connect_vendor(settings, "genesys/main").config.keys)
        await store.store_retention(400)
        await redis.delete(store.keys.facts_read)

        async def answer(*_: object, **__: object) -> httpx.Response:
            return httpx.Response(200, json=body, request=httpx.Request("GET", vendor))

        monkeypatch.setattr(httpx.AsyncClient, "get", answer)
        assert await refresh_account_facts(settings) == {}
        assert await store.retention_days() == 400
    assert "its limits could not be read" in caplog.text


async def test_vendor_that_cannot_be_reached_is_no_failure(
    postgres_database: str, redis_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = settings_of("http://127.0.0.1:9", postgres_database, redis_database)
    assert await refresh_account_facts(settings) == {}
    assert "its limits could not be read" in caplog.text
