"""Metrics on workers, jobs, reports and stores; an unavailable store hides only its own metrics."""

import asyncio

import redis.asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cache_pipeline.aio import run_in_background
from cache_pipeline.storage.ports.workers import WorkerCounts
from cache_pipeline.storage.redis.heartbeats import RedisWorkerHeartbeats
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.deploy.rules import REPOSITORY

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def scrape(api):
    """Return every sample by name and label values."""
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("cache_pipeline_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_silent_worker_is_lost_and_deregistered_one_is_not(redis_database):
    async with redis.asyncio.Redis.from_url(redis_database) as client:
        heartbeats = RedisWorkerHeartbeats(client, lease_seconds=0.6)
        async with run_in_background(heartbeats.heartbeat("lives")):
            async with run_in_background(heartbeats.heartbeat("deregisters"), heartbeats.heartbeat("dies")):
                await asyncio.sleep(0.1)
                assert await heartbeats.count() == WorkerCounts(alive=3, lost=0)
            await heartbeats.deregister("deregisters")
            async with asyncio.timeout(10):
                while await heartbeats.count() != WorkerCounts(alive=1, lost=1):  # noqa: ASYNC110 - Redis decides
                    await asyncio.sleep(0.05)


async def test_metrics_follow_reports_and_jobs(open_api):
    async with open_api() as api:
        before = await scrape(api)
        assert before["report_freshness_seconds", "queue_hour"] == 4 * 3600
        assert before["report_partition_seconds", "queue_hour"] == 86400
        assert ("report_age_seconds", "queue_hour") not in before
        missed = await api.http.get(URL)
        await asyncio.sleep(0.05)
        waiting = await scrape(api)
        assert waiting["queue_depth",] == 1
        assert waiting["queue_oldest_seconds",] > 0
        api.start_worker()
        await api.wait_until_finished(missed.headers["Location"])
        await api.query_service.jobs.dead_letter_message(b"not a job", "not the id of a job")
        after = await scrape(api)
        assert after["report_age_seconds", "queue_hour"] == 0
        assert after["queue_oldest_seconds",] == 0
        assert after["dead_letters", "message"] == 1
        assert {after["dependency_up", each] for each in ("postgresql", "redis", "queue")} == {1}


async def test_datadog_configuration_names_every_metric(open_api):
    check = yaml.safe_load((REPOSITORY / "deploy" / "datadog" / "openmetrics.yaml").read_text())
    (instance,) = check["instances"]
    named = {name for each in instance["metrics"] for name in each}
    async with open_api() as api:
        answer = await api.http.get("/metrics")
    # Metrics of the edge store exist only if there is one.
    exposed = {family.name for family in text_string_to_metric_families(answer.text)}
    assert named - {"cache_pipeline_edge_behind_seconds"} == exposed - {"cache_pipeline_edge_behind_seconds"}


async def test_unavailable_store_hides_only_its_own_metrics(open_api, monkeypatch):
    async def unavailable(*_args, **_more):
        raise ConnectionError("postgresql://user:secret@host")

    async with open_api() as api:
        await api.http.get("/healthz")
        for part in ("ping", "counts"):
            monkeypatch.setattr(type(api.query_service.jobs), part, unavailable)
        for part in ("freshness", "job_backlog"):
            monkeypatch.setattr(type(api.query_service.status_queries), part, unavailable)
        found = await scrape(api)
        assert found["dependency_up", "postgresql"] == 0
        assert found["dependency_up", "redis"] == 1
        assert found["requests_total", "hit", "none"] >= 1
        assert ("workers", "alive") in found
        assert ("queue_depth",) not in found
