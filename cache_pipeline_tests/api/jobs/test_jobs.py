"""Jobs: order, leases, retries, dead letters, cancellation, shutdown and progress events."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from cache_pipeline.errors import QueueUnavailable
from cache_pipeline.query.lane import Lane, Priority
from cache_pipeline.settings import ApiSettings, JobSettings
from cache_pipeline.storage.ports.jobs import JobState, NewJob
from cache_pipeline_tests.api.conftest import DAY, REPORT
from cache_pipeline_tests.api.test_auth import create_key
from cache_pipeline_tests.query.declared import declared, with_changes

URL = f"/v1/reports/queue_hour?interval={DAY}"
LEASE = timedelta(seconds=30)
NOW = timedelta(0)


def new(name, tenant="default", lane=Lane.interactive):
    return NewJob(name, tenant, "queue_hour", {"interval": DAY}, lane, "anonymous")


async def resolved(value):
    return value


async def until(holds, seconds=20):
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - the condition depends on other processes
            await asyncio.sleep(0.05)


def hours(count):
    return [f"/v1/reports/queue_hour?interval=2026-01-05T{n:02}:00Z/2026-01-05T{n + 1:02}:00Z" for n in range(count)]


async def test_interactive_jobs_come_first_and_tenants_alternate(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        for number in range(3):
            await jobs.admit(new(f"backfill {number}", "large", Lane.backfill))
        for number in range(3):
            await jobs.admit(new(f"large {number}", "large"))
        await jobs.admit(new("small", "small"))
        order = [await jobs.claim("worker", LEASE, 3) for _ in range(7)]
        assert [job.lane for job in order] == [Lane.interactive] * 4 + [Lane.backfill] * 3
        assert [job.tenant for job in order[:2]] == ["large", "small"]
        assert await jobs.claim("worker", LEASE, 3) is None


async def test_keys_of_a_tenant_take_turns(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        for number in range(4):
            await jobs.admit(replace(new(f"wild {number}"), requested_by="wild"))
        await jobs.admit(replace(new("calm"), requested_by="calm"))
        await jobs.admit(replace(new("wild 3"), requested_by="third"))
        order = [await jobs.claim("worker", LEASE, 3) for _ in range(5)]
    # The last job of the wild key is wanted by another key too.
    assert [job.requested_by for job in order] == [
        ("wild",), ("wild", "third"), ("calm",), ("wild",), ("wild",)
    ]  # fmt: skip


async def test_jobs_of_busy_keys_alone_are_not_claimed(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        for name, key in (("wild", "wild"), ("both", "wild"), ("both", "calm")):
            await jobs.admit(replace(new(name), requested_by=key))
        claimed = [await jobs.claim("worker", LEASE, 3, busy_keys=["wild"]) for _ in range(2)]
        assert [job and job.requested_by for job in claimed] == [("wild", "calm"), None]
        assert (await jobs.claim("worker", LEASE, 3, busy_keys=["calm"])).requested_by == ("wild",)


async def test_long_jobs_of_one_key_leave_a_slot_to_another(open_api):
    settings = JobSettings(concurrency=2)
    async with open_api(vendor={"job_seconds_base": 3600.0}, api=ApiSettings(auth="keys"), jobs=settings) as api:
        wild, calm = await create_key(api), await create_key(api)
        *waiting, last = hours(5)
        for url in waiting:
            await api.http.get(url, headers=wild)
        api.start_worker()
        await until(api.submits)
        location = (await api.http.get(last, headers=calm)).headers["Location"]
        await until(lambda: is_running(api, location, calm))
        assert (await api.query_service.jobs.counts())[JobState.running] == 2


async def is_running(api, location, headers):
    return (await api.http.get(location, headers=headers)).json()["state"] == "running"


async def test_job_that_left_its_slot_runs_when_one_of_its_key_ends(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 3600.0)
    async with open_api(vendor={"job_seconds_base": 0.2}, jobs=JobSettings(concurrency=2)) as api:
        locations = [(await api.http.get(url)).headers["Location"] for url in hours(5)]
        api.start_worker()
        for location in locations:
            assert (await api.wait_until_finished(location))["state"] == "done"


async def test_interactive_caller_raises_priority_of_queued_backfill(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        first = await jobs.admit(new("same", lane=Lane.backfill))
        second = await jobs.admit(new("same", lane=Lane.interactive))
        assert (first.job.id, first.is_created, second.is_created) == (second.job.id, True, False)
        assert second.job.lane is Lane.interactive
        assert (await jobs.admit(new("same", lane=Lane.backfill))).job.lane is Lane.interactive


async def test_admission_reports_recent_outcome_and_position(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        await jobs.admit(new("first"))
        await jobs.finish(await jobs.claim("worker", LEASE, 3), {"type": "failed"})
        refused = await jobs.admit(new("first"), LEASE)
        assert (refused.job, refused.recent.problem) == (None, {"type": "failed"})
        again = await jobs.admit(new("first"))
        assert (again.is_created, again.recent, again.outlook.jobs_before) == (True, None, 0)
        assert again.outlook.jobs_per_second > 0
        urgent, later = await jobs.admit(new("urgent")), await jobs.admit(new("later", lane=Lane.backfill))
        assert (urgent.outlook.jobs_before, later.outlook.jobs_before) == (1, 2)
        assert await jobs.outlook(later.job) == later.outlook


async def test_dead_workers_job_is_claimed_and_fenced(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        await jobs.admit(new("job"))
        dead = await jobs.claim("dead", NOW, 3)
        alive = await jobs.claim("alive", LEASE, 3)
        assert (alive.id, alive.attempts) == (dead.id, 2)
        assert not await jobs.finish(dead)
        assert await jobs.renew_leases("dead", [dead.id], LEASE) == {}
        assert await jobs.claim("third", LEASE, 3) is None
        assert await jobs.finish(alive)
        assert (await jobs.get(alive.id, "default")).state is JobState.done


async def test_job_that_kills_workers_is_dead_lettered(open_api):
    async with open_api() as api:
        location = (await api.http.get(URL)).headers["Location"]
        for _ in range(3):
            assert await api.query_service.jobs.claim("dies", NOW, 3) is not None
        assert await api.query_service.jobs.claim("dies", NOW, 3) is None
        api.start_worker()
        job = await api.wait_until_finished(location)
        assert (job["state"], job["problem"]["type"]) == ("failed", "urn:cache-pipeline:problem:dead-lettered")
        assert await api.submits() == 0


async def test_job_of_slow_worker_is_not_dead_lettered_early(open_api):
    async with open_api() as api:
        jobs, problem = api.query_service.jobs, {"type": "dead-lettered"}
        await jobs.admit(new("job"))
        for _ in range(3):
            job = await jobs.claim("slow", NOW, 3)
        # Its lease has expired and no worker may claim it again, but the slow worker is still running it.
        assert await jobs.claim("another", LEASE, 3) is None
        assert await jobs.dead_letter_stale(3, problem, LEASE) == []
        assert await jobs.renew_leases("slow", [job.id], LEASE) == {job.id: job.priority}
        assert await jobs.finish(job)
        await jobs.admit(new("second"))
        for _ in range(3):
            await jobs.claim("dead", NOW, 3)
        assert len(await jobs.dead_letter_stale(3, problem, NOW)) == 1


async def test_renewed_lease_tells_who_joined_the_job(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        await jobs.admit(replace(new("shared", lane=Lane.backfill), requested_by="wild"))
        job = await jobs.claim("worker", LEASE, 3)
        await jobs.admit(replace(new("shared"), requested_by="modest"))
        joined = Priority(Lane.interactive, frozenset({"wild", "modest"}))
        assert await jobs.renew_leases("worker", [job.id], LEASE) == {job.id: joined}


async def test_message_without_job_id_is_dead_lettered(open_api, postgres_database):
    async with open_api() as api:
        for body in ("not a job", "6f1c2f7e-6f2b-4f0e-9a53-0f6f4f1b8a11"):
            await api.query_service.queue.publish(body)
        location = (await api.http.get(URL)).headers["Location"]
        api.start_worker()
        assert (await api.wait_until_finished(location))["state"] == "done"
        async with api.query_service.jobs._pool.connection() as connection:
            rows = await (await connection.execute("SELECT body FROM cache_pipeline_state.dead_letter")).fetchall()
        assert [bytes(row["body"]) for row in rows] == [b"not a job"]


async def test_job_with_lost_message_is_found_by_row(open_api, monkeypatch):
    async with open_api() as api:

        async def lost(_job_id):
            raise QueueUnavailable("unavailable")

        monkeypatch.setattr(api.query_service.queue, "publish", lost)
        monkeypatch.setattr("cache_pipeline.api.jobs.worker._LOST_AFTER", timedelta(0))
        location = (await api.http.get(URL)).headers["Location"]
        api.start_worker()
        assert (await api.wait_until_finished(location))["state"] == "done"


async def test_temporary_failure_is_retried_and_lasting_one_reported(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api() as api:
        # The day and its halves, down to one hour.
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 9})
        api.start_worker()
        assert (await api.http.get(URL, headers={"Prefer": "wait=20"})).status_code == 200
        await api.vendor.post("/simulator/faults", json={"fail_jobs": 100})
        other = await api.http.get(hours(1)[0])
        assert other.status_code == 200
        location = (await api.http.get("/v1/reports/queue_hour?interval=2026-01-02/2026-01-03")).headers["Location"]
        job = await api.wait_until_finished(location)
        assert (job["state"], job["problem"]["status"]) == ("failed", 502)
        # An equal query right afterwards receives the same error without another upstream query.
        submits = await api.submits()
        again = await api.http.get("/v1/reports/queue_hour?interval=2026-01-02/2026-01-03")
        assert (again.status_code, again.headers["Content-Type"]) == (502, "application/problem+json")
        assert await api.submits() == submits


async def test_submit_with_broken_response_is_repeated_once(open_api, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._FIRST_RETRY_SECONDS", 0.1)
    async with open_api() as api:
        await api.vendor.post("/simulator/faults", json={"resets": 1})
        api.start_worker()
        assert (await api.http.get(URL, headers={"Prefer": "wait=20"})).status_code == 200
        assert await api.submits() == 2


async def test_job_is_cancelled_once_no_caller_waits(open_api):
    async with open_api(api=ApiSettings(auth="keys")) as api:
        one, two = await create_key(api), await create_key(api)
        location = (await api.http.get(URL, headers=one)).headers["Location"]
        assert (await api.http.get(URL, headers=two)).headers["Location"] == location
        assert (await api.http.delete(location, headers=one)).json()["state"] == "queued"
        assert (await api.http.delete(location, headers=two)).json()["state"] == "cancelled"
        assert (await api.http.delete(location, headers=two)).json()["state"] == "cancelled"
        assert (await api.http.get(URL, headers=two)).headers["Location"] != location


async def test_cancelled_job_stops_running(open_api):
    async with open_api(vendor={"job_seconds_base": 3600.0}, jobs=JobSettings(lease_seconds=1)) as api:
        worker = api.start_worker()
        location = (await api.http.get(URL)).headers["Location"]
        await until(api.submits)
        assert (await api.http.delete(location)).json()["state"] == "cancelled"
        await until(lambda: resolved(not worker._slot_tasks))
        assert (await api.http.get(location)).json()["state"] == "cancelled"


#: A report of a vendor whose jobs can be cancelled.
CANCELLABLE = declared(
    platform="genesys",
    query_type="conversations",
    delivery="async",
    time_zone="UTC",
    group_by=["queueId"],
    metrics=["nOffered"],
    volume_metric="nOffered",
    expected_groups=8,
)


async def count_cancellations(api):
    """Return how many jobs were cancelled at the vendor."""
    calls = (await api.vendor.get("/simulator/counters")).json()["calls"]
    return sum(call["count"] for call in calls if call["call"].startswith("DELETE"))


async def is_submitted(api):
    return any(api.query_service.report_service.ledger.open_by_state().get(state) for state in ("submitted", "ready"))


async def test_cancelled_job_is_cancelled_at_vendor(open_api):
    async with open_api(CANCELLABLE, vendor={"job_seconds_base": 3600.0}, jobs=JobSettings(lease_seconds=1)) as api:
        worker = api.start_worker()
        location = (await api.http.get(URL)).headers["Location"]
        await until(lambda: is_submitted(api))
        await api.http.delete(location)
        await until(lambda: resolved(not worker._slot_tasks))
        assert await count_cancellations(api) == 1


@pytest.mark.parametrize("how", ["requeued", "claimed by another"])
async def test_job_continued_elsewhere_is_not_submitted_twice(open_api, how, monkeypatch):
    monkeypatch.setattr("cache_pipeline.api.jobs.worker._SWEEP_SECONDS", 0.1)
    async with open_api(CANCELLABLE, vendor={"job_seconds_base": 2.0}, jobs=JobSettings(lease_seconds=1)) as api:
        worker = api.start_worker(drain_seconds=0)
        location = (await api.http.get(URL)).headers["Location"]
        await until(lambda: is_submitted(api))
        if how == "claimed by another":
            async with api.query_service.jobs._pool.connection() as connection:
                await connection.execute("UPDATE cache_pipeline_state.job SET owner = 'another', attempts = 2")
            await until(lambda: resolved(not worker._slot_tasks))
        await api.stop_workers()
        api.start_worker("worker-2")
        assert (await api.wait_until_finished(location))["state"] == "done"
        assert (await api.submits(), await count_cancellations(api)) == (1, 0)


async def test_events_follow_job_from_queued_to_done(open_api):
    async with open_api() as api:
        location = (await api.http.get(URL)).headers["Location"]

        async def follow():
            answer = await api.http.get(f"{location}/events")
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        api.start_worker()
        async with asyncio.timeout(20):
            events = await following
        assert events[0]["state"] == "queued"
        assert events[-1]["state"] == "done"
        assert events[-1]["links"]["result"].startswith("/v1/reports/queue_hour?interval=")


async def test_stopping_worker_requeues_unfinished_job(open_api):
    async with open_api(vendor={"job_seconds_base": 3600.0}) as api:
        api.start_worker(drain_seconds=0.1)
        location = (await api.http.get(URL)).headers["Location"]
        await until(api.submits)
        await api.stop_workers()
        job = (await api.http.get(location)).json()
        assert job["state"] == "queued"
        claimed = await api.query_service.jobs.claim("next", LEASE, 3)
        assert claimed.attempts == 1


async def test_stopping_worker_finishes_short_job(open_api):
    async with open_api(vendor={"job_seconds_base": 0.5}) as api:
        api.start_worker()
        location = (await api.http.get(URL)).headers["Location"]
        await until(api.submits)
        await api.stop_workers()
        assert (await api.http.get(location)).json()["state"] == "done"


async def test_finished_job_is_answered_even_if_stale(open_api):
    fleeting = with_changes(REPORT, ttl=timedelta(milliseconds=1))
    today = "/v1/reports/queue_hour?interval=2026-01-06T10:00Z/2026-01-06T12:00Z"
    async with open_api(fleeting, vendor={"watermark_lag_seconds": 7200.0}) as api:
        api.start_worker()
        job = await api.wait_until_finished((await api.http.get(today)).headers["Location"])
        await api.redis.flushdb()
        answer = await api.http.get(job["links"]["result"])
        assert answer.status_code == 200


async def test_retry_after_follows_recent_job_durations(open_api):
    async with open_api() as api:
        jobs = api.query_service.jobs
        await jobs.admit(new("first"))
        job = await jobs.claim("worker", LEASE, 3)
        async with jobs._pool.connection() as connection:
            await connection.execute("UPDATE cache_pipeline_state.job SET started_at = now() - interval '40 seconds'")
        await jobs.finish(job)
        missed = await api.http.get(URL)
        assert 38 <= int(missed.headers["Retry-After"]) <= 45
