"""When PostgreSQL fails over to its standby, fetches and the API continue without a restart."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from cache_pipeline.bootstrap.clock import utc_now
from cache_pipeline.check_result import CheckStatus
from cache_pipeline.doctor.databases import check_postgres
from cache_pipeline.errors import HistoryUnavailable
from cache_pipeline.query.interval import Interval
from cache_pipeline.storage.answer import Answer
from cache_pipeline_tests.api.conftest import DAY, OpenApi
from cache_pipeline_tests.storage.postgres.postgres_servers import ReplicatedPostgres, replicated_postgres
from cache_pipeline_tests.world import REPORT, OpenWorld, World, open_world

__all__ = ["open_world"]

pytestmark = pytest.mark.system

FIRST, SECOND = Interval.parse("2026-01-03T00:00:00Z/P1D"), Interval.parse("2026-01-04T00:00:00Z/P1D")
URL = f"/v1/reports/{REPORT.name}?interval="


@pytest.fixture
def replicated() -> Iterator[ReplicatedPostgres]:
    with replicated_postgres() as servers:
        yield servers


@pytest.fixture
def postgres_database(replicated: ReplicatedPostgres) -> str:
    """The URL that names the primary and its standby."""
    return replicated.url


async def answer_when_available(world: World, interval: Interval) -> Answer:
    """Answer a query; while PostgreSQL is away, the error is retryable."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await world.service.answer(REPORT, interval)
            except HistoryUnavailable:
                await asyncio.sleep(0.2)


async def test_fetches_continue_on_the_standby(open_world: OpenWorld, replicated: ReplicatedPostgres):
    async with open_world() as world:
        await world.service.answer(REPORT, FIRST)
        submits = await world.submits()
        await asyncio.to_thread(replicated.fail_over)
        again = await answer_when_available(world, FIRST)
        assert sorted(json.loads(again.body)["rows"]) == await world.truth(REPORT, FIRST)
        assert await world.submits() == submits
        fresh = await answer_when_available(world, SECOND)
        assert sorted(json.loads(fresh.body)["rows"]) == await world.truth(REPORT, SECOND)


async def test_api_and_worker_continue_on_the_standby(open_api: OpenApi, replicated: ReplicatedPostgres):
    async with open_api() as api:
        api.start_worker()
        accepted = await api.http.get(URL + str(FIRST))
        await api.wait_until_finished(accepted.headers["Location"], seconds=60)
        await asyncio.to_thread(replicated.fail_over)
        async with asyncio.timeout(60):
            while (accepted := await api.http.get(URL + DAY)).status_code == 503:
                assert "Retry-After" in accepted.headers
                await asyncio.sleep(0.2)
            while (await api.http.get("/readyz")).status_code == 503:  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.2)
        assert accepted.status_code == 202, accepted.text
        assert (await api.wait_until_finished(accepted.headers["Location"], seconds=60))["state"] == "done"


async def test_standby_alone_is_not_healthy(replicated: ReplicatedPostgres):
    (found,) = await check_postgres(replicated.standby.url, list, 0, utc_now)
    assert found.status is CheckStatus.failed
    assert "standby" in found.detail
    assert "target_session_attrs" in found.remedy
