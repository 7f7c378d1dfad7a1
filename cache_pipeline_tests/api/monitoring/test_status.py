"""What whoever watches is told of workers, jobs, reports and stores, and that one of them away silences none of the others."""

import asyncio

import redis.asyncio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cache_pipeline.aio import run_in_background
from cache_pipeline.api.jobs.heartbeat import WorkerCounts, WorkerHeartbeats
from cache_pipeline_tests.api.conftest import DAY
from cache_pipeline_tests.deploy.rules import REPOSITORY

URL = f"/v1/reports/queue_hour?interval={DAY}"


async def told(api):
    """Every sample by name and label values."""
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("cache_pipeline_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_a_worker_that_falls_silent_is_missed_and_one_that_takes_leave_is_not(redis_database):
    async with redis.asyncio.Redis.from_url(redis_database) as client:
        presence = WorkerHeartbeats(client, lease_seconds=0.6)
        async with run_in_background(presence.heartbeat("stays")):
            async with run_in_background(presence.heartbeat("leaves"), presence.heartbeat("dies")):
                await asyncio.sleep(0.1)
                assert await presence.count() == WorkerCounts(alive=3, lost=0)
            await presence.deregister("leaves")
            async with asyncio.timeout(10):
                while await presence.count() != WorkerCounts(alive=1, lost=1):  # noqa: ASYNC110 - Redis is asked
                    await asyncio.sleep(0.05)


async def test_reports_and_jobs_are_told_as_they_stand(open_api):
    async with open_api() as api:
        before = await told(api)
        assert before["report_freshness_seconds", "queue_hour"] == 4 * 3600
        assert before["report_partition_seconds", "queue_hour"] == 86400
        assert ("report_age_seconds", "queue_hour") not in before
        missed = await api.http.get(URL)
        await asyncio.sleep(0.05)
        waiting = await told(api)
        assert waiting["queue_depth",] == 1
        assert waiting["queue_oldest_seconds",] > 0
        api.start_worker()
        await api.ended(missed.headers["Location"])
        await api.query_service.jobs.dead_letter_message(b"not a job", "it is no job's id")
        after = await told(api)
        assert after["report_age_seconds", "queue_hour"] == 0
        assert after["queue_oldest_seconds",] == 0
        assert after["dead_letters", "message"] == 1
        assert {after["dependency_up", each] for each in ("postgresql", "redis", "queue")} == {1}


async def test_datadog_is_told_of_every_metric_by_its_name(open_api):
    check = yaml.safe_load((REPOSITORY / "deploy" / "datadog" / "openmetrics.yaml").read_text())
    (instance,) = check["instances"]
    named = {name for each in instance["metrics"] for name in each}
    async with open_api() as api:
        answer = await api.http.get("/metrics")
    # Those of the edge are told where there is one.
    told = {family.name for family in text_string_to_metric_families(answer.text)}
    assert named - {"cache_pipeline_edge_behind_seconds"} == told - {"cache_pipeline_edge_behind_seconds"}


async def test_a_store_that_is_away_takes_only_its_own_metrics_with_it(open_api, monkeypatch):
    async def away(*_args, **_more):
        raise ConnectionError("postgresql://user:secret@host")

    async with open_api() as api:
        await api.http.get("/healthz")
        for part in ("ping", "counts"):
            monkeypatch.setattr(type(api.query_service.jobs), part, away)
        for part in ("freshness", "job_backlog"):
            monkeypatch.setattr(type(api.query_service.status_queries), part, away)
        found = await told(api)
        assert found["dependency_up", "postgresql"] == 0
        assert found["dependency_up", "redis"] == 1
        assert found["requests_total", "hit", "none"] >= 1
        assert ("workers", "alive") in found
        assert ("queue_depth",) not in found
