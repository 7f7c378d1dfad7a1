"""Two organisations of one vendor in one deployment: each has its own quota, tokens and rows, and figures never mix."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from cache_pipeline.bootstrap.accounts import connect_vendor, open_quotas
from cache_pipeline.bootstrap.database import migrate_history
from cache_pipeline.bootstrap.services import open_service
from cache_pipeline.fetch.partition_fetch import FailedPartition, FetchedPartition
from cache_pipeline.query.interval import Interval
from cache_pipeline.query.lane import Lane
from cache_pipeline.query.report import Report
from cache_pipeline.service.report_service import ReportService
from cache_pipeline.settings import ClientCredentials, Settings, VendorAccount
from cache_pipeline.simulator import SimulatorSettings, running_simulator
from cache_pipeline.upstream import polling
from cache_pipeline.upstream.polling import GuideSchedule
from cache_pipeline.upstream.quota.quota import Quota
from cache_pipeline_tests.query.declared import declared
from cache_pipeline_tests.world import SteppedClock

pytestmark = pytest.mark.serial

DAY = Interval.parse("2026-01-05T00:00:00Z/2026-01-06T00:00:00Z")
ACCOUNTS = ("emea", "apac")


def report_of(account: str) -> Report:
    return declared(
        name=f"calls_{account}",
        platform="genesys",
        account=account,
        query_type="conversations",
        time_zone="UTC",
        group_by=["queueId"],
        metrics=["nOffered"],
        volume_metric="nOffered",
        expected_groups=8,
    )


@dataclass
class Deployment:
    """One deployment and the simulated vendors of its two accounts."""

    settings: Settings
    service: ReportService
    vendors: dict[str, httpx.AsyncClient]

    async def fetch(self, account: str) -> None:
        report = report_of(account)
        async for event in self.service.fetch(report, {"day": DAY}, Lane.scheduled):
            if isinstance(event, FailedPartition):
                raise event.error
            if isinstance(event, FetchedPartition):
                await self.service.store(report, [event])

    def offered(self, account: str) -> int:
        report = report_of(account)
        service = self.service
        rows = service.history.rows(service.series(report), [DAY], service.columns(report)).to_table().to_pylist()
        return sum(row["n_offered"] for row in rows)

    async def truth(self, account: str) -> int:
        answer = await self.vendors[account].get("/simulator/truth", params={"interval": str(DAY)})
        return sum(row["offered"] for row in answer.json()["rows"])

    async def answered(self, account: str) -> int:
        calls = (await self.vendors[account].get("/simulator/counters")).json()["calls"]
        return sum(each["count"] for each in calls if each["client_id"] and "oauth" not in each["call"])


@pytest.fixture(params=["own clients", "equal client ids"])
async def deployment(
    request: pytest.FixtureRequest, postgres_database: str, redis_database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """Open two accounts whose centres differ; the ids of their clients may be equal, as two vendors' ids may."""
    monkeypatch.setattr(polling, "GuideSchedule", partial(GuideSchedule, first_seconds=0.01, max_seconds=0.05))
    clock = SteppedClock()
    with ExitStack() as servers:
        accounts: dict[str, VendorAccount] = {}
        vendors: dict[str, httpx.AsyncClient] = {}
        for number, name in enumerate(ACCOUNTS):
            client = "shared" if request.param == "equal client ids" else f"{name}-client"
            secret = SecretStr(f"secret of {name}")
            vendor = SimulatorSettings(
                seed=number,
                conversations_per_working_day=1000 * (number + 1),
                clients={client: secret},
                job_seconds_base=0,
                job_seconds_per_1000_cells=0,
                token_lifetime_seconds=10_000_000,
            )
            url = servers.enter_context(running_simulator(vendor, clock=clock))
            accounts[name] = VendorAccount(
                base_url=url,  # pyright: ignore[reportArgumentType]
                login_url=f"{url}/oauth/token",  # pyright: ignore[reportArgumentType]
                clients=(ClientCredentials(client_id=client, client_secret=secret),),
                rate_limit=100 * (number + 1),
            )
            vendors[name] = httpx.AsyncClient(base_url=url)
        settings = Settings(
            postgres_url=SecretStr(postgres_database),
            redis_url=SecretStr(redis_database),
            accounts={"genesys": accounts},
        )
        reports = {each.name: each for each in map(report_of, ACCOUNTS)}
        await asyncio.to_thread(migrate_history, settings, reports)
        async with open_service(settings) as service:
            yield Deployment(settings, replace(service, clock=clock), vendors)
        for each in vendors.values():
            await each.aclose()


async def test_rows_tokens_and_quota_of_two_accounts_never_mix(deployment: Deployment, redis_database: str) -> None:
    await asyncio.gather(*(deployment.fetch(account) for account in ACCOUNTS))
    truth = {account: await deployment.truth(account) for account in ACCOUNTS}
    assert {account: deployment.offered(account) for account in ACCOUNTS} == truth
    assert truth["apac"] > 1.5 * truth["emea"] > 0
    async with open_quotas(deployment.settings) as quotas:
        for number, account in enumerate(ACCOUNTS):
            policy, quota = quotas[f"genesys/{account}"]
            (client,) = await quota.snapshot()
            assert policy.limit == 100 * (number + 1)
            assert client.used == await deployment.answered(account)
            assert client.token_age_s is not None
    keys = {account: connect_vendor(deployment.settings, f"genesys/{account}").config.keys for account in ACCOUNTS}
    assert keys["emea"].scope != keys["apac"].scope
    async with Redis.from_url(redis_database) as redis:
        assert len([key async for key in redis.scan_iter("cache_pipeline:oauth:*:token:*")]) == 2


async def test_refusal_of_one_account_leaves_the_other_alone(deployment: Deployment) -> None:
    await deployment.vendors["emea"].post("/simulator/faults", json={"throttle": 1, "throttle_seconds": 30})
    waiting = asyncio.create_task(deployment.fetch("emea"))
    async with open_quotas(deployment.settings) as quotas:

        async def state(account: str) -> float:
            quota: Quota = quotas[f"genesys/{account}"][1]
            return (await quota.snapshot())[0].throttled_for_s

        async with asyncio.timeout(20):
            while await state("emea") == 0:  # noqa: ASYNC110 - Redis sends no event
                await asyncio.sleep(0.05)
        await deployment.fetch("apac")
        assert await state("emea") > 10
        assert await state("apac") == 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert deployment.offered("apac") == await deployment.truth("apac")
    assert deployment.offered("emea") == 0
