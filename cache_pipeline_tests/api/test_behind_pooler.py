"""Everything works behind a pooler that gives each transaction another session, such as PgBouncer in transaction mode."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_pipeline.query.interval import Interval
from cache_pipeline.settings import ApiSettings
from cache_pipeline_tests.api.conftest import DAY, OpenApi
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.storage.postgres.pgbouncer import pgbouncer
from cache_pipeline_tests.world import REPORT, OpenWorld, open_world

__all__ = ["open_world"]

MONTH = Interval.parse("2025-12-06T00:00:00Z/2026-01-05T00:00:00Z")
URL = f"/v1/reports/{REPORT.name}?interval="


@pytest.fixture
def postgres_database(postgres_database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a database for this test only, behind a pooler."""
    with pgbouncer(tmp_path / "pooler", postgres_database) as url:
        yield url


async def test_month_is_fetched_once_and_read_by_many_callers(open_world: OpenWorld):
    async with open_world() as world:
        month = await world.service.answer(REPORT, MONTH)
        assert sorted(json.loads(month.body)["rows"]) == await world.truth(REPORT, MONTH)
        submits = await world.submits()
        days = [Interval.parse(f"2025-12-{day:02}T00:00:00Z/P1D") for day in range(7, 31)]
        answers = await asyncio.gather(*(world.service.answer(REPORT, day) for day in days))
        assert sum(len(json.loads(answer.body)["rows"]) for answer in answers) > 24 * 24
        assert await world.submits() == submits


async def test_api_answers_from_jobs_and_history(open_api: OpenApi):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        api.http.headers.update(await create_key(api))
        api.start_worker()
        accepted = await api.http.get(URL + str(MONTH))
        assert accepted.status_code == 202, accepted.text
        assert (await api.wait_until_finished(accepted.headers["Location"]))["state"] == "done"
        intervals = [DAY.replace("05", f"{day:02}", 1).replace("06", f"{day + 1:02}", 1) for day in range(1, 4)] * 8
        answers = await asyncio.gather(*(api.http.get(URL + interval) for interval in intervals))
        assert {answer.status_code for answer in answers} == {200}
        for path in ("/v1/reports", "/readyz", "/metrics"):
            assert (await api.http.get(path)).status_code == 200
