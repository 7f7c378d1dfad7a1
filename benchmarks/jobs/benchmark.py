"""`jobs`: 1,000 different jobs through RabbitMQ to four workers, one of them killed; counts lost jobs and repeated queries."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from benchmarks.api import targets
from benchmarks.api.benchmark import servers_with_report
from benchmarks.api.servers import ChildProcess, run_in_process
from benchmarks.jobs.rabbitmq import rabbitmq
from benchmarks.result import BenchmarkError, ProgressCallback, Result, Row, Target
from cache_pipeline.settings import ApiSettings, JobSettings, Settings
from cache_pipeline.simulator import SimulatorSettings
from cache_pipeline.storage.ports.jobs import JobState
from cache_pipeline.storage.postgres.async_pool import connection_pool
from cache_pipeline.storage.postgres.jobs import PostgresJobStore
from cache_pipeline.storage.postgres.status_queries import PostgresStatusQueries

_JOBS = 1000
_WORKERS = 4
_CONCURRENCY = 50
_TIMEOUT_SECONDS = 900.0
_FIRST = datetime(2026, 1, 2, tzinfo=UTC)
#: Jobs per second that the guide's quota allows one OAuth client (G17, less the reserve), at three requests a job.
_GUIDE_JOBS_PER_SECOND = 57 / 60 / 3
#: Vendors have no idempotency key, so a query may repeat if its worker was killed before its acceptance was recorded.
_RECORDED_HANDLES = """
    SELECT count(*) AS answers, count(DISTINCT interval) AS queries FROM cache_pipeline_state.upstream_query
    WHERE handle IS NOT NULL
"""


def measure(progress: ProgressCallback) -> Result:
    """Run the benchmark.

    Raises:
        BenchmarkError: A request was not answered with 202, or the jobs did not end in time.
    """
    simulated = SimulatorSettings(job_seconds_base=1.0, reportdata_rate_limit=1_000_000)
    with ExitStack() as stack:
        servers = stack.enter_context(servers_with_report(simulated, progress))
        broker = stack.enter_context(rabbitmq(servers.folder / "rabbitmq"))
        settings = servers.settings.model_copy(
            update={
                "api": ApiSettings(auth="off", requests_per_minute=10_000_000),
                "jobs": JobSettings(queue_url=SecretStr(broker), concurrency=_CONCURRENCY),
            }
        )
        api = stack.enter_context(run_in_process(targets.api, settings))
        workers = [stack.enter_context(run_in_process(targets.worker, settings)) for _ in range(_WORKERS)]
        return asyncio.run(_run(progress, settings, api.message, servers.vendor, workers))


async def _run(
    progress: ProgressCallback, settings: Settings, url: str, vendor: str, workers: list[ChildProcess]
) -> Result:
    progress(f"queueing {_JOBS} jobs")
    started = time.perf_counter()
    slots = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, httpx.AsyncClient(base_url=vendor) as admin:

        async def enqueue(number: int) -> None:
            start = _FIRST + timedelta(hours=number)
            interval = quote(f"{start.isoformat()}/{(start + timedelta(hours=1)).isoformat()}", safe="/:")
            async with slots:
                answer = await http.get(f"/v1/reports/queue_hour?interval={interval}")
            if answer.status_code != 202:
                raise BenchmarkError(f"a request for a job was answered with {answer.status_code}: {answer.text[:200]}")

        await asyncio.gather(*(enqueue(number) for number in range(_JOBS)))
        async with connection_pool(settings.required_postgres_url(), 1) as pool:
            jobs = PostgresJobStore(pool)
            await _wait_for_ended_jobs(jobs, _JOBS // 4, progress)
            os.kill(workers[0].pid, signal.SIGKILL)
            counts = await _wait_for_ended_jobs(jobs, _JOBS, progress)
            took = time.perf_counter() - started
            for kind, count in (await PostgresStatusQueries(pool).job_backlog()).failed.items():
                progress(f"{count} jobs failed: {kind}")
            async with pool.connection() as connection:
                [recorded] = await (await connection.execute(_RECORDED_HANDLES)).fetchall()
        submits = (await admin.get("/simulator/counters")).json()["summary"]["submits"]
    return Result(
        "jobs",
        (
            Row(
                f"{_JOBS} jobs, {_WORKERS} workers, one killed: lost",
                _JOBS - counts[JobState.done],
                "jobs",
                target=Target("ours", "=", 0),
            ),
            Row(
                "queries repeated after their acceptance was recorded",
                recorded["answers"] - recorded["queries"],
                "queries",
                target=Target("ours", "=", 0),
            ),
            Row(
                "queries repeated because the kill came before their acceptance was recorded",
                submits - recorded["answers"],
                "queries",
            ),
            Row(
                "jobs per second, beside what one OAuth client's quota allows (G17)",
                round(_JOBS / took, 1),
                "jobs/s",
                limit=None,
                peers={"one client's quota": round(_GUIDE_JOBS_PER_SECOND, 2)},
            ),
        ),
    )


async def _wait_for_ended_jobs(jobs: PostgresJobStore, ended: int, progress: ProgressCallback) -> dict[JobState, int]:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        counts = await jobs.counts()
        over = sum(count for state, count in counts.items() if state.is_finished)
        progress(f"{over} of {_JOBS} jobs have ended")
        if over >= ended:
            return counts
        if time.monotonic() > deadline:
            raise BenchmarkError(f"only {over} of {ended} jobs ended within {_TIMEOUT_SECONDS:.0f} s")
        await asyncio.sleep(0.5)
