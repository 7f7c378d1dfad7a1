"""The API and its worker on a Redis Cluster, also after a primary is killed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from cache_pipeline.api.jobs.queue import open_queue
from cache_pipeline.settings import JobSettings, Settings
from cache_pipeline_tests.api.conftest import DAY, REPORT, Api, OpenApi
from cache_pipeline_tests.storage.redis.valkey_servers import ClusteredRedis, clustered_redis

pytestmark = pytest.mark.system

URL = f"/v1/reports/{REPORT.name}?interval="


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusteredRedis]:
    with clustered_redis(tmp_path) as servers:
        yield servers


@pytest.fixture
def redis_database(cluster: ClusteredRedis) -> str:
    """The URL of the cluster."""
    return cluster.url


async def is_ready(api: Api) -> bool:
    return all(each["ok"] for each in (await api.http.get("/readyz")).json()["dependencies"])


async def test_jobs_continue_after_a_primary_is_killed(open_api: OpenApi, cluster: ClusteredRedis):
    async with open_api() as api:
        api.start_worker()
        accepted = await api.http.get(URL + DAY)
        assert accepted.status_code == 202, accepted.text
        assert (await api.wait_until_finished(accepted.headers["Location"]))["state"] == "done"
        assert (await api.http.get(URL + DAY)).status_code == 200
        assert await is_ready(api)
        submits = await api.submits()
        with cluster.primaries[0].client() as client:
            stream = client.cluster("keyslot", "cache-pipeline-jobs")
        victim = cluster.owner(stream)
        replica = cluster.replica_of(victim)
        await asyncio.to_thread(victim.kill)
        again = await api.http.get(URL + DAY)
        assert again.status_code == 200
        await asyncio.to_thread(cluster.wait_until_promoted, replica)
        async with asyncio.timeout(30):
            while not await is_ready(api):  # noqa: ASYNC110 - the cluster changes it
                await asyncio.sleep(0.2)
        assert (await api.http.get(URL + DAY)).status_code == 200
        assert await api.submits() == submits
        accepted = await api.http.get(f"{URL}2026-01-03T00:00:00Z/P1D")
        assert accepted.status_code == 202, accepted.text
        assert (await api.wait_until_finished(accepted.headers["Location"], seconds=60))["state"] == "done"
        assert "cache_pipeline_requests_total" in (await api.http.get("/metrics")).text


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:planted@a.example.com:26379,b.example.com:26379/figures",
        "redis+cluster://:planted@a.example.com:6379,b.example.com:6379",
    ],
)
async def test_queue_names_all_servers_without_the_password(url: str):
    async with open_queue(Settings(jobs=JobSettings(queue_url=SecretStr(url)))) as queue:
        assert "planted" not in queue._kind.address  # pyright: ignore[reportAttributeAccessIssue]
        assert "b.example.com" in queue._kind.address  # pyright: ignore[reportAttributeAccessIssue]
